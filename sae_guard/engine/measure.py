"""Measure: which path is taken, and what is checked before and after."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from sae_guard.cache import Cache
from sae_guard.core.measurement import FiringSpread, Measurement, Provenance, TokenTable
from sae_guard.core.metrics import METRICS
from sae_guard.core.statistics import ratio_interval
from sae_guard.core.worst_tokens import worst
from sae_guard.corpus import Corpus, excerpts
from sae_guard.engine import sweep
from sae_guard.engine.batch_size import windows
from sae_guard.engine.fast_path import FastPath
from sae_guard.engine.intervention import Intervention
from sae_guard.engine.memory import Memory
from sae_guard.engine.plain import PlainPath
from sae_guard.engine.sae_run import SaeRun
from sae_guard.engine.sweep import PathResult, SweepPath
from sae_guard.errors import SetupError
from sae_guard.model import LanguageModel, Suffix
from sae_guard.sae import SAE

_SURE_OF_CLEAN_CE = 0.9999
"""Confidence with which the first rows have to say that the setup is wrong."""

# More than are shown of all tokens: those that are shown of a slice shall have their text too.
_TOKENS_WITH_TEXT, _SEQUENCES_WITH_TEXT = 64, 16


Look = Callable[[Measurement], bool]
"""What has been measured so far → whether that is enough."""


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
        model, [Intervention(sae, hook, hook_out)], corpus, batch_size=batch_size,
        expect_clean_ce=expect_clean_ce, reference=reference, random_error=random_error,
        cache=cache, also=also, progress=progress,
    )  # fmt: skip
    return measurement


def measure_all(
    model: LanguageModel,
    interventions: Sequence[Intervention],
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
    options = _Options(
        batch_size, expect_clean_ce, reference, random_error, cache, also, progress,
        stretches=[slice(0, len(corpus.tokens))],
    )  # fmt: skip
    return _measure(model, interventions, corpus, options)


def measure_until(
    model: LanguageModel,
    intervention: Intervention,
    corpus: Corpus,
    look: Look,
    *,
    centred: bool,
    spread: bool = False,
    random_error: bool = False,
    batch_size: int | None = None,
    expect_clean_ce: tuple[float, float] | None = None,
    reference: bool = False,
    cache: Cache | None = None,
    also: Sequence[tuple[str, ...]] = (),
    progress: TextIO | None = None,
) -> Measurement:
    """Measure the windows, a shard at a time, until ``look`` has seen enough.

    What was measured whole before is given whole. Looks are taken after each shard, whatever the
    batches are, so that they do not depend on the machine; none is taken of all windows.

    Args:
        model: As in `measure`, like all that is not named here.
        intervention: The SAE and its hook points.
        corpus: Of windows in random order.
        look: Asked after each shard.
        centred: Whether the metrics about μ are asked for: clean runs of the whole corpus up to the
            hook point find it first. Otherwise their columns are NaN where it is not known, unless
            all rows are measured.
        spread: Whether to count how evenly latents fire on the sequences.
        random_error: As in `measure`.
        batch_size: As in `measure`.
        expect_clean_ce: As in `measure`; of some rows, a loss that is surely outside.
        reference: As in `measure`.
        cache: As in `measure`.
        also: As in `measure`.
        progress: As in `measure`.

    Raises:
        SaeGuardError: As `measure`.
    """
    options = _Options(
        batch_size, expect_clean_ce, reference, random_error, cache, also, progress,
        stretches=sweep.shuffled(corpus, intervention.sae), look=look, centred=centred,
        spread=spread,
    )  # fmt: skip
    (measurement,) = _measure(model, [intervention], corpus, options)
    return measurement


@dataclass(frozen=True)
class _Options:
    """How to measure: what `measure` and `measure_until` take."""

    batch_size: int | None
    expect_clean_ce: tuple[float, float] | None
    reference: bool
    random_error: bool
    cache: Cache | None
    also: Sequence[tuple[str, ...]]
    progress: TextIO | None
    stretches: Sequence[slice]
    """As `sweep.run` takes them."""
    look: Look = lambda measurement: False
    """Of one SAE."""
    centred: bool = False
    spread: bool = False


def _measure(
    model: LanguageModel, interventions: Sequence[Intervention], corpus: Corpus, options: _Options
) -> list[Measurement]:
    """Measure on the fast path, and on the plain one what it is not to be taken for."""
    sites = [intervention.at for intervention in interventions]
    for name in (hook for at in sites for hook in at.hooks):
        model.check_hook(name)
    check_tokens(model, corpus)
    measurements: dict[int, Measurement] = {}
    because = "asked for" if options.reference else "the hook points are in no block"
    reasons = dict.fromkeys(range(len(interventions)), because)
    suffixes = [None if options.reference else Suffix.of(model, *at.hooks) for at in sites]
    runs = {
        index: SaeRun(
            suffix, interventions[index].sae, corpus, sites[index],
            random_error=options.random_error, spread=options.spread,
        )
        for index, suffix in enumerate(suffixes)
        if suffix is not None
    }  # fmt: skip
    if runs:
        memory, names = Memory.of(options.cache, model, corpus), sources(model, options.also)
        fast = FastPath(model, [*runs.values()], corpus, memory, names, centred=options.centred)
        tables = _swept(fast, model, [interventions[index] for index in runs], corpus, options)
        for index, table in zip(runs, tables, strict=True):
            if isinstance(table, str):
                reasons[index] = table
            else:
                measurements[index] = table
    for index in [index for index in reasons if index not in measurements]:
        plain = PlainPath(
            model, interventions[index].sae, corpus, sites[index], because=reasons[index],
            random_error=options.random_error, spread=options.spread,
        )  # fmt: skip
        (table,) = _swept(plain, model, [interventions[index]], corpus, options)
        assert isinstance(table, Measurement)
        measurements[index] = table
    return [measurements[index] for index in range(len(interventions))]


def _swept(
    path: SweepPath,
    model: LanguageModel,
    interventions: Sequence[Intervention],
    corpus: Corpus,
    options: _Options,
) -> list[Measurement | str]:
    """Measure on a path; return of each SAE its measurement, or why the path is not to be taken."""

    def tables(stretches: Sequence[slice]) -> list[Measurement | str]:
        mask = np.zeros(len(corpus.tokens), dtype=np.bool_)
        for part in stretches:
            mask[part] = True
        rows = np.flatnonzero(mask)
        return [
            result
            if isinstance(result, str)
            else tabled(model, intervention, corpus, result, options.expect_clean_ce, rows)
            for intervention, result in zip(interventions, path.results(), strict=True)
        ]

    def enough(stretches: Sequence[slice]) -> bool:
        (table,) = tables(stretches)
        return isinstance(table, Measurement) and options.look(table)

    context = corpus.tokens.shape[1]
    size = options.batch_size or windows(model, context, plain=path.every_logit)
    stretches = sweep.run(path, corpus, options.stretches, size, enough, options.progress)
    return [
        table if isinstance(table, str) else with_excerpts(table, corpus, model.tokenizer)
        for table in tables(stretches)
    ]


def sources(model: LanguageModel, also: Sequence[tuple[str, ...]]) -> list[str]:
    """What a clean run has to remember for other measurements, as far as the model has it."""
    known = [hooks for hooks in also if all(hook in model.bridge.hook_dict for hook in hooks)]
    suffixes = [(Suffix.of(model, *hooks), hooks) for hooks in known]
    return [name for suffix, hooks in suffixes if suffix for name in suffix.sources(*hooks)]


def tabled(
    model: LanguageModel,
    intervention: Intervention,
    corpus: Corpus,
    result: PathResult,
    expect_clean_ce: tuple[float, float] | None,
    rows: NDArray[np.int64],
) -> Measurement:
    """Make the table of these rows; raise `SetupError` if what was measured cannot be right."""
    whole = len(rows) == len(corpus.tokens)
    sums = {name: column.numpy()[rows] for name, column in result.sums.items()}
    if expect_clean_ce is not None:
        _check_clean_ce(sums, expect_clean_ce, whole=whole)
    if np.array_equal(sums["ce_zero"], sums["ce_clean"]):
        hook = intervention.at.replaced
        raise SetupError(
            f"zeros at hook point {hook!r} of {model.name} leave every loss as it was: "
            "replacing this activation has no effect, so nothing can be measured here"
        )
    tokens = TokenTable(
        corpus.scored[:, :-1].numpy()[rows],
        {name: column.numpy()[rows] for name, column in result.tokens.items()},
    )
    return Measurement(
        rows,
        sums,
        result.firings.numpy(),
        _provenance(model, intervention, corpus, result),
        tokens,
        tuple(corpus.sources[row] for row in rows) if corpus.sources else (),
        spread=None if result.spread is None else FiringSpread(*result.spread.numpy()),
        whole_sq_deviation=None if whole else result.sq_deviation,
    )


def with_excerpts(measurement: Measurement, corpus: Corpus, tokenizer: Any) -> Measurement:
    """The measurement, with the text of the worst of it."""
    texts = worst(measurement, tokens=_TOKENS_WITH_TEXT, sequences=_SEQUENCES_WITH_TEXT)
    places = [(token.sequence, token.position) for token in texts.tokens]
    sequences = [sequence.sequence for sequence in texts.sequences]
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
    model: LanguageModel, intervention: Intervention, corpus: Corpus, result: PathResult
) -> Provenance:
    at, mean = intervention.at, result.mean
    packages = ("sae-guard", "torch", "transformers", "transformer-lens")
    return Provenance(
        model=model.identity,
        checkpoint=intervention.sae.identity,
        corpus=corpus.identity,
        hook=at.read,
        hook_out=None if at.read == at.replaced else at.replaced,
        mean_sha256="" if mean is None else sha256(mean.numpy().tobytes()).hexdigest(),
        formula_versions={name: metric.version for name, metric in METRICS.items()},
        versions={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        device=str(model.device),
        paths=result.paths,
    )
