"""What declares of a checkpoint is the first format that recognises its files, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.errors import LoadError


def test_a_bare_file_declares_nothing_and_no_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sae.pt").write_bytes(b"")
    assert declare(tmp_path / "sae.pt") == Declaration()
    assert declare(tmp_path) == Declaration()
    with pytest.raises(LoadError, match="no such checkpoint"):
        declare(tmp_path / "gone")


@pytest.mark.parametrize(
    ("config", "declared"),
    [
        ({"hook_point_in": "a", "hook_point": "b"}, Declaration(None, "a")),  # OpenMOSS
        ({"trainer": {"lm_name": "m", "layer": 3}, "model_name": "other"},
         Declaration("m", "blocks.3.hook_resid_post")),  # dictionary_learning
        ({"model_name": "m", "hook_point": "b"}, Declaration("m", "b")),  # none that is known
    ],
)  # fmt: skip
def test_the_first_format_that_recognises_the_config_declares(
    tmp_path: Path, config: dict[str, Any], declared: Declaration
) -> None:
    (tmp_path / "ae.pt").write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert declare(tmp_path) == declared


@pytest.mark.parametrize(
    ("weights", "config_file"),
    [("layer_3.safetensors", "config.yaml"), ("params.safetensors", "config.json")],
)
def test_weights_of_an_own_name_declare_before_any_config_does(
    tmp_path: Path, weights: str, config_file: str
) -> None:
    (tmp_path / weights).write_bytes(b"")
    config = {"hook_point_in": "a", "trainer": {"lm_name": "m"}, "model_name": "own"}
    (tmp_path / config_file).write_text(json.dumps(config))
    assert declare(tmp_path / weights).hook is None


def test_an_unreadable_config_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ae.pt").write_bytes(b"")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(LoadError, match=r"config.json: unreadable config: "):
        declare(tmp_path)
