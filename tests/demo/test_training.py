"""The training script writes files that the gate reads; here it trains for a few steps only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.demo import CONTEXT_SIZE, HOOK_NAME, held_out_texts
from sae_guard.demo.language_model import (
    END_OF_TEXT_ID,
    cut_windows,
    tokenize,
    train_language_model,
    train_tokenizer,
)
from sae_guard.demo.release import write_language_model, write_sparse_autoencoder
from sae_guard.demo.sparse_autoencoders import (
    Recipe,
    collect_activations,
    keep_largest,
    scale_of,
    train_sparse_autoencoder,
)
from sae_guard.model import load_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor, float]:
    """Train a model for three steps; return its folder, some activations, and their scale."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    texts = held_out_texts()[:40]
    tokenizer = train_tokenizer(texts)
    documents = tokenize(tokenizer, texts)
    model = train_language_model(
        documents, vocabulary_size=len(tokenizer), steps=3, generator=generator
    )
    folder = tmp_path_factory.mktemp("trained")
    write_language_model(folder / "model", model, tokenizer)
    activations = collect_activations(model, cut_windows(documents)[:32])
    return folder, activations, scale_of(activations)


def test_windows_are_pieces_of_one_document_after_a_bos() -> None:
    documents = [torch.arange(1, 300), torch.arange(1000, 1010)]
    windows = cut_windows(documents, offsets=[2, 3])
    assert windows.shape == (2, CONTEXT_SIZE)
    assert windows[:, 0].tolist() == [END_OF_TEXT_ID] * 2
    assert windows[:, 1:].flatten().tolist() == list(range(3, 3 + 2 * (CONTEXT_SIZE - 1)))


def test_keep_largest_sets_the_other_numbers_to_zero() -> None:
    assert keep_largest(torch.tensor([[3.0, 1.0, 2.0]]), 2).tolist() == [[3.0, 0.0, 2.0]]


def test_activations_are_those_of_the_hook_point(
    trained: tuple[Path, torch.Tensor, float],
) -> None:
    folder, activations, _ = trained
    model = load_model(folder / "model")
    documents = tokenize(model.tokenizer, held_out_texts()[:40])
    windows = cut_windows(documents)[:32]
    x = model.logits_and_activation(windows, HOOK_NAME)[1][:, 1:].flatten(0, 1)
    torch.testing.assert_close(x, activations, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("selection", ["per_token", "per_batch"])
def test_a_trained_sae_is_read_back_with_its_scale_folded(
    trained: tuple[Path, torch.Tensor, float], selection: str
) -> None:
    folder, activations, scale = trained
    recipe = Recipe(selection=selection, steps=20, batch_size=256)  # type: ignore[arg-type]
    sae, threshold = train_sparse_autoencoder(
        activations * scale, recipe, torch.Generator().manual_seed(0)
    )
    release = folder / selection
    write_sparse_autoencoder(release, sae, threshold=threshold, scale=scale)
    assert declare(release) == Declaration("sae-guard-demo", HOOK_NAME)
    loaded = load(release)
    with torch.no_grad():
        latents = loaded(activations).latents
        pre = torch.relu((activations * scale - sae.b_dec) @ sae.W_enc + sae.b_enc)
    expected = keep_largest(pre, recipe.k) if selection == "per_token" else pre * (pre > threshold)
    torch.testing.assert_close(latents * scale, expected, rtol=1e-3, atol=1e-3)
    assert json.loads((release / "cfg.json").read_text())["d_sae"] == recipe.d_sae
