"""A model on the bridge has the logits and activations of the raw Hugging Face model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sae_guard.errors import SetupError
from sae_guard.model import FINAL_HIDDEN, DeviceMap, LanguageModel, Suffix, load_model
from tests.helpers.device_maps import DEVICE_MAPS
from tests.helpers.tiny_models import ARCHITECTURES, VOCABULARY

LAYER = 1
HOOKS = [
    f"blocks.{LAYER}.{name}"
    for name in (
        "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out",
        "attn.hook_z",
    )
]  # fmt: skip
TOKENS = torch.randint(1, VOCABULARY, (3, 10), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(
    request: pytest.FixtureRequest, model_folders: dict[str, Path]
) -> tuple[LanguageModel, torch.nn.Module]:
    """Load the bridge and the raw model of one architecture."""
    folder = model_folders[request.param]
    raw: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return load_model(folder), raw.train(mode=False)


def test_a_clean_run_has_the_logits_of_the_raw_model(
    pair: tuple[LanguageModel, torch.nn.Module],
) -> None:
    model, raw = pair
    with torch.no_grad():
        torch.testing.assert_close(model.logits(TOKENS), raw(TOKENS).logits, atol=1e-5, rtol=1e-5)


def test_a_leading_bos_is_not_masked_as_padding(gpt2: LanguageModel) -> None:
    """GPT-2's BOS is its EOS and serves as PAD; a masked BOS would change every later position."""
    with_bos = torch.cat([torch.zeros(3, 1, dtype=torch.int64), TOKENS], dim=1)
    raw = gpt2.bridge.original_model
    with torch.no_grad():
        expected = raw(with_bos, attention_mask=torch.ones_like(with_bos)).logits
    torch.testing.assert_close(gpt2.logits(with_bos), expected, atol=1e-5, rtol=1e-5)


def raw_residual_after(raw: torch.nn.Module, layer: int) -> Tensor:
    """Return the residual stream [batch, pos, d_model] after a layer of the raw model."""
    with torch.no_grad():
        hidden: Tensor = raw(TOKENS, output_hidden_states=True).hidden_states[layer + 1]
    return hidden


def test_residual_hook_points_have_the_raw_hidden_states(
    pair: tuple[LanguageModel, torch.nn.Module],
) -> None:
    model, raw = pair
    _, post = model.logits_and_activation(TOKENS, f"blocks.{LAYER}.hook_resid_post")
    _, pre = model.logits_and_activation(TOKENS, f"blocks.{LAYER}.hook_resid_pre")
    torch.testing.assert_close(post, raw_residual_after(raw, LAYER), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pre, raw_residual_after(raw, LAYER - 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hook", HOOKS)
def test_replacing_an_activation_by_itself_changes_no_bit(
    pair: tuple[LanguageModel, torch.nn.Module], hook: str
) -> None:
    model, _ = pair
    if "pythia" in model.name and hook.endswith("resid_mid"):
        pytest.skip("attention and MLP run in parallel: there is no residual between them")
    clean, activation = model.logits_and_activation(TOKENS, hook)
    assert activation.shape == (3, 10, model.width(hook))
    assert torch.equal(model.logits_with(TOKENS, hook, lambda _: activation), clean)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_replacement_at_one_position_changes_only_that_and_later_ones(
    pair: tuple[LanguageModel, torch.nn.Module], hook: str
) -> None:
    model, _ = pair
    if "pythia" in model.name and hook.endswith("resid_mid"):
        pytest.skip("attention and MLP run in parallel: there is no residual between them")

    def double_at_4(activation: Tensor) -> Tensor:
        changed = activation.clone()
        changed[:, 4] *= 2
        return changed

    difference = (model.logits_with(TOKENS, hook, double_at_4) - model.logits(TOKENS)).abs()
    assert bool((difference[:, :4] == 0).all())
    assert float(difference[:, 4].max()) > 1e-4


def test_hooked_processing_centres_the_residual_but_not_the_predictions(
    gpt2: LanguageModel, model_folders: dict[str, Path]
) -> None:
    hooked = load_model(model_folders["gpt2"], processing="hooked")
    torch.testing.assert_close(
        hooked.logits(TOKENS).log_softmax(-1), gpt2.logits(TOKENS).log_softmax(-1),
        atol=2e-5, rtol=1e-4,
    )  # fmt: skip
    hook = f"blocks.{LAYER}.hook_resid_post"
    _, centred = hooked.logits_and_activation(TOKENS, hook)
    _, raw = gpt2.logits_and_activation(TOKENS, hook)
    assert float(centred.mean(-1).abs().max()) < 1e-5 < float(raw.mean(-1).abs().max())


def test_an_unknown_hook_point_is_an_error_with_the_nearest_names(gpt2: LanguageModel) -> None:
    with pytest.raises(SetupError, match=r"no hook point 'blocks.1.hook_resid_pst'; did you mean"):
        gpt2.check_hook("blocks.1.hook_resid_pst")
    with pytest.raises(SetupError, match=r"no hook point 'blocks.9.hook_resid_post'"):
        gpt2.width("blocks.9.hook_resid_post")


def test_a_hook_point_that_does_not_fire_is_an_error(gpt2: LanguageModel) -> None:
    with pytest.raises(SetupError, match=r"hook_result.* fired 0 times|hook_result.* is False"):
        gpt2.logits_with(TOKENS, "blocks.1.attn.hook_result", lambda x: x)


@pytest.mark.parametrize("device_map", DEVICE_MAPS, ids=str)
def test_a_model_on_several_devices_has_the_same_numbers(
    model_folders: dict[str, Path], device_map: DeviceMap
) -> None:
    on_cpu = load_model(model_folders["llama"])
    spread = load_model(model_folders["llama"], device_map=device_map)
    assert spread.device == torch.device("cpu")
    assert torch.equal(spread.logits(TOKENS), on_cpu.logits(TOKENS))
    for hook in HOOKS:
        assert spread.width(hook) == on_cpu.width(hook)
        runs = [model.logits_with(TOKENS, hook, lambda x: 2 * x) for model in (spread, on_cpu)]
        assert torch.equal(*runs), hook


@pytest.mark.parametrize("device_map", DEVICE_MAPS, ids=str)
@pytest.mark.parametrize("hook", ["blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"])
def test_a_suffix_on_several_devices_has_the_same_final_hidden_states(
    model_folders: dict[str, Path], device_map: DeviceMap, hook: str
) -> None:
    finals = []
    for placement in (None, device_map):
        model = load_model(model_folders["llama"], device_map=placement)
        suffix = Suffix.from_hooks(model, hook)
        assert suffix is not None
        clean = model.activations(TOKENS, suffix.entry, FINAL_HIDDEN)
        final = suffix.final_hidden_with(TOKENS, clean[suffix.entry], hook, lambda x: 2 * x)
        assert not torch.equal(final, clean[FINAL_HIDDEN])
        finals.append(suffix.unembedding.logits(final.flatten(0, 1)))
        assert torch.equal(
            final, model.activation_with(TOKENS, {hook: lambda x: 2 * x}, FINAL_HIDDEN)
        )
    assert torch.equal(*finals)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_model_on_the_gpu_has_the_logits_of_the_cpu(
    gpt2: LanguageModel, model_folders: dict[str, Path]
) -> None:
    on_gpu = load_model(model_folders["gpt2"], device="cuda")
    torch.testing.assert_close(
        on_gpu.logits(TOKENS).cpu(), gpt2.logits(TOKENS), atol=1e-4, rtol=1e-4
    )
