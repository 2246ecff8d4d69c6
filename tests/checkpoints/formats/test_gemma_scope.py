"""Gemma Scope: SAEs, transcoders and embedding SAEs, which only their path tells apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from tests.helpers.drawn import X, check, jumprelu
from tests.helpers.releases.gemma_scope import write


@pytest.mark.parametrize("lower", [False, True])
def test_equals_the_forward_pass(tmp_path: Path, lower: bool) -> None:
    w = write(tmp_path, lower=lower)
    latents = jumprelu(X @ w["W_enc"] + w["b_enc"], w["threshold"])
    sae = load(tmp_path)
    check(sae, latents, latents @ w["W_dec"] + w["b_dec"])
    assert not sae.transcoder
    assert "an SAE and no transcoder, as nothing in the path says otherwise" in (
        sae.source.assumptions
    )


def test_trap_no_pre_bias_whatever_the_names_suggest(tmp_path: Path) -> None:
    write(tmp_path)
    assert load(tmp_path).b_pre is None
    with pytest.raises(LoadError, match="says pre_bias False"):
        load(tmp_path, SaeOptions(pre_bias=True))


@pytest.mark.parametrize(
    "folder",
    [
        "gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_54",
        "models--google--gemma-scope-2b-pt-transcoders/snapshots/ab/layer_3/width_16k/average_l0_5",
    ],
)
def test_trap_a_transcoder_of_the_same_keys_is_told_by_its_repository(
    tmp_path: Path, folder: str
) -> None:
    w = write(tmp_path / folder)
    latents = jumprelu(X @ w["W_enc"] + w["b_enc"], w["threshold"])
    sae = load(tmp_path / folder)
    check(sae, latents, latents @ w["W_dec"] + w["b_dec"])
    assert sae.transcoder
    assert sae.source.declared["hook_name_out"] == "blocks.3.hook_mlp_out"
    assert declare(tmp_path / folder) == Declaration("gemma-2-2b", None, "blocks.3.hook_mlp_out")


def test_a_transcoder_may_write_another_width(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_3"
    write(folder, d_out=7)
    assert load(folder)(X).reconstruction.shape == (2, 5, 7)


@pytest.mark.parametrize("name", ["transcoders-and-saes", "my-embedding-runs", "embedding"])
def test_trap_a_folder_that_contains_the_words_is_an_sae(tmp_path: Path, name: str) -> None:
    write(tmp_path / name / "layer_3")
    sae = load(tmp_path / name / "layer_3")
    assert not sae.transcoder
    assert sae.scale_in == 1


@pytest.mark.parametrize(
    "folder",
    [
        "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6",
        "models--google--gemma-scope-2b-pt-res/snapshots/ab/embedding/width_4k/average_l0_6",
        "elsewhere/embedding/width_4k/average_l0_6",
    ],
)
def test_trap_embedding_saes_are_scaled_by_the_root_of_the_width(
    tmp_path: Path, folder: str
) -> None:
    w = write(tmp_path / folder)
    root = 6**0.5
    latents = jumprelu(X @ (w["W_enc"] / root) + w["b_enc"], w["threshold"])
    sae = load(tmp_path / folder)
    check(sae, latents, latents @ (w["W_dec"] * root) + w["b_dec"])
    assert torch.equal(sae.W_enc, w["W_enc"])  # never folded
    assert torch.equal(sae.W_dec, w["W_dec"])
    assert declare(tmp_path / folder).hook == "hook_embed"


def test_trap_a_link_into_the_cache_does_not_hide_the_path(tmp_path: Path) -> None:
    blobs = tmp_path / "models--google--gemma-scope-2b-pt-res" / "blobs"
    folder = blobs.parent / "snapshots" / "ab" / "embedding" / "width_4k" / "average_l0_6"
    write(blobs)
    folder.mkdir(parents=True)
    (folder / "params.npz").symlink_to(blobs / "params.npz")
    for path in (folder, folder / "params.npz"):
        assert load(path).latent_scale is not None
        assert declare(path) == Declaration("gemma-2-2b", "hook_embed")


def test_trap_a_threshold_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    w = write(tmp_path)
    arrays = {n: t.numpy() for n, t in {**w, "threshold": torch.zeros(10)}.items()}
    np.savez(tmp_path / "params.npz", allow_pickle=False, **arrays)
    with pytest.raises(LoadError, match="never trained") as caught:
        load(tmp_path)
    assert caught.value.contract == "threshold"


@pytest.mark.parametrize("missing", ["W_dec", "b_dec", "threshold"])
def test_what_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "embedding" / "width_4k"
    arrays = {n: t.numpy() for n, t in write(folder).items() if n != missing}
    np.savez(folder / "params.npz", allow_pickle=False, **arrays)
    with pytest.raises(LoadError, match=missing) as caught:
        load(folder)
    assert caught.value.contract == "keys"


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
def test_declared(tmp_path: Path, folder: str, model: str | None, hook: str | None) -> None:
    path = tmp_path / folder
    path.mkdir(parents=True)
    (path / "params.npz").write_bytes(b"")
    assert declare(path) == Declaration(model, hook)
