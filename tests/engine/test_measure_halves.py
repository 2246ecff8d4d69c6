"""Half-precision models are measured with float32 logits, on both paths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from sae_guard.corpus import Corpus
from sae_guard.engine import measure
from sae_guard.engine import token_metrics as formulas
from sae_guard.engine.ablation import replacement_edit
from sae_guard.model import FINAL_HIDDEN, LanguageModel, load_model
from sae_guard.sae import SAE
from tests.helpers.small_measurements import make_sae
from tests.helpers.ten_models import TEN
from tests.helpers.tiny_models import VOCABULARY

BOS, ROWS, LENGTH, CAP = 0, 6, 24, 3.0
HOOK = "blocks.1.hook_mlp_out"
LOUDER = 8
"""Factor of the unembedding that gives logits as large as those of trained models."""


@pytest.fixture(scope="module", params=TEN)
def folder(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: PreTrainedTokenizerFast,
) -> Path:
    path: Path = tmp_path_factory.mktemp("ten") / request.param
    TEN[request.param].save(path, tokenizer)
    raw: Any = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        raw.get_output_embeddings().weight *= LOUDER
    if not raw.config.tie_word_embeddings:
        raw.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return load_model(folder, dtype="bfloat16")


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(8, VOCABULARY, (ROWS, LENGTH), generator=generator)
    tokens[:, 0] = BOS
    return Corpus(tokens, frozenset({BOS}))


@pytest.fixture(scope="module")
def sae(model: LanguageModel) -> SAE:
    return replace(make_sae(model.width(HOOK)), transcoder=False)


def log_probs(folder: Path, final: Tensor) -> Tensor:
    """Compute log-probabilities in float64, from final hidden states and the unembedding matrix."""
    raw: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    head = raw.get_output_embeddings()
    logits: Tensor = final.double() @ head.weight.detach().double().T
    if getattr(head, "bias", None) is not None:
        logits = logits + head.bias.detach().double()
    if folder.name == "gemma2":
        logits = CAP * (logits / CAP).tanh()
    return logits.log_softmax(-1)


def cross_entropy(log_p: Tensor, tokens: Tensor) -> Tensor:
    return -log_p[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]


def test_clean_loss_equals_that_of_float64_logits(
    model: LanguageModel, folder: Path, corpus: Corpus, sae: SAE
) -> None:
    tokens = corpus.tokens
    final = model.activations(tokens, FINAL_HIDDEN)[FINAL_HIDDEN]
    assert final.dtype == torch.bfloat16
    expected = cross_entropy(log_probs(folder, final), tokens)
    losses = formulas.cross_entropy(formulas.log_probs(model.logits(tokens))[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(losses.double(), expected, rtol=1e-4, atol=1e-5)
    plain = measure(model, sae, corpus, HOOK, reference=True, batch_size=ROWS)
    scored = corpus.scored[:, :-1]
    mean = float(expected[scored].mean())
    assert plain["ce_clean"] == pytest.approx(mean, rel=1e-6, abs=1e-6)
    with torch.inference_mode():
        own = model.bridge(tokens, attention_mask=torch.ones_like(tokens))
    assert own.dtype == torch.bfloat16
    rounded = cross_entropy(own.double().log_softmax(-1), tokens)
    assert float((rounded - expected)[scored].abs().max()) > 1e-3
    assert abs(float(rounded[scored].mean()) - mean) > 1e-5


def test_kl_and_patched_losses_equal_those_of_float64_logits(
    model: LanguageModel, folder: Path, corpus: Corpus, sae: SAE
) -> None:
    tokens, scored = corpus.tokens, corpus.scored[:, :-1]
    y = model.activations(tokens, HOOK)[HOOK]
    with torch.inference_mode():
        edit = replacement_edit(sae(y.float())[0], corpus.patched)
    clean, patched = (
        log_probs(folder, final)
        for final in (
            model.activations(tokens, FINAL_HIDDEN)[FINAL_HIDDEN],
            model.activation_with(tokens, {HOOK: edit}, FINAL_HIDDEN),
        )
    )
    kl = (clean.exp() * (clean - patched)).sum(dim=-1)[:, :-1]
    plain = measure(model, sae, corpus, HOOK, reference=True, batch_size=ROWS)
    assert plain["kl"] == pytest.approx(float(kl[scored].mean()), rel=1e-5)
    ce_patched = float(cross_entropy(patched, tokens)[scored].mean())
    assert plain["ce_patched"] == pytest.approx(ce_patched, rel=1e-6)


def test_fast_path_rounds_no_more_than_the_plain_path(
    model: LanguageModel, corpus: Corpus, sae: SAE
) -> None:
    fast, plain = (
        measure(model, sae, corpus, HOOK, reference=reference, batch_size=ROWS)
        for reference in (False, True)
    )
    assert fast.provenance.paths["forward"] != "whole model"
    for column in ("ce_clean", "ce_patched", "kl"):
        np.testing.assert_allclose(fast.sums[column], plain.sums[column], rtol=1e-4, atol=1e-4)


def test_edits_at_the_unembedding_change_the_returned_logits(model: LanguageModel) -> None:
    tokens = torch.arange(8, 20)[None]
    assert model.logits(tokens).dtype == torch.float32
    silenced = model.logits_with(tokens, "unembed.hook_in", torch.zeros_like)
    assert bool((silenced == silenced[0, 0]).all())
    capped = model.logits_with(tokens, "unembed.hook_out", torch.zeros_like)
    assert not bool(capped.any())
    final = model.logits_with(tokens, FINAL_HIDDEN, torch.zeros_like)
    torch.testing.assert_close(final.float(), silenced.float(), rtol=1e-2, atol=1e-2)


def test_logits_that_the_model_scales_are_returned_as_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cohere and Granite scale their logits after the unembedding."""
    model = load_model(folder, dtype="bfloat16")
    tokens = torch.arange(8, 20)[None]

    def scale(module: Any, arguments: Any, output: Any) -> Any:
        output.logits = output.logits * 0.5
        return output

    model.bridge.original_model.register_forward_hook(scale)
    with torch.inference_mode():
        own = model.bridge(tokens, attention_mask=torch.ones_like(tokens))
    assert own.dtype == torch.bfloat16
    assert torch.equal(model.logits(tokens), own)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_full_precision_models_give_their_own_logits(folder: Path, dtype: str) -> None:
    model = load_model(folder, dtype=dtype)
    tokens = torch.arange(8, 20)[None]
    with torch.inference_mode():
        own = model.bridge(tokens, attention_mask=torch.ones_like(tokens))
    assert torch.equal(model.logits(tokens), own)
