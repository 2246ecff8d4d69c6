"""Goodfire's and qresearch's releases: two ``nn.Linear``, ReLU, no pre-bias."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from tests.helpers.drawn import X, check
from tests.helpers.releases.goodfire import DEEPSEEK, write


def forward(w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    latents = torch.relu(X @ w["encoder.weight"].T + w["encoder.bias"])
    return latents, latents @ w["decoder.weight"].T + w["decoder.bias"]


def test_goodfire(tmp_path: Path) -> None:
    path = tmp_path / "Llama-3.1-8B-Instruct-SAE-l19.pth"
    w = write(path, "_linear")
    sae = load(path)
    check(sae, *forward(w))
    assert sae.b_pre is None
    assert declare(path) == Declaration("Llama-3.1-8B-Instruct", "blocks.19.hook_resid_post")
    assert sae.source.declared["hook_name"] == "blocks.19.hook_resid_post"


def test_goodfire_under_another_name(tmp_path: Path) -> None:
    write(tmp_path / "sae.pth", "_linear")
    assert "hook_name" not in load(tmp_path / "sae.pth").source.declared


@pytest.mark.parametrize(
    "name", [f"{DEEPSEEK}.pt", f"{DEEPSEEK}/sae.pth", f"models--qresearch--{DEEPSEEK}/sae.pt"]
)
def test_trap_half_precision_deepseek_weights_are_computed_in_float32(
    tmp_path: Path, name: str
) -> None:
    w = write(tmp_path / name, dtype=torch.bfloat16)
    sae = load(tmp_path / name)
    check(sae, *forward(w))
    assert sae.source.format == "DeepSeek-R1"
    assert declare(tmp_path / name) == Declaration(
        "DeepSeek-R1-Distill-Llama-8B", "blocks.19.hook_resid_post"
    )


def test_trap_the_keys_of_two_linear_layers_are_ambiguous_without_the_name(tmp_path: Path) -> None:
    write(tmp_path / "sae.pt")
    with pytest.raises(LoadError, match="is ambiguous; decide in the spec"):
        load(tmp_path / "sae.pt")


def test_an_option_may_not_contradict_the_release(tmp_path: Path) -> None:
    write(tmp_path / f"{DEEPSEEK}.pt")
    with pytest.raises(LoadError, match="says pre_bias False"):
        load(tmp_path / f"{DEEPSEEK}.pt", SaeOptions(pre_bias=True))
