"""``sae-guard`` and its commands that need no history: schema, formats, inspect, cache."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sae_guard.cache import DEFAULT_BYTES, Cache
from sae_guard.checkpoints.formats import FORMATS
from sae_guard.cli import main
from sae_guard.demo import SAES
from sae_guard.specs import json_schema
from tests.helpers.checkpoint_files import example_sae, tensors_of

SCHEMA = Path(__file__).parents[2] / "docs" / "reference" / "spec.schema.json"


def test_schema_prints_the_schema_that_is_in_docs() -> None:
    result = CliRunner().invoke(main, ["schema"])
    assert result.exit_code == 0
    assert json.loads(result.output) == json_schema()
    assert SCHEMA.read_text(encoding="utf-8") == result.output


def test_help_and_version_are_printed() -> None:
    assert "pytest --sae CHECKPOINT" in CliRunner().invoke(main, ["--help"]).output
    assert "sae-guard, version" in CliRunner().invoke(main, ["--version"]).output
    assert CliRunner().invoke(main, ["measur"]).exit_code == 2


def test_formats_prints_the_table_that_is_in_docs() -> None:
    result = CliRunner().invoke(main, ["formats"])
    assert result.exit_code == 0
    page = (SCHEMA.parent / "formats.md").read_text(encoding="utf-8")
    assert page.endswith(result.output)
    assert all(row.name in page for row in FORMATS)


def test_inspect_prints_format_activation_and_hashes() -> None:
    result = CliRunner().invoke(main, ["inspect", str(SAES / "v1")])
    assert result.exit_code == 0
    rows = {
        line.split("  ")[0]: line.split("  ")[-1].strip() for line in result.output.splitlines()
    }
    assert rows["format"] == "SAELens 6"
    assert rows["activation"] == "topk, k = 16"
    assert rows["pre_bias"] == "true"
    weights = (SAES / "v1" / "sae_weights.safetensors").read_bytes()
    assert rows["sae_weights.safetensors"] == f"sha256 {sha256(weights).hexdigest()}"
    assert rows["gated at"] == "sae-guard-demo, blocks.2.hook_resid_post"


def test_inspect_prints_warnings_and_assumptions(tmp_path: Path) -> None:
    sae = example_sae("jumprelu")
    halves = {name: t.bfloat16() for name, t in tensors_of(sae).items()}
    torch.save(halves, tmp_path / "sae.pt")
    options = ["--pre-bias", "--normalize", "none"]
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "sae.pt"), *options])
    assert "WARNING" in result.output
    assert "decoder rows have norms" in result.output
    assert "thresholds are stored in bfloat16" in result.output
    arrays = {name: t.numpy() for name, t in tensors_of(sae).items()}
    np.savez(tmp_path / "params.npz", allow_pickle=False, **arrays)
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "params.npz")])
    assert "assumed" in result.output
    assert "b_dec is not taken off the input" in result.output


def test_inspect_refuses_an_ambiguous_checkpoint_with_the_reason(tmp_path: Path) -> None:
    torch.save(tensors_of(example_sae()), tmp_path / "sae.pt")
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "sae.pt")])
    assert result.exit_code == 1
    assert "is ambiguous; decide in the spec:" in result.output
    assert "sae.architecture: standard or topk" in result.output


def description(name: str, *, sequences: int = 512, context: int = 128) -> dict[str, Any]:
    """Return a description of an entry, as the engine writes it."""
    return {
        "model": {"name": name, "revision": None, "processing": "raw", "dtype": "float32"},
        "corpus": {"n_sequences": sequences, "context": context, "sha256": "0" * 64},
    }


def fill(root: Path, descriptions: list[dict[str, Any]]) -> int:
    """Write entries of some 40,000 bytes, last used in this order; return the size of the cache."""
    cache = Cache(root)
    for number, description in enumerate(descriptions):
        entry = cache.entry(f"{number:08x}{number:08x}", description)
        entry.write("a", {"x": torch.zeros(10_000)})
        os.utime(entry.folder / "entry.json", (1_700_000_000 + number,) * 2)
    return sum(stored.bytes for stored in cache.entries())


def test_cache_lists_entries_most_recently_used_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = fill(
        tmp_path / "c", [description("gpt2"), description("google/gemma-2-2b", context=1024)]
    )
    monkeypatch.setenv("SAE_GUARD_CACHE", str(tmp_path / "c"))
    result = CliRunner().invoke(main, ["cache"])
    assert result.exit_code == 0
    first, titles, *rows = result.output.splitlines()
    share = f"{used / DEFAULT_BYTES:.0%}"
    assert first == f"{tmp_path / 'c'}: {used / 1024:.1f} KiB of 20.0 GiB ({share}), 2 entries"
    assert len(rows) == 2
    assert "google/gemma-2-2b, float32, raw  " in rows[0]
    assert rows[0].endswith("  512 × 1024  00000001")
    assert rows[1].endswith("   512 × 128  00000000")
    assert all(row.startswith("39.") and "KiB  2023-11-1" in row for row in rows)
    assert titles.index("model") == rows[0].index("google") == rows[1].index("gpt2")
    monkeypatch.setenv("SAE_GUARD_CACHE", "off")
    result = CliRunner().invoke(main, ["cache"])
    assert result.exit_code == 1
    assert "the cache is off ($SAE_GUARD_CACHE); name one with --folder" in result.output


def test_cache_fits_any_description_into_100_columns(tmp_path: Path) -> None:
    odd = [
        {},
        {"model": 7, "corpus": ["a"]},
        {"model": {"name": None}, "corpus": {"context": 128}},
        description("/home/someone/\x1b[31m\n/" + "deep/" * 60 + "checkpoint-12000"),
        description("\x1b[31m\n", sequences=4096, context=1024),
    ]
    fill(tmp_path / "c", odd)
    result = CliRunner().invoke(main, ["cache", "--folder", str(tmp_path / "c")])
    assert result.exit_code == 0
    _, titles, *rows = result.output.splitlines()
    assert len(rows) == len(odd)
    assert "  ?[31m?, float32, raw  " in rows[0]
    assert "deep/checkpoint-12000, float32, raw  " in rows[1]
    assert "? × 128" in rows[2]
    assert "?, ?, ?" in rows[4]
    assert max(map(len, [titles, *rows])) <= 100


def test_cache_clear_removes_all_entries_and_prints_their_size(tmp_path: Path) -> None:
    used = fill(tmp_path / "c", [description("gpt2")] * 3)
    folder = ["--folder", str(tmp_path / "c")]
    result = CliRunner().invoke(main, ["cache", "--clear", *folder])
    assert result.output == f"removed {used / 1024:.1f} KiB from {tmp_path / 'c'}\n"
    result = CliRunner().invoke(main, ["cache", *folder])
    assert result.output == f"{tmp_path / 'c'}: 0 B of 20.0 GiB (0%), 0 entries\n"


def test_cache_clear_refuses_a_folder_that_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "sae.pt").write_text("a release")
    for options in ([], ["--clear"]):
        result = CliRunner().invoke(main, ["cache", "--folder", str(tmp_path), *options])
        assert result.exit_code == 1
        assert f"{tmp_path} is not a cache: it has files" in result.output
    assert (tmp_path / "v1" / "sae.pt").read_text() == "a release"
    result = CliRunner().invoke(main, ["cache", "--clear", "--folder", str(tmp_path / "none")])
    assert result.exit_code == 0
    assert "removed 0 B" in result.output
