"""Measure tiny models: an SAE, likely tokens and hook points, and what makes two results equal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from sae_guard.core.measurement import TOKEN_COLUMNS, Measurement
from sae_guard.core.metrics import COLUMNS
from sae_guard.corpus import Corpus
from sae_guard.sae import SAE, SaeSource
from sae_guard.sae.activations import JumpReLU
from tests.helpers import naive

HOOKS = [
    "blocks.1.hook_resid_pre",
    "blocks.1.hook_resid_mid",
    "blocks.1.hook_resid_post",
    "blocks.1.hook_mlp_out",
    "blocks.1.hook_attn_out",
    "blocks.1.attn.hook_z",
]
RESIDUAL, MLP = "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"


def make_sae(d_in: int = 32, d_sae: int = 96) -> SAE:
    """Make a JumpReLU SAE that reconstructs half of its input, so that no metric is extreme."""
    generator = torch.Generator().manual_seed(3)
    W_dec = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
    b_enc, b_dec = (torch.randn(n, generator=generator) * 0.05 for n in (d_sae, d_in))
    return SAE(
        W_dec.T.contiguous(),
        W_dec * 0.5,
        b_enc,
        b_dec,
        JumpReLU(torch.rand(d_sae, generator=generator) * 0.3),
        SaeSource("test", "test"),
        b_pre=b_dec,
    )


def sae_in_float64(sae: SAE) -> naive.SaeFunction:
    """Convert the SAE to float64, for the slow definition; its own tests hold its formula."""
    assert isinstance(sae.activation, JumpReLU)
    double = replace(
        sae,
        W_enc=sae.W_enc.double(),
        W_dec=sae.W_dec.double(),
        b_enc=sae.b_enc.double(),
        b_dec=sae.b_dec.double(),
        b_pre=None if sae.b_pre is None else sae.b_pre.double(),
        W_skip=None if sae.W_skip is None else sae.W_skip.double(),
        activation=JumpReLU(sae.activation.threshold.double()),
    )

    def run(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        reconstruction, latents = double(x)
        return reconstruction, latents

    return run


def likely_corpus(folder: Path) -> Corpus:
    """Draw tokens that the random model finds likely: ablation hurts it as it hurts real ones.

    BOS (0) at the start only, and one more excluded token (7) wherever the model likes it.
    """
    raw = AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.randint(1, 300, (6, 24), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    for at in range(2, 24):
        with torch.no_grad():
            logits = raw(tokens[:, :at]).logits[:, -1]
        logits[:, 0] = -torch.inf
        tokens[:, at] = logits.argmax(dim=-1)
    tokens[0, 5] = 7
    return Corpus(tokens, frozenset({0, 7}), {"prepend_bos": True})


def assert_same(mine: Measurement, theirs: Measurement) -> None:
    """Assert that all sums are the same but for rounding, and all firings exactly."""
    assert mine.sums.keys() == theirs.sums.keys() >= set(COLUMNS)
    for column in mine.sums:
        np.testing.assert_allclose(
            mine.sums[column], theirs.sums[column], rtol=1e-5, atol=1e-4, err_msg=column
        )
    np.testing.assert_array_equal(mine.firings, theirs.firings)


def assert_equal(mine: Measurement, theirs: Measurement) -> None:
    """Assert that sums, firings and the values of single tokens are equal but for rounding."""
    for column in COLUMNS:
        np.testing.assert_allclose(
            mine.sums[column], theirs.sums[column], rtol=1e-5, atol=1e-4, err_msg=column
        )
    np.testing.assert_array_equal(mine.firings, theirs.firings)
    assert mine.tokens is not None
    assert theirs.tokens is not None
    np.testing.assert_array_equal(mine.tokens.scored, theirs.tokens.scored)
    for column in TOKEN_COLUMNS:
        found, expected = mine.tokens.columns[column], theirs.tokens.columns[column]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=column)
    of_tokens = mine.tokens.sums(np.ones_like(mine.tokens.scored))
    for column, sums in of_tokens.items():
        np.testing.assert_allclose(sums, mine.sums[column], rtol=1e-6, atol=1e-5, err_msg=column)
