"""sparsify: SAEs, transcoders and skip connections, against their forward pass; its traps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.formats import sparsify
from sae_guard.checkpoints.load import load, open_checkpoint
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from tests.helpers.drawn import X, check, draw, topk


def tensors_of(*, skip: bool = False) -> dict[str, Tensor]:
    tensors = {
        "encoder.weight": draw(10, 6), "encoder.bias": draw(10), "W_dec": draw(10, 6, seed=1),
        "b_dec": draw(6),
    }  # fmt: skip
    return {**tensors, "W_skip": draw(6, 6)} if skip else tensors


def write(
    folder: Path, tensors: dict[str, Tensor] | None = None, **changes: Any
) -> dict[str, Tensor]:
    tensors = tensors_of() if tensors is None else tensors
    config = {"activation": "topk", "k": 2, "num_latents": 10, "d_in": 6, "transcode": False}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({**config, **changes}))
    save_file(tensors, folder / "sae.safetensors")
    return tensors


def groupmax(post: Tensor) -> Tensor:
    groups = post.reshape(2, 5, 2, 5)
    return (groups * (groups == groups.amax(-1, keepdim=True))).reshape(post.shape)


def signed(pre: Tensor) -> Tensor:
    return pre * (topk(pre.abs()) > 0)


@pytest.mark.parametrize("transcode", [False, True])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    ("changes", "activate"),
    [
        ({}, lambda pre: topk(torch.relu(pre))),
        ({"activation": "groupmax"}, lambda pre: groupmax(torch.relu(pre))),
        ({"signed": True}, signed),
    ],
)
def test_every_variant(
    tmp_path: Path,
    changes: dict[str, Any],
    activate: Callable[[Tensor], Tensor],
    transcode: bool,
    skip: bool,
) -> None:
    w = write(tmp_path, tensors_of(skip=skip), transcode=transcode, skip_connection=skip, **changes)
    x = X if transcode else X - w["b_dec"]
    latents = activate(x @ w["encoder.weight"].T + w["encoder.bias"])
    expected = latents @ w["W_dec"] + w["b_dec"] + (X @ w["W_skip"].T if skip else 0)
    sae = load(tmp_path)
    check(sae, latents, expected)
    assert sae.transcoder is transcode


def test_trap_a_transcoder_takes_no_pre_bias_off(tmp_path: Path) -> None:
    write(tmp_path, transcode=True)
    sae = load(tmp_path)
    assert sae.b_pre is None
    assert "not taken off the input of a transcoder" in sae.source.assumptions[0]


def test_trap_normalize_decoder_does_not_decide_the_pre_bias(tmp_path: Path) -> None:
    write(tmp_path, normalize_decoder=False)
    assert load(tmp_path).b_pre is not None


def test_trap_w_dec_is_not_transposed_when_d_in_is_d_sae(tmp_path: Path) -> None:
    square = {
        "encoder.weight": draw(6, 6), "encoder.bias": draw(6), "W_dec": draw(6, 6, seed=1),
        "b_dec": draw(6, seed=2),
    }  # fmt: skip
    write(tmp_path, square, num_latents=6)
    pre = (X - square["b_dec"]) @ square["encoder.weight"].T + square["encoder.bias"]
    latents = topk(torch.relu(pre))
    check(load(tmp_path), latents, latents @ square["W_dec"] + square["b_dec"])


def test_trap_signed_latents_are_active_below_zero(tmp_path: Path) -> None:
    write(tmp_path, signed=True)
    latents = load(tmp_path)(X).latents
    assert bool((latents < 0).any())
    assert bool(((latents != 0).sum(-1) == 2).all())


def test_trap_half_precision_weights_are_computed_in_float32(tmp_path: Path) -> None:
    half = {name: tensor.to(torch.bfloat16) for name, tensor in tensors_of().items()}
    write(tmp_path, half)
    w = {name: tensor.float() for name, tensor in half.items()}
    pre = (X - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
    latents = topk(torch.relu(pre))
    check(load(tmp_path), latents, latents @ w["W_dec"] + w["b_dec"])


def test_the_names_of_the_first_days(tmp_path: Path) -> None:
    w = {
        "W_enc": draw(6, 10), "b_enc": draw(10), "W_dec": draw(10, 6, seed=1), "b_dec": draw(6),
    }  # fmt: skip
    write(tmp_path, w)
    latents = topk(torch.relu((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]))
    check(load(tmp_path), latents, latents @ w["W_dec"] + w["b_dec"])


def test_num_latents_0_leaves_the_size_to_the_expansion_factor(tmp_path: Path) -> None:
    write(tmp_path, num_latents=0, expansion_factor=2)
    assert load(tmp_path).d_sae == 10


@pytest.mark.parametrize(
    ("changes", "message", "contract"),
    [
        ({"transcode": "yes"}, "transcode is 'yes', expected true or false", "readable"),
        ({"skip_connection": True}, "does not have W_skip", "keys"),
        ({"activation": "jumprelu"}, "activation is 'jumprelu', allowed: 'topk'", "activation"),
        ({"activation": ["topk"]}, "activation is ['topk']", "activation"),
        ({"activation": "groupmax", "signed": True}, "with signed only 'topk'", "activation"),
        ({"k": None}, "k is None", "activation"),
        ({"k": 11}, "k is 11, allowed: 1 to 10", "activation"),
        ({"activation": "groupmax", "k": 3}, "a divisor of 10", "activation"),
        ({"d_in": 7}, "d_in is 7, but the weights have 6", "shapes"),
        ({"num_latents": 12}, "num_latents is 12, but the weights have 10", "shapes"),
        ({"temperature": 1}, "temperature = 1: not understood", "readable"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, Any], message: str, contract: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(LoadError) as caught:
        load(tmp_path)
    assert message in str(caught.value)
    assert caught.value.contract == contract


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("log_threshold", "log_threshold belongs to a jump or binary activation"),
        ("W_dec_2", "W_dec_2 belongs to a second decoder"),
    ],
)
def test_files_of_unmerged_branches_are_refused_by_name(
    tmp_path: Path, name: str, message: str
) -> None:
    write(tmp_path, {**tensors_of(), name: draw(10)})
    with pytest.raises(LoadError, match=message):
        sparsify.read(open_checkpoint(tmp_path), SaeOptions())
    with pytest.raises(LoadError):
        load(tmp_path)


def test_trap_several_decoders_are_refused_as_a_cross_layer_transcoder(tmp_path: Path) -> None:
    write(tmp_path, {**tensors_of(), "W_decs.0": draw(10, 6)}, transcode=True)
    with pytest.raises(LoadError, match="cross-layer transcoder"):
        load(tmp_path)


def test_trap_an_encoder_without_its_decoder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {n: t for n, t in tensors_of().items() if n != "W_dec"})
    with pytest.raises(LoadError, match="no W_dec: an encoder without a decoder"):
        load(tmp_path)


def test_trap_a_skip_connection_that_the_config_denies_is_refused(tmp_path: Path) -> None:
    write(tmp_path, tensors_of(skip=True))
    with pytest.raises(LoadError, match=r"skip_connection is False, but .* has W_skip"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("layers.3", Declaration(None, "blocks.3.hook_resid_pre", "blocks.3.hook_resid_post")),
        ("layers.3.mlp", Declaration(None, "blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out")),
        ("layers.3.mlp/seed1", Declaration(None, "blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out")),
        ("layers.3.self_attn", Declaration()),
    ],
)
def test_transcoders_declare_both_hook_points(
    tmp_path: Path, folder: str, expected: Declaration
) -> None:
    path = tmp_path / "run" / folder
    write(path, transcode=True)
    assert declare(path) == expected
    assert load(path).source.declared.get("hook_name_out") == expected.hook_out


def test_trap_the_mlp_of_a_model_with_post_norms_is_not_hook_mlp_out(tmp_path: Path) -> None:
    write(tmp_path / "layers.3.mlp")
    write(tmp_path / "layers.3")
    (tmp_path / "config.json").write_text('{"model": "google/gemma-2-2b"}')
    assert declare(tmp_path / "layers.3.mlp") == Declaration("google/gemma-2-2b")
    assert declare(tmp_path / "layers.3").hook == "blocks.3.hook_resid_post"


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
def test_folders_declare_what_they_are_called_after(
    tmp_path: Path, folder: str, hook: str | None
) -> None:
    path = tmp_path / "run" / folder
    path.mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text('{"model": "HuggingFaceTB/SmolLM2-135M"}')
    (path / "cfg.json").write_text("{}")
    (path / "sae.safetensors").write_bytes(b"")
    assert declare(path) == Declaration("HuggingFaceTB/SmolLM2-135M", hook)
