"""`measure` and `measure_all`: which path is taken, and what is checked before and after."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from sae_guard.cache import Cache
from sae_guard.core.measurement import FiringSpread, Measurement, Provenance, TokenTable
from sae_guard.core.metrics import METRICS
from sae_guard.core.statistics import ratio_interval
from sae_guard.core.worst_tokens import worst
from sae_guard.corpus import Corpus, excerpts
from sae_guard.engine.batch_size import windows
from sae_guard.engine.fast import Run
from sae_guard.engine.intervention import Place
from sae_guard.engine.memory import Memory
from sae_guard.engine.paths import Batches, Found, take_fast, take_plain
from sae_guard.engine.sweep import Sweep
from sae_guard.errors import SetupError
from sae_guard.model import LanguageModel, Suffix
from sae_guard.sae import SAE

_SURE_OF_CLEAN_CE = 0.9999
"""Confidence with which the first rows have to say that the setup is wrong."""

# More than are shown of all tokens: those that are shown of a slice shall have their text too.
_TOKENS_WITH_TEXT, _SEQUENCES_WITH_TEXT = 64, 16


class Patch(NamedTuple):
    """An SAE and where its reconstruction is put."""

    sae: SAE
    hook: str
    """Hook point that it reads, and whose activation the reconstruction replaces."""
    hook_out: str | None = None
    """Hook point that a transcoder replaces instead."""

    @property
    def at(self) -> Place:
        """The place; raises `LoadError` where it is no SAE for such a place."""
        return Place.of(self.sae, self.hook, self.hook_out)


def measure(
    model: LanguageModel,
    sae: SAE,
    corpus: Corpus,
    hook: str,
    *,
    hook_out: str | None = None,
    batch_size: int | None = None,
    expect_clean_ce: tuple[float, float] | None = None,
    reference: bool = False,
    random_error: bool = False,
    cache: Cache | None = None,
    also: Sequence[tuple[str, ...]] = (),
    progress: TextIO | None = None,
) -> Measurement:
    """Measure every metric of the SAE at ``hook`` of the model on the corpus.

    Args:
        model: Runs on its own device.
        sae: May lie on another device than the model.
        corpus: The fixed token set.
        hook: Hook point that the SAE reads, and whose activation the reconstruction replaces.
        hook_out: Hook point that a transcoder replaces instead.
        batch_size: Windows per forward pass, at most; None picks a number by their length and by
            the memory that is free. It changes the result by rounding only.
        expect_clean_ce: Lowest and highest clean cross-entropy, in nats, that a sane setup has.
        reference: Run the whole model for everything, as an audit of the fast path.
        random_error: Also measure KL with a random error as long as that of the SAE, which
            `kl_vs_random_error` needs and which costs a patched run more.
        cache: Where to remember clean runs, and how far measurements are.
        also: Hook points, or pairs of what transcoders read and replace, of other measurements of
            the model on the corpus: with a cache, a clean run that is due remembers them too.
        progress: Where to draw a progress bar, once the measurement takes longer than 2 s.

    Raises:
        SetupError: Unknown hook point, a window longer than the model's context, tokens outside
            its vocabulary, a clean loss outside ``expect_clean_ce``, or a hook point without
            effect on the logits.
        LoadError: The SAE's width is not the width of the hook point, or a transcoder is given
            without ``hook_out``, or the other way round.
        InfrastructureError: Out of memory.
    """
    (measurement,) = measure_all(
        model, [Patch(sae, hook, hook_out)], corpus, batch_size=batch_size,
        expect_clean_ce=expect_clean_ce, reference=reference, random_error=random_error,
        cache=cache, also=also, progress=progress,
    )  # fmt: skip
    return measurement


def measure_all(
    model: LanguageModel,
    patches: Sequence[Patch],
    corpus: Corpus,
    *,
    batch_size: int | None = None,
    expect_clean_ce: tuple[float, float] | None = None,
    reference: bool = False,
    random_error: bool = False,
    cache: Cache | None = None,
    also: Sequence[tuple[str, ...]] = (),
    progress: TextIO | None = None,
) -> list[Measurement]:
    """Measure several SAEs, each alone in the model, in one sweep: they share its clean run.

    Args and raises as `measure`; the SAEs are in memory at the same time.
    """
    places = [patch.at for patch in patches]
    for name in (hook for at in places for hook in at.hooks):
        model.check_hook(name)
    check_tokens(model, corpus)
    suffixes = [None if reference else Suffix.of(model, *at.hooks) for at in places]
    runs = {
        index: Run(suffix, patches[index].sae, corpus, places[index], random_error=random_error)
        for index, suffix in enumerate(suffixes)
        if suffix is not None
    }
    given_up = "asked for" if reference else "the hook points are in no block"
    found: dict[int, Found | str] = dict.fromkeys(range(len(patches)), given_up)
    context = corpus.tokens.shape[1]
    if runs:
        memory, names = Memory.of(cache, model, corpus), sources(model, also)
        sweep = Sweep(model, list(runs.values()), corpus, memory, names)
        size = batch_size or windows(model, context, plain=False)
        found |= zip(runs, take_fast(sweep, corpus, size, progress), strict=True)
    measurements = []
    for index, (patch, at) in enumerate(zip(patches, places, strict=True)):
        result = found[index]
        if isinstance(result, str):
            size = batch_size or windows(model, context, plain=True)
            bars = Batches(corpus, size, at.read, progress)
            result = take_plain(
                model, patch.sae, corpus, at, bars, because=result, random_error=random_error
            )
        table = tabled(model, patch.sae, corpus, at, result, expect_clean_ce)
        measurements.append(with_excerpts(table, corpus, model.tokenizer))
    return measurements


def sources(model: LanguageModel, also: Sequence[tuple[str, ...]]) -> list[str]:
    """What a clean run has to remember for other measurements, as far as the model has it."""
    known = [hooks for hooks in also if all(hook in model.bridge.hook_dict for hook in hooks)]
    suffixes = [(Suffix.of(model, *hooks), hooks) for hooks in known]
    return [name for suffix, hooks in suffixes if suffix for name in suffix.sources(*hooks)]


def tabled(
    model: LanguageModel,
    sae: SAE,
    corpus: Corpus,
    at: Place,
    found: Found,
    expect_clean_ce: tuple[float, float] | None,
    rows: NDArray[np.int64] | None = None,
) -> Measurement:
    """The table, of all rows or the given ones, unless what was found cannot be right."""
    rows = np.arange(len(corpus.tokens), dtype=np.int64) if rows is None else rows
    sums = {name: column.numpy()[rows] for name, column in found.sums.items()}
    if expect_clean_ce is not None:
        _check_clean_ce(sums, expect_clean_ce, whole=len(rows) == len(corpus.tokens))
    if np.array_equal(sums["ce_zero"], sums["ce_clean"]):
        raise SetupError(
            f"zeros at hook point {at.replaced!r} of {model.name} leave every loss as it was: "
            "replacing this activation has no effect, so nothing can be measured here"
        )
    provenance = _provenance(model, sae, corpus, at, found)
    tokens = TokenTable(
        corpus.scored[:, :-1].numpy()[rows],
        {name: column.numpy()[rows] for name, column in found.tokens.items()},
    )
    sources = tuple(corpus.sources[row] for row in rows) if corpus.sources else ()
    spread = None if found.spread is None else FiringSpread(*found.spread.numpy())
    firings = found.firings.numpy()
    return Measurement(
        rows, sums, firings, provenance, tokens, sources,
        spread=spread, whole_sq_deviation=found.sq_deviation,
    )  # fmt: skip


def with_excerpts(measurement: Measurement, corpus: Corpus, tokenizer: Any) -> Measurement:
    """The measurement, with the text of the worst of it."""
    shown = worst(measurement, tokens=_TOKENS_WITH_TEXT, sequences=_SEQUENCES_WITH_TEXT)
    places = [(token.sequence, token.position) for token in shown.tokens]
    sequences = [sequence.sequence for sequence in shown.sequences]
    return replace(measurement, excerpts=excerpts(corpus, tokenizer, places, sequences))


def _check_clean_ce(
    sums: Mapping[str, NDArray[np.float64]], expected: tuple[float, float], *, whole: bool
) -> None:
    """Raise unless the clean loss is as expected; of some rows, unless it may still become so."""
    low = high = sums["ce_clean"].sum() / sums["n_tokens"].sum()
    if not whole:
        interval = ratio_interval(
            sums["ce_clean"], sums["n_tokens"], float(low), confidence=_SURE_OF_CLEAN_CE
        )
        low, high = interval or (-math.inf, math.inf)
    if not (low <= expected[1] and high >= expected[0]):
        clean = sums["ce_clean"].sum() / sums["n_tokens"].sum()
        raise SetupError(
            f"clean cross-entropy is {clean:.4f} nats, expect_clean_ce allows "
            f"[{expected[0]}, {expected[1]}]: wrong text, tokenizer, BOS or model"
        )


def check_tokens(model: LanguageModel, corpus: Corpus) -> None:
    """Raise `SetupError` unless the model can run the windows, and a token is scored."""
    if not bool(corpus.scored[:, :-1].any()):
        raise SetupError("no token is scored: every position holds an excluded token")
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


def _provenance(
    model: LanguageModel, sae: SAE, corpus: Corpus, at: Place, found: Found
) -> Provenance:
    packages = ("sae-guard", "torch", "transformers", "transformer-lens")
    return Provenance(
        model=model.identity,
        checkpoint=sae.identity,
        corpus=corpus.identity,
        hook=at.read,
        hook_out=None if at.read == at.replaced else at.replaced,
        mean_sha256="" if found.mean is None else sha256(found.mean.numpy().tobytes()).hexdigest(),
        formula_versions={name: metric.version for name, metric in METRICS.items()},
        versions={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        device=str(model.device),
        paths=found.paths,
    )
