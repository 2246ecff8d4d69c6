"""Qwen Scope: SAELens's names with the matrices the other way round, and k in the folder's name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from tests.helpers.drawn import X, check, topk
from tests.helpers.releases.qwen_scope import FOLDER, write


@pytest.mark.parametrize("d_sae", [10, 6])
@pytest.mark.parametrize("folder", [FOLDER, f"models--Qwen--{FOLDER}/snapshots/ab"])
def test_equals_the_forward_pass(tmp_path: Path, folder: str, d_sae: int) -> None:
    w = write(tmp_path / folder, d_sae=d_sae)
    path = tmp_path / folder / "layer3.sae.pt"
    latents = topk(torch.relu(X @ w["W_enc"].T + w["b_enc"]))
    sae = load(path)
    check(sae, latents, latents @ w["W_dec"].T + w["b_dec"])
    assert declare(path) == Declaration("Qwen3-1.7B-Base", "blocks.3.hook_resid_post")
    assert sae.source.declared["hook_name"] == "blocks.3.hook_resid_post"


def test_trap_no_pre_bias(tmp_path: Path) -> None:
    write(tmp_path / FOLDER)
    assert load(tmp_path / FOLDER / "layer3.sae.pt").b_pre is None
    with pytest.raises(LoadError, match="says pre_bias False"):
        load(tmp_path / FOLDER / "layer3.sae.pt", SaeOptions(pre_bias=True))


def test_trap_k_stands_only_in_the_name_of_the_repository(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere")
    path = tmp_path / "elsewhere" / "layer3.sae.pt"
    with pytest.raises(LoadError, match=r"is ambiguous; decide in the spec:\n  sae\.k: "):
        load(path)
    assert load(path, SaeOptions(k=2)).identity["k"] == 2
    assert declare(path) == Declaration()


def test_an_option_may_not_contradict_the_folder(tmp_path: Path) -> None:
    write(tmp_path / FOLDER)
    with pytest.raises(LoadError, match="says k 2, the `sae` options say 3"):
        load(tmp_path / FOLDER / "layer3.sae.pt", SaeOptions(k=3))


def test_trap_the_matrices_of_a_file_of_that_name_may_lie_as_saelens_has_them(
    tmp_path: Path,
) -> None:
    w = write(tmp_path / FOLDER)
    path = tmp_path / FOLDER / "layer3.sae.pt"
    latents = topk(torch.relu(X @ w["W_enc"].T + w["b_enc"]))
    turned = {n: t.T.contiguous() if t.ndim == 2 else t for n, t in w.items()}
    torch.save(turned, path)
    sae = load(path)
    check(sae, latents, latents @ w["W_dec"].T + w["b_dec"])
    assert any("W_enc lies as [6, 10]" in text for text in sae.source.assumptions)


def test_trap_the_same_keys_under_another_name_are_ambiguous(tmp_path: Path) -> None:
    w = write(tmp_path / FOLDER, name="sae.pt")
    path = tmp_path / FOLDER / "sae.pt"
    with pytest.raises(LoadError, match="is ambiguous; decide in the spec"):
        load(path)
    options = SaeOptions(architecture="topk", k=2, pre_bias=False, normalize="none")
    latents = topk(torch.relu(X @ w["W_enc"].T + w["b_enc"]))
    check(load(path, options), latents, latents @ w["W_dec"].T + w["b_dec"])


def test_sites_other_than_the_residual_are_not_declared(tmp_path: Path) -> None:
    folder = tmp_path / "SAE-Mlp-Qwen3-8B-Base-W64K-L0_2"
    write(folder)
    assert declare(folder / "layer3.sae.pt") == Declaration("Qwen3-8B-Base")
