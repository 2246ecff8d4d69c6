"""The unembedding against the definition, in ten architectures."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from sae_guard.errors import SetupError
from sae_guard.model import FINAL, LanguageModel, Suffix, Unembedding, load_model
from tests.helpers.ten_models import TEN
from tests.helpers.tiny_models import VOCABULARY

TOKENS = torch.randint(8, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(0))
CAP = 3.0
CAPPED = "gemma2"
BEFORE_4 = importlib.metadata.version("transformer-lens") < "4"
Load = Callable[[str, str], LanguageModel]


@pytest.fixture(scope="module")
def folder_of(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast
) -> Callable[[str], Path]:
    @cache
    def folder(architecture: str) -> Path:
        path = tmp_path_factory.mktemp("ten") / architecture
        TEN[architecture].save(path, tokenizer)
        return path

    return folder


@pytest.fixture(scope="module")
def loaded(folder_of: Callable[[str], Path]) -> Load:
    @cache
    def load(architecture: str, dtype: str) -> LanguageModel:
        return load_model(folder_of(architecture), dtype=dtype)

    return load


def by_definition(folder: Path, final: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits in float64 of the matrix that transformers reads from the folder."""
    raw: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    head = raw.get_output_embeddings()
    logits: Tensor = final.double() @ head.weight.detach().double().T
    if getattr(head, "bias", None) is not None:
        logits = logits + head.bias.detach().double()
    return CAP * (logits / CAP).tanh() if CAPPED in folder.name else logits


@pytest.mark.parametrize("architecture", TEN)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_is_the_definition_to_float32_whatever_the_dtype_of_the_model(
    loaded: Load, folder_of: Callable[[str], Path], architecture: str, dtype: str
) -> None:
    model = loaded(architecture, dtype)
    unembedding, kind = model.unembedding, getattr(torch, dtype)
    final = torch.randn(7, 32, generator=torch.Generator().manual_seed(1)).to(kind)
    expected = by_definition(folder_of(architecture), final, kind)
    found = unembedding.logits(final)
    assert found.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert unembedding.linear == (architecture != CAPPED)
    if unembedding.linear:
        straight = final.to(found.dtype) @ unembedding.weight.T + unembedding.bias
        torch.testing.assert_close(found, straight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", TEN)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_of_the_final_hidden_states_gives_the_models_own_logits(
    loaded: Load, architecture: str, dtype: str
) -> None:
    model = loaded(architecture, dtype)
    final = model.seen(TOKENS, FINAL)[FINAL].flatten(0, 1)
    with torch.inference_mode():
        own = model.bridge(TOKENS, attention_mask=torch.ones_like(TOKENS)).flatten(0, 1)
    assert own.dtype == getattr(torch, dtype)
    tolerance = 1e-5 if dtype == "float32" else 0.05
    found = model.unembedding.logits(final)
    torch.testing.assert_close(found, own.float(), rtol=tolerance, atol=tolerance)
    assert model.unembedding.gives(final, own)
    assert not model.unembedding.gives(final, own * 1.05)
    assert not model.unembedding.gives(final, own[:, 1:])
    assert not model.unembedding.gives(final[:, 1:], own)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "phi"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reads_processed_weights(
    folder_of: Callable[[str], Path], architecture: str, dtype: str
) -> None:
    model = load_model(folder_of(architecture), dtype=dtype, processing="hooked")
    final = model.seen(TOKENS, FINAL)[FINAL].flatten(0, 1)
    with torch.inference_mode():
        own = model.bridge(TOKENS, attention_mask=torch.ones_like(TOKENS)).flatten(0, 1)
    assert model.unembedding.gives(final, own)
    assert model.unembedding.wide


def test_float32_weights_are_not_copied_and_halves_once(loaded: Load) -> None:
    whole, half = loaded("llama", "float32"), loaded("llama", "bfloat16")
    own = whole.bridge.unembed.original_component.weight
    assert whole.unembedding.weight.data_ptr() == own.data_ptr()
    assert not whole.unembedding.weight.requires_grad
    copy = half.unembedding.weight
    assert copy.dtype == torch.float32
    assert half.unembedding.weight.data_ptr() == copy.data_ptr()
    torch.testing.assert_close(
        copy, half.bridge.unembed.original_component.weight.float(), rtol=0, atol=0
    )
    suffix = Suffix.of(half, "blocks.1.hook_mlp_out")
    assert suffix is not None
    assert suffix.unembedding is half.unembedding


def test_moves_nobodys_random_numbers(loaded: Load) -> None:
    model = loaded("gpt2", "float32")
    before = torch.random.get_rng_state()
    Unembedding.of(model)
    assert torch.equal(torch.random.get_rng_state(), before)


def unlike_its_weight(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    module, right = model.bridge.unembed.original_component, torch.nn.functional.linear

    def forward(hidden: Tensor) -> Tensor:
        return 1.1 * right(hidden, module.weight, module.bias)

    monkeypatch.setattr(module, "forward", forward)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_module_that_is_not_its_matrix_is_called(
    folder_of: Callable[[str], Path], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(folder_of("llama"), dtype=dtype)
    unlike_its_weight(model, monkeypatch)
    unembedding = model.unembedding
    assert not unembedding.linear
    with pytest.raises(RuntimeError, match="not linear"):
        _ = unembedding.weight
    final = torch.randn(5, 32).to(getattr(torch, dtype))
    with torch.inference_mode():
        own = model.bridge.unembed(final[None])[0]
    found = unembedding.logits(final)
    assert found.dtype == torch.float32
    assert torch.equal(found, own.float())
    # Its logits are no wider for being given in float32: the model's own are as good.
    assert torch.equal(model.logits(TOKENS), model.bridge(TOKENS, use_cache=False))


def test_a_soft_cap_of_a_model_that_also_sees_images(
    loaded: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their configuration has that of the language model inside."""
    model = loaded("llama", "float32")
    final = torch.randn(5, 32)
    plain = model.unembedding.logits(final)

    class Config:
        def get_text_config(self) -> Any:
            return type("Text", (), {"final_logit_softcapping": 0.5})

    monkeypatch.setattr(model.bridge.original_model, "config", Config())
    capped = Unembedding.of(model)
    assert (capped.soft_cap, capped.linear, capped.wide) == (0.5, False, True)
    torch.testing.assert_close(capped.logits(final), (plain / 0.5).tanh() * 0.5)


def test_a_model_without_one_is_refused() -> None:
    class Bridge:
        pass

    with pytest.raises(SetupError, match="bert has no unembedding that TransformerLens knows"):
        Unembedding.of(LanguageModel(Bridge(), "bert"))


@pytest.mark.skipif(BEFORE_4, reason="TransformerLens 3.9 offloads nothing to disk")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_offloaded_matrix_is_left_to_its_module(
    loaded: Load, folder_of: Callable[[str], Path], dtype: str
) -> None:
    whole = loaded("llama", dtype)
    there = load_model(folder_of("llama"), dtype=dtype, device_map={"": "disk"})
    assert not there.unembedding.linear
    final = torch.randn(5, 32).to(getattr(torch, dtype))
    with torch.inference_mode():
        expected = whole.bridge.unembed(final[None])[0]
    assert torch.equal(there.unembedding.logits(final), expected.float())
    assert torch.equal(there.logits(TOKENS), whole.bridge(TOKENS))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_hidden_states_of_another_device_are_moved(folder_of: Callable[[str], Path]) -> None:
    model = load_model(folder_of("llama"), device="cuda")
    final = torch.randn(5, 32)
    found = model.unembedding.logits(final)
    assert found.device.type == "cuda"
    torch.testing.assert_close(
        found.cpu(), load_model(folder_of("llama")).unembedding.logits(final), atol=1e-4, rtol=1e-4
    )
