"""Per-layer transcoders of circuit-tracer, such as mwhanna's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from tests.helpers.drawn import X, check, draw, jumprelu
from tests.helpers.releases.circuit_tracer import CONFIG, write


@pytest.mark.parametrize("config", [None, CONFIG, {**CONFIG, "activation": "relu"}])
@pytest.mark.parametrize("skip", [False, True])
def test_relu(tmp_path: Path, config: dict[str, Any] | None, skip: bool) -> None:
    w = write(tmp_path, config, {"W_skip": draw(6, 6)} if skip else None)
    latents = torch.relu(X @ w["W_enc"].T + w["b_enc"])
    sae = load(tmp_path / "layer_3.safetensors")
    past = X @ w["W_skip"].T if skip else 0
    check(sae, latents, latents @ w["W_dec"] + w["b_dec"] + past)
    assert sae.transcoder
    assert sae.b_pre is None


@pytest.mark.parametrize("shared", [False, True])
def test_jumprelu(tmp_path: Path, shared: bool) -> None:
    threshold = torch.tensor(0.4) if shared else draw(10, seed=3).abs()
    w = write(tmp_path, None, {"activation_function.threshold": threshold})
    latents = jumprelu(X @ w["W_enc"].T + w["b_enc"], threshold)
    check(load(tmp_path / "layer_3.safetensors"), latents, latents @ w["W_dec"] + w["b_dec"])


def test_trap_only_the_encoder_lies_transposed_also_where_sizes_do_not_tell(
    tmp_path: Path,
) -> None:
    w = write(tmp_path, CONFIG, d_sae=6)
    latents = torch.relu(X @ w["W_enc"].T + w["b_enc"])
    check(load(tmp_path / "layer_3.safetensors"), latents, latents @ w["W_dec"] + w["b_dec"])


def test_trap_early_files_have_the_decoder_transposed_too(tmp_path: Path) -> None:
    w = write(tmp_path, CONFIG)
    early = {**w, "W_dec": w["W_dec"].T.contiguous()}
    save_file(early, tmp_path / "layer_3.safetensors")
    latents = torch.relu(X @ w["W_enc"].T + w["b_enc"])
    sae = load(tmp_path / "layer_3.safetensors")
    check(sae, latents, latents @ w["W_dec"] + w["b_dec"])
    assert any("W_dec lies as [6, 10]" in text for text in sae.source.assumptions)


@pytest.mark.parametrize("encoder", [True, False])
def test_trap_the_name_alone_makes_no_transcoder(tmp_path: Path, encoder: bool) -> None:
    w = write(tmp_path)
    turned = (
        {"W_dec": w["W_dec"].T.contiguous()} if encoder else {"W_enc": w["W_enc"].T.contiguous()}
    )
    save_file({**w, **turned}, tmp_path / "layer_3.safetensors")
    path = tmp_path / "layer_3.safetensors"
    with pytest.raises(LoadError, match="is ambiguous; decide in the spec"):
        load(path)
    sae = load(path, SaeOptions(architecture="standard", pre_bias=False, normalize="none"))
    assert not sae.transcoder
    assert declare(path) == Declaration()


@pytest.mark.parametrize(
    ("folder", "config", "expected"),
    [
        (".", None, Declaration()),
        ("my-transcoders", None, Declaration()),
        ("qwen3-4b-transcoders", None,
         Declaration(None, "blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out")),
        (".", CONFIG, Declaration("Qwen/Qwen3-4B", "blocks.3.mlp.hook_in",
                                  "blocks.3.hook_mlp_out")),
        (".", {**CONFIG, "feature_input_hook": "ln2.hook_normalized",
               "feature_output_hook": "hook_mlp_out"},
         Declaration("Qwen/Qwen3-4B", "blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out")),
        (".", {**CONFIG, "feature_input_hook": "hook_strange"}, Declaration("Qwen/Qwen3-4B")),
        # The output of Gemma's MLP passes a norm before hook_mlp_out.
        (".", {**CONFIG, "model_name": "google/gemma-3-4b-it"},
         Declaration("google/gemma-3-4b-it")),
    ],
)  # fmt: skip
def test_declared(
    tmp_path: Path, folder: str, config: dict[str, Any] | None, expected: Declaration
) -> None:
    write(tmp_path / folder, config)
    path = tmp_path / folder / "layer_3.safetensors"
    assert declare(path) == expected
    assert load(path).source.declared.get("hook_name_out") == expected.hook_out


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**CONFIG, "activation": "topk", "k": 3}, "negative ones too"),
        ({**CONFIG, "activation": "gelu"}, "activation is 'gelu', allowed: 'relu'"),
        ({**CONFIG, "activation": ["relu"]}, "activation is ['relu']"),
        ({**CONFIG, "model_kind": "cross_layer_transcoder"}, "model_kind is 'cross_layer"),
        ({**CONFIG, "feature_input_hook": 3}, "feature_input_hook is 3, expected text"),
    ],
)
def test_refusals(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    write(tmp_path, config)
    with pytest.raises(LoadError) as caught:
        load(tmp_path / "layer_3.safetensors")
    assert message in str(caught.value)


def test_trap_topk_without_a_relu_is_refused(tmp_path: Path) -> None:
    write(tmp_path, None, {"k": torch.tensor(3)})
    with pytest.raises(LoadError, match="TopK transcoders are not read"):
        load(tmp_path / "layer_3.safetensors")


def test_a_threshold_beside_relu_is_a_contradiction(tmp_path: Path) -> None:
    threshold = {"activation_function.threshold": draw(10).abs()}
    write(tmp_path, {**CONFIG, "activation": "relu"}, threshold)
    with pytest.raises(LoadError, match=r"activation is 'relu', but .* has activation_function"):
        load(tmp_path / "layer_3.safetensors")
