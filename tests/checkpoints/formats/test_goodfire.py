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
from tests.helpers.drawn import X, check, draw

DEEPSEEK = "DeepSeek-R1-Distill-Llama-8B-SAE-l19"


def write(path: Path, suffix: str = "", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    w = {
        f"encoder{suffix}.weight": draw(10, 6), f"encoder{suffix}.bias": draw(10),
        f"decoder{suffix}.weight": draw(6, 10, seed=1), f"decoder{suffix}.bias": draw(6),
    }  # fmt: skip
    stored = {name: tensor.to(dtype) for name, tensor in w.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(stored, path)
    return {name.replace(suffix + ".", "."): tensor.float() for name, tensor in stored.items()}


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
