"""The plain reference path: every run is a run of the whole model.

Two passes over the corpus: the first finds μ, the mean activation of all scored tokens; the second
runs each batch clean, patched, zero-ablated and mean-ablated, always the whole model.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator
from typing import NoReturn, TextIO

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from sae_guard.corpus import Corpus
from sae_guard.engine.place import Place
from sae_guard.errors import InfrastructureError, SetupError
from sae_guard.measurement import Measurement, Provenance
from sae_guard.metrics import tokens as formulas
from sae_guard.metrics.table import COLUMNS, METRICS
from sae_guard.model import LanguageModel
from sae_guard.sae import SAE

# Elements of one logits tensor, of which about eight are alive at once in float32: 256 MB each on
# an accelerator; on a CPU what is larger than its cache takes three times as long.
_LOGITS_PER_BATCH = {"cpu": 2**23}
_LOGITS_PER_BATCH_ELSEWHERE = 2**26


def measure(
    model: LanguageModel,
    sae: SAE,
    corpus: Corpus,
    hook: str,
    *,
    hook_out: str | None = None,
    batch_size: int | None = None,
    expect_clean_ce: tuple[float, float] | None = None,
    progress: TextIO | None = None,
) -> Measurement:
    """Measure every metric of the SAE at ``hook`` of the model on the corpus.

    Args:
        model: Runs on its own device.
        sae: May lie on another device than the model.
        corpus: The fixed token set.
        hook: Hook point that the SAE reads, and whose activation the reconstruction replaces.
        hook_out: Hook point that a transcoder replaces instead.
        batch_size: Windows per forward pass; None picks one that bounds the memory for logits. It
            changes the result by rounding only.
        expect_clean_ce: Lowest and highest clean cross-entropy, in nats, that a sane setup has.
        progress: Where to draw a progress bar, once the measurement takes longer than 2 s.

    Raises:
        SetupError: Unknown hook point, a window longer than the model's context, tokens outside
            its vocabulary, a clean loss outside ``expect_clean_ce``, or a hook point without
            effect on the logits.
        LoadError: The SAE's width is not the width of the hook point, or a transcoder is given
            without ``hook_out``, or the other way round.
        InfrastructureError: Out of memory.
    """
    at = Place.of(sae, hook, hook_out)
    for name in (at.read, at.replaced):
        model.check_hook(name)
    _check_tokens(model, corpus)
    size = batch_size or _default_batch_size(model, corpus)
    batches = [slice(row, row + size) for row in range(0, len(corpus.tokens), size)]
    bar: tqdm[NoReturn] = tqdm(
        total=2 * len(batches), desc=hook, unit="batch", delay=2, file=progress, leave=False,
        disable=progress is None,
    )  # fmt: skip
    try:
        with bar:
            mean, clean_ce = _clean_pass(model, sae, corpus, at, batches, bar)
            _check_clean_ce(clean_ce, expect_clean_ce)
            rows = [_batch_sums(model, sae, corpus, at, rows, mean) for rows in _each(batches, bar)]
    except torch.OutOfMemoryError as error:
        raise InfrastructureError(f"out of memory at {size} windows per batch: {error}") from error
    sums = {name: torch.cat([row[0][name] for row in rows]).numpy() for name in COLUMNS}
    if np.array_equal(sums["ce_zero"], sums["ce_clean"]):
        raise SetupError(
            f"zeros at hook point {at.replaced!r} of {model.name} leave every loss as it was: "
            "replacing this activation has no effect, so nothing can be measured here"
        )
    return Measurement(
        np.arange(len(corpus.tokens), dtype=np.int64),
        sums,
        torch.stack([row[1] for row in rows]).sum(dim=0).numpy(),
        _provenance(model, sae, corpus, at, mean),
    )


def _clean_pass(
    model: LanguageModel,
    sae: SAE,
    corpus: Corpus,
    at: Place,
    batches: list[slice],
    bar: tqdm[NoReturn],
) -> tuple[Float[Tensor, " d_out"], float]:
    """μ over the scored tokens in float64, and the mean clean cross-entropy in nats."""
    total, ce, count = torch.zeros(sae.d_out, dtype=torch.float64), 0.0, 0
    for rows in _each(batches, bar):
        tokens, scored = corpus.tokens[rows], corpus.scored[rows]
        logits, x, y = at.clean(model, tokens)
        at.check_widths(x, y, tokens, sae)
        total += y.cpu().double()[scored].sum(dim=0)
        log_p = formulas.log_probs(logits[:, :-1])
        losses = formulas.cross_entropy(log_p, tokens[:, 1:].to(log_p.device))
        ce += float(formulas.masked_sums(losses, scored[:, :-1].to(losses.device)).sum())
        count += int(scored.sum())
    if count == 0:
        raise SetupError("no token is scored: every position holds an excluded token")
    return total / count, ce / count


def _batch_sums(
    model: LanguageModel,
    sae: SAE,
    corpus: Corpus,
    at: Place,
    rows: slice,
    mean: Float[Tensor, " d_out"],
) -> tuple[dict[str, Float[Tensor, " batch"]], Int[Tensor, " d_sae"]]:
    """Each column's sum per window of the batch, and the firings of each latent."""
    tokens = corpus.tokens[rows].to(model.device)
    patched, scored = corpus.patched[rows].to(model.device), corpus.scored[rows, :-1]
    clean, x, y = at.clean(model, tokens)
    y = y.to(torch.promote_types(y.dtype, torch.float32))
    reconstruction, latents = sae(x.to(torch.promote_types(x.dtype, torch.float32)).to(sae.device))
    y_hat, latents = reconstruction.to(y), latents[:, :-1]
    centre = mean.to(y.dtype).to(y.device)

    def log_probs_with(replacement: Tensor) -> Float[Tensor, "batch pos vocab"]:
        return _log_probs_with(model, tokens, at.replaced, patched, replacement)

    log_p = formulas.log_probs(clean[:, :-1])
    log_q = log_probs_with(y_hat)
    target = tokens[:, 1:]
    per_token = {
        "n_tokens": torch.ones_like(target),
        "kl": formulas.kl_divergence(log_p, log_q),
        "ce_clean": formulas.cross_entropy(log_p, target),
        "ce_patched": formulas.cross_entropy(log_q, target),
        "ce_zero": formulas.cross_entropy(log_probs_with(torch.zeros_like(y)), target),
        "ce_mean": formulas.cross_entropy(log_probs_with(centre.expand_as(y)), target),
        "l0": formulas.l0(latents),
        "l1": formulas.l1(latents),
        "sq_error": formulas.squared_distance(y, y_hat)[:, :-1],
        "sq_deviation": formulas.squared_distance(y, centre)[:, :-1],
        "cosine": formulas.cosine(y, y_hat)[:, :-1],
        "l2_ratio": formulas.l2_ratio(y, y_hat)[:, :-1],
    }
    sums = {
        name: formulas.masked_sums(values, scored.to(values.device))
        for name, values in per_token.items()
    }
    return sums, (latents[scored.to(latents.device)] != 0).sum(dim=0).cpu()


def _log_probs_with(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    hook: str,
    patched: Bool[Tensor, "batch pos"],
    replacement: Float[Tensor, "batch pos d_out"],
) -> Float[Tensor, "batch pos-1 vocab"]:
    def edit(activation: Tensor) -> Tensor:
        mask = patched.to(activation.device).unsqueeze(-1)
        return torch.where(mask, replacement.to(activation), activation)

    return formulas.log_probs(model.logits_with(tokens, hook, edit)[:, :-1])


def _each(batches: list[slice], bar: tqdm[NoReturn]) -> Iterator[slice]:
    for batch in batches:
        yield batch
        bar.update()


def _default_batch_size(model: LanguageModel, corpus: Corpus) -> int:
    budget = _LOGITS_PER_BATCH.get(model.device.type, _LOGITS_PER_BATCH_ELSEWHERE)
    return max(1, budget // (corpus.tokens.shape[1] * model.vocabulary_size))


def _check_tokens(model: LanguageModel, corpus: Corpus) -> None:
    length, largest = corpus.tokens.shape[1], int(corpus.tokens.max())
    if length > model.context_size:
        raise SetupError(
            f"windows of {length} tokens, but {model.name} has {model.context_size} positions"
        )
    if largest >= model.vocabulary_size or int(corpus.tokens.min()) < 0:
        raise SetupError(
            f"token id {largest} is outside the vocabulary of {model.name} "
            f"({model.vocabulary_size} tokens): the tokens are another tokenizer's"
        )


def _check_clean_ce(clean_ce: float, expected: tuple[float, float] | None) -> None:
    if expected is not None and not expected[0] <= clean_ce <= expected[1]:
        raise SetupError(
            f"clean cross-entropy is {clean_ce:.4f} nats, expect_clean_ce allows "
            f"[{expected[0]}, {expected[1]}]: wrong text, tokenizer, BOS or model"
        )


def _provenance(
    model: LanguageModel, sae: SAE, corpus: Corpus, at: Place, mean: Float[Tensor, " d_out"]
) -> Provenance:
    packages = ("sae-guard", "torch", "transformers", "transformer-lens")
    return Provenance(
        model=model.identity,
        checkpoint=sae.identity,
        corpus=corpus.identity,
        hook=at.read,
        hook_out=None if at.read == at.replaced else at.replaced,
        mean_sha256=hashlib.sha256(mean.numpy().tobytes()).hexdigest(),
        formula_versions={name: metric.version for name, metric in METRICS.items()},
        versions={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        device=str(model.device),
    )
