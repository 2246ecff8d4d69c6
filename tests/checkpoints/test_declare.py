"""What checkpoints say of their model and hook point, by config and by path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.errors import LoadError
from tests.helpers.checkpoint_files import config_of, example_sae, write_saelens


def test_saelens(tmp_path: Path) -> None:
    folder = write_saelens(tmp_path, example_sae())
    assert declare(folder) == Declaration("gpt2", "blocks.1.hook_resid_post")
    (folder / "cfg.json").write_text(
        json.dumps(config_of(example_sae(), metadata={"hook_name": 8}))
    )
    with pytest.raises(LoadError, match="hook_name is 8"):
        declare(folder)


@pytest.mark.parametrize(
    ("trainer", "buffer", "hook"),
    [
        ({"layer": 3}, {}, "blocks.3.hook_resid_post"),
        ({"layer": 3, "submodule_name": "resid_post_layer_3"}, {}, "blocks.3.hook_resid_post"),
        ({"layer": 3, "submodule_name": None}, {"io": "out"}, "blocks.3.hook_resid_post"),
        ({"layer": 3, "submodule_name": "mlp3"}, {}, None),
        ({"layer": 3}, {"io": "in"}, None),
        ({}, {}, None),
        ({"layer": "3"}, {}, None),
    ],
)
def test_dictionary_learning(
    tmp_path: Path, trainer: dict[str, Any], buffer: dict[str, Any], hook: str | None
) -> None:
    (tmp_path / "ae.pt").write_bytes(b"")
    config = {"trainer": {"lm_name": "pythia", **trainer}, "buffer": buffer}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert declare(tmp_path) == Declaration("pythia", hook)


@pytest.mark.parametrize(
    ("folder", "hook"),
    [
        ("layers.10", "blocks.10.hook_resid_post"),
        ("h.3", "blocks.3.hook_resid_post"),
        ("layers.3.mlp", "blocks.3.hook_mlp_out"),
        ("layers.3.self_attn", "blocks.3.hook_attn_out"),
        ("layers.10/seed1", "blocks.10.hook_resid_post"),
        ("embed_tokens", None),
    ],
)
def test_sparsify(tmp_path: Path, folder: str, hook: str | None) -> None:
    path = tmp_path / "run" / folder
    path.mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text('{"model": "HuggingFaceTB/SmolLM2-135M"}')
    (path / "cfg.json").write_text("{}")
    (path / "sae.safetensors").write_bytes(b"")
    assert declare(path) == Declaration("HuggingFaceTB/SmolLM2-135M", hook)


@pytest.mark.parametrize(
    ("folder", "model", "hook"),
    [
        ("gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82", "gemma-2-2b",
         "blocks.12.hook_resid_post"),
        ("models--google--gemma-scope-9b-it-mlp/snapshots/ab/layer_20/w/l0", "gemma-2-9b-it",
         "blocks.20.hook_mlp_out"),
        ("gemma-scope-2b-pt-att/layer_3/w/l0", "gemma-2-2b", "blocks.3.attn.hook_z"),
        ("elsewhere/layer_3", None, None),
    ],
)  # fmt: skip
def test_gemma_scope(tmp_path: Path, folder: str, model: str | None, hook: str | None) -> None:
    path = tmp_path / folder
    path.mkdir(parents=True)
    (path / "params.npz").write_bytes(b"")
    assert declare(path) == Declaration(model, hook)


def test_a_bare_file_declares_nothing_and_no_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sae.pt").write_bytes(b"")
    assert declare(tmp_path / "sae.pt") == Declaration()
    with pytest.raises(LoadError, match="no such checkpoint"):
        declare(tmp_path / "gone")
