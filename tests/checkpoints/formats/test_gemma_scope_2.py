"""Gemma Scope 2: SAEs and transcoders with and without their config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.errors import LoadError
from tests.helpers.drawn import X, check, jumprelu
from tests.helpers.releases.gemma_scope_2 import READ, SAE_HERE, TRANSCODER, WRITTEN, write


@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize(
    ("config", "skip", "transcoder"),
    [
        (None, False, False),
        (SAE_HERE, False, False),
        ({**SAE_HERE, "hf_hook_point_out": "model.layers.5.output", "type": "sae"}, False, False),
        (TRANSCODER, False, True),
        ({**TRANSCODER, "affine_connection": False, "type": "transcoder"}, False, True),
        (TRANSCODER, True, True),
        ({**TRANSCODER, "affine_connection": True, "width": 10, "l0": 3}, True, True),
        (None, True, True),
    ],
)
def test_every_variant(
    tmp_path: Path, config: dict[str, Any] | None, skip: bool, transcoder: bool, file: bool
) -> None:
    w = write(tmp_path, config, skip=skip)
    latents = jumprelu(X @ w["w_enc"] + w["b_enc"], w["threshold"])
    past = X @ w["affine_skip_connection"] if skip else 0
    sae = load(tmp_path / "params.safetensors" if file else tmp_path)
    check(sae, latents, latents @ w["w_dec"] + w["b_dec"] + past)
    assert sae.transcoder is transcoder
    assert sae.b_pre is None
    assert len(sae.source.assumptions) == (2 if config is None else 1)


def test_trap_the_skip_connection_lies_as_d_in_d_out(tmp_path: Path) -> None:
    w = write(tmp_path, TRANSCODER, skip=True, d_out=7)
    latents = jumprelu(X @ w["w_enc"] + w["b_enc"], w["threshold"])
    expected = latents @ w["w_dec"] + w["b_dec"] + X @ w["affine_skip_connection"]
    check(load(tmp_path), latents, expected)


@pytest.mark.parametrize(
    ("folder", "expected", "transcoder"),
    [
        ("gemma-scope-2-1b-pt/resid_post/layer_12_width_16k_l0_small",
         Declaration("gemma-3-1b-pt", "blocks.12.hook_resid_post"), False),
        ("models--google--gemma-scope-2-270m-pt/snapshots/ab/attn_out_all/layer_3_width_16k_l0_big",
         Declaration("gemma-3-270m", "blocks.3.attn.hook_z"), False),
        ("gemma-scope-2-4b-it/transcoder_all/layer_5_width_16k_l0_big",
         Declaration("gemma-3-4b-it", "blocks.5.mlp.hook_in", "blocks.5.hook_mlp_out"), True),
        ("gemma-scope-2-4b-it/mlp_out/layer_5_width_16k_l0_big",
         Declaration("gemma-3-4b-it", "blocks.5.hook_mlp_out"), False),
        ("transcoder/layer_5_width_16k_l0_big", Declaration(), False),
    ],
)  # fmt: skip
def test_without_a_config_the_path_tells(
    tmp_path: Path, folder: str, expected: Declaration, transcoder: bool
) -> None:
    write(tmp_path / folder)
    assert declare(tmp_path / folder) == expected
    sae = load(tmp_path / folder)
    assert sae.transcoder is transcoder
    assert sae.source.declared.get("hook_name") == expected.hook


@pytest.mark.parametrize(
    ("read", "written", "hook", "hook_out"),
    [
        ("model.layers.5.output", None, "blocks.5.hook_resid_post", None),
        ("model.language_model.layers.5.output", None, "blocks.5.hook_resid_post", None),
        ("model.layers.5.self_attn.o_proj.input", None, "blocks.5.attn.hook_z", None),
        (WRITTEN, WRITTEN, "blocks.5.hook_mlp_out", None),
        (READ, WRITTEN, "blocks.5.mlp.hook_in", "blocks.5.hook_mlp_out"),
        (READ, "model.layers.5.mlp.output", None, None),
        ("model.embed_tokens.output", None, None, None),
    ],
)
def test_hook_points_of_the_config(
    tmp_path: Path, read: str, written: str | None, hook: str | None, hook_out: str | None
) -> None:
    write(tmp_path, {"hf_hook_point_in": read, "hf_hook_point_out": written})
    assert declare(tmp_path) == Declaration("gemma-3-1b-pt", hook, hook_out)


def test_trap_the_mlp_output_before_its_post_norm_is_not_hook_mlp_out(tmp_path: Path) -> None:
    write(tmp_path, {"hf_hook_point_in": "model.layers.5.mlp.output"})
    assert declare(tmp_path).hook is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "topk"}, "architecture is 'topk', allowed: 'jump_relu'"),
        ({"hf_hook_point_in": 5}, "hf_hook_point_in is 5, expected text"),
        ({"hf_hook_point_out": [WRITTEN]}, "hf_hook_point_out is ['model"),
        ({**TRANSCODER, "affine_connection": True}, "affine_skip_connection is missing from"),
        ({**TRANSCODER, "type": "sae"}, "type is 'sae', but hf_hook_point_in is 'm"),
        ({**TRANSCODER, "type": "crosscoder"}, "type is 'crosscoder', allowed: sae, transcoder"),
        ({"type": ["sae"]}, "type is ['sae']"),
        ({"width": 16384}, "width is 16384, but the weights have 10"),
        ({"input_scale": 2}, "input_scale = 2: not understood"),
        ({"model_name": 3}, "model_name is 3, expected text"),
    ],
)
def test_refusals(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    write(tmp_path, config)
    with pytest.raises(LoadError) as caught:
        load(tmp_path)
    assert message in str(caught.value)


def test_trap_a_skip_connection_that_the_config_denies_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {**TRANSCODER, "affine_connection": False}, skip=True)
    with pytest.raises(LoadError, match=r"affine_connection is False, but .* is in"):
        load(tmp_path)
    write(tmp_path, SAE_HERE, skip=True)
    with pytest.raises(LoadError, match="not understood: W_skip"):
        load(tmp_path)


def test_trap_decoders_of_several_layers_are_not_summed(tmp_path: Path) -> None:
    tensors = write(tmp_path)
    tensors["w_dec"] = torch.ones(10, 4, 6)
    save_file(tensors, tmp_path / "params.safetensors")
    with pytest.raises(LoadError, match="cross-layer transcoder"):
        load(tmp_path)
