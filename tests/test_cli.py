"""The command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner

from sae_guard.checkpoints.load import FAMILIES
from sae_guard.cli import main
from sae_guard.demo import SAES
from sae_guard.spec import json_schema
from tests.checkpoint_files import example_sae, tensors_of

SCHEMA = Path(__file__).parents[1] / "docs" / "spec.schema.json"


def test_schema_prints_the_schema_and_the_file_in_docs_is_that() -> None:
    result = CliRunner().invoke(main, ["schema"])
    assert result.exit_code == 0
    assert json.loads(result.output) == json_schema()
    assert SCHEMA.read_text(encoding="utf-8") == result.output


def test_help_and_version() -> None:
    assert "pytest --sae CHECKPOINT" in CliRunner().invoke(main, ["--help"]).output
    assert "sae-guard, version" in CliRunner().invoke(main, ["--version"]).output
    assert CliRunner().invoke(main, ["measur"]).exit_code == 2


def test_formats_are_those_of_the_page_in_docs() -> None:
    result = CliRunner().invoke(main, ["formats"])
    assert result.exit_code == 0
    page = (SCHEMA.parent / "formats.md").read_text(encoding="utf-8")
    assert page.endswith(result.output)
    assert all(family.name in page for family in FAMILIES)


def test_inspect_says_what_was_recognised() -> None:
    result = CliRunner().invoke(main, ["inspect", str(SAES / "v1")])
    assert result.exit_code == 0
    rows = {
        line.split("  ")[0]: line.split("  ")[-1].strip() for line in result.output.splitlines()
    }
    assert rows["format"] == "SAELens 6"
    assert rows["activation"] == "topk, k = 16"
    assert rows["pre_bias"] == "true"
    assert rows["sae_weights.safetensors"].startswith("sha256 959104d4")
    assert rows["gated at"] == "sae-guard-demo, blocks.2.hook_resid_post"


def test_inspect_warns_and_names_assumptions(tmp_path: Path) -> None:
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


def test_inspect_refuses_with_the_reason(tmp_path: Path) -> None:
    torch.save(tensors_of(example_sae()), tmp_path / "sae.pt")
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "sae.pt")])
    assert result.exit_code == 1
    assert "is ambiguous; decide in the spec:" in result.output
    assert "sae.architecture (--sae-arch): standard or topk" in result.output
