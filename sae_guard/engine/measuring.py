"""`measure` and `measure_all`: which path is taken, and what is checked before and after."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TextIO

import numpy as np

from sae_guard.cache import Cache
from sae_guard.corpus import Corpus, excerpts
from sae_guard.engine.batch_size import windows
from sae_guard.engine.fast import Run
from sae_guard.engine.memory import Memory
from sae_guard.engine.paths import Batches, Found, take_fast, take_plain
from sae_guard.engine.place import Place
from sae_guard.engine.sweep import Sweep
from sae_guard.errors import SetupError
from sae_guard.measurement import Measurement, Provenance
from sae_guard.metrics.table import COLUMNS, METRICS
from sae_guard.model import LanguageModel, Suffix
from sae_guard.sae import SAE
from sae_guard.token_table import TOKEN_COLUMNS, TokenTable
from sae_guard.worst import worst

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
        expect_clean_ce=expect_clean_ce, reference=reference, cache=cache, also=also,
        progress=progress,
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
    _check_tokens(model, corpus)
    suffixes = [None if reference else Suffix.of(model, *at.hooks) for at in places]
    runs = {
        index: Run(suffix, patches[index].sae, corpus, places[index])
        for index, suffix in enumerate(suffixes)
        if suffix is not None
    }
    given_up = "asked for" if reference else "the hook points are in no block"
    found: dict[int, Found | str] = dict.fromkeys(range(len(patches)), given_up)
    context = corpus.tokens.shape[1]
    if runs:
        memory, names = Memory.of(cache, model, corpus), _sources(model, also)
        sweep = Sweep(model, list(runs.values()), corpus, memory, names)
        size = batch_size or windows(model, context, plain=False)
        found |= zip(runs, take_fast(sweep, corpus, size, progress), strict=True)
    measurements = []
    for index, (patch, at) in enumerate(zip(patches, places, strict=True)):
        result = found[index]
        if isinstance(result, str):
            size = batch_size or windows(model, context, plain=True)
            bars = Batches(corpus, size, at.read, progress)
            result = take_plain(model, patch.sae, corpus, at, bars, because=result)
        measurements.append(_measurement(model, patch.sae, corpus, at, result, expect_clean_ce))
    return measurements


def _sources(model: LanguageModel, also: Sequence[tuple[str, ...]]) -> list[str]:
    """What a clean run has to remember for other measurements, as far as the model has it."""
    known = [hooks for hooks in also if all(hook in model.bridge.hook_dict for hook in hooks)]
    suffixes = [(Suffix.of(model, *hooks), hooks) for hooks in known]
    return [name for suffix, hooks in suffixes if suffix for name in suffix.sources(*hooks)]


def _measurement(
    model: LanguageModel,
    sae: SAE,
    corpus: Corpus,
    at: Place,
    found: Found,
    expect_clean_ce: tuple[float, float] | None,
) -> Measurement:
    """The table, unless what was found cannot be right."""
    sums = {name: found.sums[name].numpy() for name in COLUMNS}
    clean_ce = sums["ce_clean"].sum() / sums["n_tokens"].sum()
    if expect_clean_ce is not None and not expect_clean_ce[0] <= clean_ce <= expect_clean_ce[1]:
        raise SetupError(
            f"clean cross-entropy is {clean_ce:.4f} nats, expect_clean_ce allows "
            f"[{expect_clean_ce[0]}, {expect_clean_ce[1]}]: wrong text, tokenizer, BOS or model"
        )
    if np.array_equal(sums["ce_zero"], sums["ce_clean"]):
        raise SetupError(
            f"zeros at hook point {at.replaced!r} of {model.name} leave every loss as it was: "
            "replacing this activation has no effect, so nothing can be measured here"
        )
    rows = np.arange(len(corpus.tokens), dtype=np.int64)
    provenance = _provenance(model, sae, corpus, at, found)
    tokens = TokenTable(
        corpus.scored[:, :-1].numpy(), {name: found.tokens[name].numpy() for name in TOKEN_COLUMNS}
    )
    sources = tuple(corpus.sources[row] for row in rows) if corpus.sources else ()
    measurement = Measurement(rows, sums, found.firings.numpy(), provenance, tokens, sources)
    return _with_excerpts(measurement, corpus, model.tokenizer)


def _with_excerpts(measurement: Measurement, corpus: Corpus, tokenizer: Any) -> Measurement:
    """The measurement, with the text of the worst of it."""
    shown = worst(measurement, tokens=_TOKENS_WITH_TEXT, sequences=_SEQUENCES_WITH_TEXT)
    places = [(token.sequence, token.position) for token in shown.tokens]
    sequences = [sequence.sequence for sequence in shown.sequences]
    return replace(measurement, excerpts=excerpts(corpus, tokenizer, places, sequences))


def _check_tokens(model: LanguageModel, corpus: Corpus) -> None:
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
        mean_sha256=hashlib.sha256(found.mean.numpy().tobytes()).hexdigest(),
        formula_versions={name: metric.version for name, metric in METRICS.items()},
        versions={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        device=str(model.device),
        paths=found.paths,
    )
