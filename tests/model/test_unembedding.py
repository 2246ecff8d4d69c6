"""The unembedding equals its definition in float64, in ten architectures."""

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
from sae_guard.model import FINAL_HIDDEN, LanguageModel, Suffix, Unembedding, load_model
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


def logits_by_definition(folder: Path, final: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute logits in float64 from the matrix that transformers reads from the folder."""
    raw: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    head = raw.get_output_embeddings()
    logits: Tensor = final.double() @ head.weight.detach().double().T
    if getattr(head, "bias", None) is not None:
        logits = logits + head.bias.detach().double()
    return CAP * (logits / CAP).tanh() if CAPPED in folder.name else logits


@pytest.mark.parametrize("architecture", TEN)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_logits_equal_the_definition_for_every_dtype_of_the_model(
    loaded: Load, folder_of: Callable[[str], Path], architecture: str, dtype: str
) -> None:
    model = loaded(architecture, dtype)
    unembedding, torch_dtype = model.unembedding, getattr(torch, dtype)
    final = torch.randn(7, 32, generator=torch.Generator().manual_seed(1)).to(torch_dtype)
    expected = logits_by_definition(folder_of(architecture), final, torch_dtype)
    logits = unembedding.logits(final)
    assert logits.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)
    assert unembedding.linear == (architecture != CAPPED)
    if unembedding.linear:
        product = final.to(logits.dtype) @ unembedding.weight.T + unembedding.bias
        torch.testing.assert_close(logits, product, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", TEN)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_of_the_final_hidden_states_are_those_of_the_model(
    loaded: Load, architecture: str, dtype: str
) -> None:
    model = loaded(architecture, dtype)
    final = model.activations(TOKENS, FINAL_HIDDEN)[FINAL_HIDDEN].flatten(0, 1)
    with torch.inference_mode():
        own = model.bridge(TOKENS, attention_mask=torch.ones_like(TOKENS)).flatten(0, 1)
    assert own.dtype == getattr(torch, dtype)
    tolerance = 1e-5 if dtype == "float32" else 0.05
    logits = model.unembedding.logits(final)
    torch.testing.assert_close(logits, own.float(), rtol=tolerance, atol=tolerance)
    assert model.unembedding.reproduces(final, own)
    assert not model.unembedding.reproduces(final, own * 1.05)
    assert not model.unembedding.reproduces(final, own[:, 1:])
    assert not model.unembedding.reproduces(final[:, 1:], own)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "phi"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_use_the_weights_of_hooked_processing(
    folder_of: Callable[[str], Path], architecture: str, dtype: str
) -> None:
    model = load_model(folder_of(architecture), dtype=dtype, processing="hooked")
    final = model.activations(TOKENS, FINAL_HIDDEN)[FINAL_HIDDEN].flatten(0, 1)
    with torch.inference_mode():
        own = model.bridge(TOKENS, attention_mask=torch.ones_like(TOKENS)).flatten(0, 1)
    assert model.unembedding.reproduces(final, own)
    assert model.unembedding.has_matrix


def test_float32_weights_are_shared_and_bfloat16_weights_copied_once(loaded: Load) -> None:
    single, half = loaded("llama", "float32"), loaded("llama", "bfloat16")
    own = single.bridge.unembed.original_component.weight
    assert single.unembedding.weight.data_ptr() == own.data_ptr()
    assert not single.unembedding.weight.requires_grad
    copy = half.unembedding.weight
    assert copy.dtype == torch.float32
    assert half.unembedding.weight.data_ptr() == copy.data_ptr()
    torch.testing.assert_close(
        copy, half.bridge.unembed.original_component.weight.float(), rtol=0, atol=0
    )
    suffix = Suffix.from_hooks(half, "blocks.1.hook_mlp_out")
    assert suffix is not None
    assert suffix.unembedding is half.unembedding


def test_the_global_random_state_is_unchanged(loaded: Load) -> None:
    model = loaded("gpt2", "float32")
    before = torch.random.get_rng_state()
    Unembedding.from_bridge(model.bridge, model.name)
    assert torch.equal(torch.random.get_rng_state(), before)


def scale_logits(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the unembedding module compute something else than the product with its weight."""
    module, linear = model.bridge.unembed.original_component, torch.nn.functional.linear

    def forward(hidden: Tensor) -> Tensor:
        return 1.1 * linear(hidden, module.weight, module.bias)

    monkeypatch.setattr(module, "forward", forward)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_module_that_computes_more_than_its_matrix_is_called(
    folder_of: Callable[[str], Path], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(folder_of("llama"), dtype=dtype)
    scale_logits(model, monkeypatch)
    unembedding = model.unembedding
    assert not unembedding.linear
    with pytest.raises(RuntimeError, match="not linear"):
        _ = unembedding.weight
    final = torch.randn(5, 32).to(getattr(torch, dtype))
    with torch.inference_mode():
        own = model.bridge.unembed(final[None])[0]
    logits = unembedding.logits(final)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, own.float())
    # Conversion to float32 adds no precision, so the model's own logits are used.
    assert torch.equal(model.logits(TOKENS), model.bridge(TOKENS, use_cache=False))


def test_the_soft_cap_is_read_from_the_text_config(
    loaded: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config of a model for text and images has that of its language model inside."""
    model = loaded("llama", "float32")
    final = torch.randn(5, 32)
    plain = model.unembedding.logits(final)

    class Config:
        def get_text_config(self) -> Any:
            return type("Text", (), {"final_logit_softcapping": 0.5})

    monkeypatch.setattr(model.bridge.original_model, "config", Config())
    capped = Unembedding.from_bridge(model.bridge, model.name)
    assert (capped.soft_cap, capped.linear, capped.has_matrix) == (0.5, False, True)
    torch.testing.assert_close(capped.logits(final), (plain / 0.5).tanh() * 0.5)


def test_a_model_without_unembedding_is_an_error() -> None:
    class Bridge:
        pass

    with pytest.raises(SetupError, match="bert has no unembedding"):
        Unembedding.from_bridge(Bridge(), "bert")


@pytest.mark.skipif(BEFORE_4, reason="TransformerLens 3.9 offloads nothing to disk")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_matrix_on_disk_is_used_through_its_module(
    loaded: Load, folder_of: Callable[[str], Path], dtype: str
) -> None:
    in_memory = loaded("llama", dtype)
    on_disk = load_model(folder_of("llama"), dtype=dtype, device_map={"": "disk"})
    assert not on_disk.unembedding.linear
    final = torch.randn(5, 32).to(getattr(torch, dtype))
    with torch.inference_mode():
        expected = in_memory.bridge.unembed(final[None])[0]
    assert torch.equal(on_disk.unembedding.logits(final), expected.float())
    assert torch.equal(on_disk.logits(TOKENS), in_memory.bridge(TOKENS))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_hidden_states_on_another_device_are_moved_to_the_weight(
    folder_of: Callable[[str], Path],
) -> None:
    model = load_model(folder_of("llama"), device="cuda")
    final = torch.randn(5, 32)
    logits = model.unembedding.logits(final)
    assert logits.device.type == "cuda"
    torch.testing.assert_close(
        logits.cpu(), load_model(folder_of("llama")).unembedding.logits(final), atol=1e-4, rtol=1e-4
    )
