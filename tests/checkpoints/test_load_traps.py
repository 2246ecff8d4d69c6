"""What bites people who load SAEs: each trap has tests named after it, here or with its format."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError, SetupError
from sae_guard.gate.planning import check_metadata
from sae_guard.model import LanguageModel, load_model
from sae_guard.sae import SAE
from sae_guard.sae.activations import JumpReLU
from sae_guard.specs import load_specs
from tests.helpers.checkpoint_files import as_linear, example_sae, tensors_of

X = torch.linspace(-3, 4, 24).view(2, 2, 6)
TOKENS = torch.randint(1, 200, (2, 7), generator=torch.Generator().manual_seed(0))

TRAPS = {
    "the scale of the dataset is stored nowhere": "a_scale_that_is_nowhere_has_to_be_said",
    "the scale is stored in a file beside": (
        "a_scale_in_activation_scaler_is_applied|a_scale_in_the_state_of_the_activations_store_is_"
        "applied|a_backup_expects_activations_divided_by_norm_factor|v1_threshold_is_before_the_fold"
    ),
    "the scale may be folded in already": "scale_may_be_folded_already",
    "the normalisation is written in a README only": (
        "topk_normalises_without_saying_so|a_bare_file_does_not_say_its_normalisation"
    ),
    "several conventions of unit norm": "unit_norm_means_four_things",
    "BatchTopK depends on its batch": (
        "batchtopk_stores_no_threshold|a_batchtopk_without_its_threshold_depends_on_batch_mates"
    ),
    "a threshold that was never trained": (
        "a_threshold_that_was_never_trained_is_refused|a_topk_threshold_of_0_was_never_trained"
    ),
    "strict and inclusive thresholds": (
        "a_threshold_is_exceeded_strictly|thresholds_are_logarithms_and_inclusive"
    ),
    "logarithms of thresholds": (
        "thresholds_are_logarithms_and_inclusive|a_log_threshold_is_read_as_its_exponential"
    ),
    "a finetuned factor per latent": "a_finetuned_factor_is_applied_by_the_decoder",
    "tanh of ReLU": "tanh_relu_is_not_relu|tanh_of_a_fork_is_only_in_its_config",
    "a decoder that is not of unit norm": (
        "the_decoder_of_the_originals_is_not_of_unit_norm|the_stored_decoder_is_not_of_unit_norm"
    ),
    "decoder norms in the selection": "decoder_norms_select_and_do_not_scale",
    "a pre-bias that is not the out-bias": "pre_bias_is_not_the_out_bias",
    "no decoder bias": "decoder_bias_may_be_missing|no_bias_at_either_end",
    "an encoder bias that is stored and not used": "the_stored_encoder_bias_is_not_used",
    "half-precision weights": "half_precision_weights_are_computed_in_float32",
    "hook_z has heads": "hook_z_is_flattened_over_its_heads",
    "the model's weights are processed or raw": "a_default_bridge_is_not_centred",
    "where a transcoder reads": (
        "the_input_of_the_mlp_is_after_the_gain_of_its_norm|hook_mlp_in_is_off"
    ),
    "BOS and special tokens": "bos_of_the_training_is_that_of_the_spec",
    "several SAEs in a file": "several_saes_per_file",
    "SAEs that mix positions": "saes_that_mix_positions_or_layers_are_refused",
    "signed latents": "signed_latents_are_active_below_zero",
}
"""Trap → the names of its tests, each without ``test_trap_`` and cut where it is unmistakable."""


def test_every_trap_has_its_tests() -> None:
    source = "\n".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    names = set(re.findall(r"^def test_trap_(\w+)", source, re.MULTILINE))
    for trap, tests in TRAPS.items():
        for test in tests.split("|"):
            assert any(name.startswith(test) for name in names), f"{trap}: no test_trap_{test}"


def test_trap_unit_norm_means_four_things() -> None:
    """A factor for the dataset, length sqrt(d) per token, a layer norm, and none of them."""
    plain = replace(example_sae(), b_pre=None)
    length = X.norm(dim=-1, keepdim=True)
    centred = X - X.mean(dim=-1, keepdim=True)
    deviation = (centred**2).sum(dim=-1, keepdim=True).div(5).sqrt()  # unbiased: d - 1
    variants = {
        "scale": (replace(plain, scale_in=0.3), X * 0.3),
        "constant_norm_rescale": (
            replace(plain, normalize="constant_norm_rescale"), X / length * 6**0.5,
        ),
        "layer_norm": (replace(plain, normalize="layer_norm"), centred / (deviation + 1e-5)),
    }  # fmt: skip
    latents: list[Tensor] = [plain.encode(X)]
    for sae, x in variants.values():
        torch.testing.assert_close(sae.encode(X), plain.encode(x))
        assert not any(torch.allclose(sae.encode(X), other) for other in latents)
        latents.append(sae.encode(X))


def test_trap_a_bare_file_does_not_say_its_normalisation(tmp_path: Path) -> None:
    torch.save(tensors_of(example_sae()), tmp_path / "sae.pt")
    with pytest.raises(LoadError, match=r"sae\.normalize"):
        load(tmp_path / "sae.pt", SaeOptions(architecture="standard", pre_bias=True))


def test_trap_a_threshold_is_exceeded_strictly() -> None:
    at = torch.tensor([0.5, 0.5])
    next_larger = torch.nextafter(at, torch.ones(2))
    assert not JumpReLU(at)(at).any()
    assert bool(JumpReLU(at)(next_larger).all())
    assert bool(JumpReLU(at, inclusive=True)(at).all())


@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_trap_half_precision_flips_latents_near_a_threshold(architecture: str) -> None:
    """Weights in float32 and inputs in bfloat16 are computed in float32."""
    sae = example_sae(architecture)
    assert sae(X.bfloat16()).latents.dtype == torch.float32
    torch.testing.assert_close(sae(X.bfloat16()).latents, sae(X.bfloat16().float()).latents)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_trap_hook_z_is_flattened_over_its_heads(
    model_folders: dict[str, Path], architecture: str
) -> None:
    model = load_model(model_folders[architecture])
    activations: list[Tensor] = []
    model.bridge.run_with_hooks(
        TOKENS, fwd_hooks=[("blocks.1.attn.hook_z", lambda x, hook: activations.append(x.clone()))]
    )
    _, flat = model.logits_and_activation(TOKENS, "blocks.1.attn.hook_z")
    assert flat.ndim == 3
    torch.testing.assert_close(flat, activations[0].flatten(2))


def test_trap_a_default_bridge_is_not_centred(
    gpt2: LanguageModel, model_folders: dict[str, Path]
) -> None:
    hooked = load_model(model_folders["gpt2"], processing="hooked")
    means = [
        float(
            model.logits_and_activation(TOKENS, "blocks.1.hook_resid_pre")[1].mean(-1).abs().max()
        )
        for model in (gpt2, hooked)
    ]
    assert means[0] > 1e-4
    assert means[1] < 1e-5


def test_trap_the_input_of_the_mlp_is_after_the_gain_of_its_norm(
    model_folders: dict[str, Path],
) -> None:
    """Before it is ``ln2.hook_normalized``, which transcoders of another convention read."""
    model = load_model(model_folders["llama"])
    hooks = ("blocks.1.ln2.hook_normalized", "blocks.1.mlp.hook_in")
    norm = model.bridge.original_model.model.layers[1].post_attention_layernorm
    with torch.no_grad():
        norm.weight.mul_(3)
    _, (before, after) = model.logits_and_activations(TOKENS, *hooks)
    torch.testing.assert_close(after, before * norm.weight.detach(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, after)


def test_trap_hook_mlp_in_is_off_unless_asked_for(gpt2: LanguageModel) -> None:
    with pytest.raises(SetupError, match="hook_mlp_in"):
        gpt2.logits_and_activation(TOKENS, "blocks.1.hook_mlp_in")


@pytest.mark.parametrize("trained", [True, False])
def test_trap_bos_of_the_training_is_that_of_the_spec(tmp_path: Path, *, trained: bool) -> None:
    (tmp_path / "spec.yaml").write_text(
        "model: m\nhook: h\ndata: {text: a, prepend_bos: true}\nthresholds: {kl: {max: 1}}\n"
    )
    (spec,) = load_specs(tmp_path / "spec.yaml")
    if trained:
        check_metadata(spec, {"prepend_bos": trained}, "v1")
        return
    with pytest.raises(LoadError, match=r"trained with prepend_bos false, the spec has .* true"):
        check_metadata(spec, {"prepend_bos": trained}, "v1")


def test_trap_several_names_of_one_layout(tmp_path: Path) -> None:
    """The names of nn.Linear lie the other way round than W_enc and W_dec."""
    options = SaeOptions(architecture="standard", pre_bias=True, normalize="none")
    torch.save(tensors_of(example_sae()), tmp_path / "names.pt")
    torch.save(as_linear(tensors_of(example_sae())), tmp_path / "linear.pt")
    saes: list[SAE] = [load(tmp_path / f"{name}.pt", options) for name in ("names", "linear")]
    assert torch.equal(saes[0](X).reconstruction, saes[1](X).reconstruction)
