"""SAELens 1–5 folders: the same SAEs under flat configs, and the traps of their age."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from tests.checkpoint_files import example_sae, tensors_of

X = torch.linspace(-3, 4, 24).view(4, 6)


def write(folder: Path, architecture: str, era: int, /, **changes: Any) -> Path:
    """A folder of SAELens 5 or 2."""
    sae = example_sae(architecture)
    shared = {"model_name": "gpt2-small", "d_in": 6, "d_sae": 10, "dtype": "torch.float32"}
    if era == 5:
        config = {
            **shared,
            "architecture": "standard" if architecture == "topk" else architecture,
            "activation_fn_str": "topk" if architecture == "topk" else "relu",
            "activation_fn_kwargs": {"k": 3} if architecture == "topk" else {},
            "apply_b_dec_to_input": True,
            "finetuning_scaling_factor": False,
            "hook_name": "blocks.8.hook_resid_pre",
            "hook_head_index": None,
            "normalize_activations": "none",
            "prepend_bos": True,
        }
    else:
        config = {
            **shared,
            "hook_point": "blocks.{layer}.hook_resid_pre",
            "hook_point_layer": 8,
            "hook_point_head_index": None,
            "normalize_activations": False,
            "l1_coefficient": 8e-5,  # the config of the whole run
        }
    tensors = tensors_of(sae)
    if era == 2:
        tensors["scaling_factor"] = torch.ones(10)
    extra = changes.pop("tensors", {})
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({**config, **changes}))
    save_file({**tensors, **extra}, folder / "sae_weights.safetensors")
    return folder


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated"])
def test_version_5(tmp_path: Path, architecture: str) -> None:
    sae = load(write(tmp_path, architecture, 5))
    assert torch.equal(sae(X).reconstruction, example_sae(architecture)(X).reconstruction)
    assert sae.source.format == "SAELens 3–5"
    assert sae.identity["prepend_bos"] is True


def test_version_2(tmp_path: Path) -> None:
    sae = load(write(tmp_path, "standard", 2))
    assert torch.equal(sae(X).reconstruction, example_sae()(X).reconstruction)
    assert sae.source.format == "SAELens 1–2"
    assert declare(tmp_path) == Declaration("gpt2-small", "blocks.8.hook_resid_pre")


def test_a_log_threshold_is_read_as_its_exponential(tmp_path: Path) -> None:
    folder = write(tmp_path, "jumprelu", 5)
    tensors = tensors_of(example_sae("jumprelu"))
    tensors["log_threshold"] = tensors.pop("threshold").log()
    save_file(tensors, folder / "sae_weights.safetensors")
    expected = example_sae("jumprelu")(X).reconstruction
    torch.testing.assert_close(load(folder)(X).reconstruction, expected)


@pytest.mark.parametrize(
    ("architecture", "era", "changes", "message"),
    [
        ("standard", 5, {"activation_fn_str": "tanh-relu"}, "activation function 'tanh-relu'"),
        ("topk", 5, {"activation_fn_kwargs": {"k": 3, "postact_fn": "tanh"}}, "'postact_fn'"),
        ("standard", 5, {"architecture": "topk"}, "activation function 'relu'"),
        ("standard", 5, {"hook_head_index": 2}, "hook_head_index is 2"),
        ("standard", 2, {"hook_point_head_index": 2}, "hook_head_index is 2"),
        ("standard", 2, {"normalize_activations": True}, "'expected_average_only_in'"),
        ("standard", 5, {"normalize_activations": "expected_average_only_in"}, "normalize: none"),
        ("gated", 5, {"normalize_activations": "layer_norm"}, "changed what it computes"),
        ("standard", 5, {"d_in": 7}, "d_in is 7"),
        (
            "standard",
            2,
            {"tensors": {"scaling_factor": torch.full((10,), 1.5)}},
            "scaling_factor lies between 1.5 and 1.5",
        ),
    ],
)
def test_traps(
    tmp_path: Path, architecture: str, era: int, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LoadError) as caught:
        load(write(tmp_path, architecture, era, **changes))
    assert message in str(caught.value)


def test_a_scale_that_is_not_stored_has_to_be_said_as_folded(tmp_path: Path) -> None:
    folder = write(tmp_path, "standard", 2, normalize_activations=True)
    sae = load(folder, SaeOptions(normalize="none"))
    assert torch.equal(sae(X).reconstruction, example_sae()(X).reconstruction)
