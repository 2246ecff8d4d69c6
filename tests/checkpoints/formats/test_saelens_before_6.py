"""SAELens 1–5 folders: the same SAEs under flat configs, and the traps of their age."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from tests.helpers.checkpoint_files import example_sae, tensors_of
from tests.helpers.saelens_before_6_files import write

X = torch.linspace(-3, 4, 24).view(4, 6)


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


def test_trap_a_log_threshold_is_read_as_its_exponential(tmp_path: Path) -> None:
    folder = write(tmp_path, "jumprelu", 5)
    tensors = tensors_of(example_sae("jumprelu"))
    tensors["log_threshold"] = tensors.pop("threshold").log()
    save_file(tensors, folder / "sae_weights.safetensors")
    expected = example_sae("jumprelu")(X).reconstruction
    torch.testing.assert_close(load(folder)(X).reconstruction, expected)


FACTOR = torch.linspace(0.5, 1.5, 10)


def finetuned() -> Tensor:
    sae = example_sae()
    f = torch.relu((X - sae.b_dec) @ sae.W_enc + sae.b_enc)
    return (f * FACTOR) @ sae.W_dec + sae.b_dec


@pytest.mark.parametrize(
    ("era", "name", "flag"),
    [
        (5, "finetuning_scaling_factor", {"finetuning_scaling_factor": True}),
        (5, "scaling_factor", {"finetuning_scaling_factor": True}),
        (2, "scaling_factor", {}),
    ],
)
def test_trap_a_finetuned_factor_is_applied_by_the_decoder(
    tmp_path: Path, era: int, name: str, flag: dict[str, Any]
) -> None:
    sae = load(write(tmp_path, "standard", era, tensors={name: FACTOR}, **flag))
    torch.testing.assert_close(sae(X).reconstruction, finetuned())
    torch.testing.assert_close(sae(X).latents, example_sae()(X).latents)
    assert sae.identity["latent_scale"] is True


def test_a_factor_of_ones_is_left_out(tmp_path: Path) -> None:
    ones = {"finetuning_scaling_factor": torch.ones(10)}
    sae = load(write(tmp_path, "standard", 5, tensors=ones))
    assert sae.latent_scale is None


def test_trap_tanh_relu_is_not_relu(tmp_path: Path) -> None:
    sae = load(write(tmp_path, "standard", 5, activation_fn_str="tanh-relu"))
    expected = example_sae()(X).latents.tanh()
    torch.testing.assert_close(sae(X).latents, expected)
    torch.testing.assert_close(
        sae(X).reconstruction, expected @ example_sae().W_dec + example_sae().b_dec
    )
    old = load(write(tmp_path / "2", "standard", 2, activation_fn="tanh-relu"))
    assert old.identity["architecture"] == sae.identity["architecture"] == "tanh_relu"


@pytest.mark.parametrize(
    ("architecture", "era", "changes", "message", "contract"),
    [
        (
            "jumprelu", 5, {"activation_fn_str": "tanh-relu"}, "'tanh-relu' with {} in a jumprelu",
            "activation",
        ),
        (
            "topk", 5, {"activation_fn_kwargs": {"k": 3, "postact_fn": "tanh"}}, "'postact_fn'",
            "activation",
        ),
        ("topk", 5, {"activation_fn_kwargs": ["k"]}, "'topk' with ['k']", "activation"),
        ("standard", 5, {"architecture": "topk"}, "activation function 'relu'", "activation"),
        ("standard", 5, {"architecture": "tanh_relu"}, "function 'relu'", "activation"),
        ("standard", 5, {"architecture": "transcoder"}, "is 'transcoder'", "activation"),
        ("standard", 5, {"architecture": ["standard"]}, "is ['standard']", "activation"),
        ("standard", 5, {"hook_head_index": 2}, "hook_head_index is 2", "readable"),
        ("standard", 2, {"hook_point_head_index": 2}, "hook_head_index is 2", "readable"),
        ("standard", 2, {"normalize_activations": True}, "sae.scale: folded", "scale"),
        (
            "standard", 5, {"normalize_activations": "expected_average_only_in"},
            "sae.scale: the factor", "scale",
        ),
        ("standard", 5, {"normalize_activations": ["none"]}, "is ['none']", "activation"),
        (
            "gated", 5, {"normalize_activations": "layer_norm"}, "allowed: 'none'",
            "activation",
        ),
        ("standard", 5, {"d_in": 7}, "d_in is 7", "shapes"),
        (
            "standard", 5, {"tensors": {"finetuning_scaling_factor": FACTOR}},
            "between 0.5 and 1.5, but the config has finetuning_scaling_factor false", "scale",
        ),
        (
            "standard", 5, {"finetuning_scaling_factor": True},
            "finetuning_scaling_factor is True in the config, and the weights have: none", "keys",
        ),
        (
            "standard", 2, {"tensors": {"finetuning_scaling_factor": FACTOR}},
            "weights have: finetuning_scaling_factor, scaling_factor", "keys",
        ),
        ("standard", 2, {"tensors": {"scaling_factor": FACTOR[:9]}}, "[9], expected", "shapes"),
        ("standard", 2, {"tensors": {"latent_scale": FACTOR}}, "latent_scale", "keys"),
    ],
)  # fmt: skip
def test_traps(
    tmp_path: Path,
    architecture: str,
    era: int,
    changes: dict[str, Any],
    message: str,
    contract: str,
) -> None:
    with pytest.raises(LoadError) as caught:
        load(write(tmp_path, architecture, era, **changes))
    assert message in str(caught.value)
    assert caught.value.contract == contract


def test_trap_a_scale_that_is_not_stored_has_to_be_said(tmp_path: Path) -> None:
    folder = write(tmp_path, "standard", 2, normalize_activations=True)
    folded = load(folder, SaeOptions(scale="folded"))
    assert torch.equal(folded(X).reconstruction, example_sae()(X).reconstruction)
    reconstruction = load(folder, SaeOptions(scale=0.5))(X).reconstruction
    torch.testing.assert_close(reconstruction, example_sae()(X * 0.5).reconstruction / 0.5)


def test_trap_a_run_of_version_5_in_progress_keeps_its_scale_beside_it(tmp_path: Path) -> None:
    folder = write(tmp_path, "standard", 5, normalize_activations="expected_average_only_in")
    state = {"estimated_norm_scaling_factor": torch.tensor(0.5)}
    save_file(state, folder / "activations_store_state.safetensors")
    expected = example_sae()(X * 0.5).reconstruction / 0.5
    torch.testing.assert_close(load(folder)(X).reconstruction, expected)


def test_the_layer_is_put_into_the_hook_point(tmp_path: Path) -> None:
    identity = load(write(tmp_path, "standard", 2)).identity
    assert identity["hook_name"] == "blocks.8.hook_resid_pre"
