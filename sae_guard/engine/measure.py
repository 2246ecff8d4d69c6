"""Measure SAEs: choose the path, check the inputs before and the numbers after."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, TextIO, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from sae_guard.cache import Cache
from sae_guard.core.measurement import FiringSpread, Measurement, Provenance, TokenTable
from sae_guard.core.metrics import METRICS
from sae_guard.core.statistics import ratio_interval
from sae_guard.core.worst_tokens import worst
from sae_guard.corpus import Corpus, excerpts
from sae_guard.engine import sweep
from sae_guard.engine.batch_size import default_batch_size
from sae_guard.engine.fast_path import FastPath
from sae_guard.engine.intervention import Intervention
from sae_guard.engine.memory import Memory
from sae_guard.engine.plain import PlainPath
from sae_guard.engine.sae_run import SaeRun
from sae_guard.engine.sweep import PathResult, SweepPath
from sae_guard.errors import SetupError
from sae_guard.model import LanguageModel, Suffix
from sae_guard.sae import SAE

_CLEAN_CE_CONFIDENCE = 0.9999
"""Confidence of the interval by which a part of the rows shows that the setup is wrong."""

# More than a report shows of all tokens, so that the ones it shows of a slice have text too.
_TOKENS_WITH_TEXT, _SEQUENCES_WITH_TEXT = 64, 16


IsEnough = Callable[[Measurement], bool]
"""Function that says of the measurement so far whether measuring may stop."""


class MeasureOptions(TypedDict, total=False):
    """Options of every measurement, with their defaults in `_Arguments`."""

    batch_size: int | None
    """Windows per forward pass, at most; None chooses by window length and free memory. It changes
    the result by rounding only."""
    expect_clean_ce: tuple[float, float] | None
    """Lowest and highest clean cross-entropy of a correct setup, in nats."""
    reference: bool
    """True to run the complete model for everything, as an audit of the fast path."""
    random_error: bool
    """True to measure also KL with a random error as long as the SAE's, which `kl_vs_random_error`
    needs. It costs one more patched run."""
    cache: Cache | None
    """Cache that stores clean runs and unfinished measurements, or None."""
    later_hooks: Sequence[tuple[str, ...]]
    """Hook points of later measurements of this model and corpus: (read,), or (read, replaced) of a
    transcoder. A clean run stores their activations in the cache too."""
    progress: TextIO | None
    """Stream to draw a progress bar on, once the measurement takes longer than 2 s."""


def measure(
    model: LanguageModel,
    sae: SAE,
    corpus: Corpus,
    hook: str,
    *,
    hook_out: str | None = None,
    **options: Unpack[MeasureOptions],
) -> Measurement:
    """Measure every metric of an SAE in a model on a corpus.

    Args:
        model: Language model, which runs on its own device.
        sae: SAE, which may be on another device than the model.
        corpus: Fixed token set.
        hook: Hook point that the SAE reads, and whose activation the reconstruction replaces.
        hook_out: Hook point that a transcoder replaces instead.
        options: Options of every measurement.

    Returns:
        One row per window, with the sums of every column.

    Raises:
        SetupError: Unknown hook point, a window longer than the model's context, tokens outside
            its vocabulary, a clean loss outside ``expect_clean_ce``, or a hook point without
            effect on the logits.
        LoadError: The SAE has another width than the hook point, is a transcoder without
            ``hook_out``, or has a ``hook_out`` and is no transcoder.
        InfrastructureError: Out of memory.
    """
    (measurement,) = measure_all(model, [Intervention(sae, hook, hook_out)], corpus, **options)
    return measurement


def measure_all(
    model: LanguageModel,
    interventions: Sequence[Intervention],
    corpus: Corpus,
    **options: Unpack[MeasureOptions],
) -> list[Measurement]:
    """Measure several SAEs, each by itself in the model, in one sweep that shares the clean run.

    Args and errors as for `measure`; the SAEs are in memory at the same time.

    Returns:
        A measurement for each intervention, in the same order.
    """
    arguments = _Arguments(**options, segments=[slice(0, len(corpus.tokens))])
    return _measure(model, interventions, corpus, arguments)


def measure_until(
    model: LanguageModel,
    intervention: Intervention,
    corpus: Corpus,
    is_enough: IsEnough,
    *,
    centred: bool,
    spread: bool = False,
    **options: Unpack[MeasureOptions],
) -> Measurement:
    """Measure the windows shard by shard until ``is_enough`` returns True.

    ``is_enough`` is called after each shard, whatever the batch size, so that its decisions do not
    depend on the machine. It is not called after the last shard, nor if the cache holds the
    complete measurement, which is then returned.

    Args:
        model: As in `measure`.
        intervention: SAE and its hook points.
        corpus: Windows in random order.
        is_enough: Decides whether measuring may stop.
        centred: True if metrics that use the mean activation μ are needed early. μ then comes from
            clean runs of the whole corpus up to the hook point. Otherwise the columns that use μ
            are NaN unless all windows are measured.
        spread: True to measure `FiringSpread`, the variance of each latent's firing counts.
        options: Options of every measurement. While rows are missing, the limits of
            ``expect_clean_ce`` must be missed with confidence.

    Returns:
        A measurement with the rows of the shards that were measured.

    Raises:
        SaeGuardError: As in `measure`.
    """
    arguments = _Arguments(
        **options, segments=sweep.shuffled_shards(corpus, intervention.sae), is_enough=is_enough,
        centred=centred, spread=spread,
    )  # fmt: skip
    (measurement,) = _measure(model, [intervention], corpus, arguments)
    return measurement


@dataclass(frozen=True, kw_only=True)
class _Arguments:
    """Arguments of `measure_all` and `measure_until`."""

    batch_size: int | None = None
    expect_clean_ce: tuple[float, float] | None = None
    reference: bool = False
    random_error: bool = False
    cache: Cache | None = None
    later_hooks: Sequence[tuple[str, ...]] = ()
    progress: TextIO | None = None
    segments: Sequence[slice]
    """Parts of the corpus in the order in which they are measured, as in `sweep.run`."""
    is_enough: IsEnough = lambda measurement: False
    """Stopping rule of the measurement of one SAE."""
    centred: bool = False
    spread: bool = False


def _measure(
    model: LanguageModel, interventions: Sequence[Intervention], corpus: Corpus, options: _Arguments
) -> list[Measurement]:
    """Measure on the fast path, or on the plain path where the fast one cannot be used."""
    sites = [intervention.site for intervention in interventions]
    for hook in (hook for site in sites for hook in site.hooks):
        model.check_hook(hook)
    check_tokens(model, corpus)
    default_reason = "asked for" if options.reference else "the hook points are in no block"
    # Measurement of each intervention, or the reason why it is measured on the plain path.
    outcomes: list[Measurement | str] = [default_reason] * len(interventions)
    runs: dict[int, SaeRun] = {}
    for index, (intervention, site) in enumerate(zip(interventions, sites, strict=True)):
        suffix = None if options.reference else Suffix.from_hooks(model, *site.hooks)
        if suffix is not None:
            runs[index] = SaeRun(
                suffix, intervention.sae, corpus, site,
                random_error=options.random_error, spread=options.spread,
            )  # fmt: skip
    if runs:
        memory = Memory.from_cache(options.cache, model, corpus)
        later_hooks = hooks_to_store(model, options.later_hooks)
        fast = FastPath(
            model, [*runs.values()], corpus, memory, later_hooks, centred=options.centred
        )
        on_fast_path = [interventions[index] for index in runs]
        results = _measure_on_path(fast, model, on_fast_path, corpus, options)
        for index, result in zip(runs, results, strict=True):
            outcomes[index] = result
    measurements = []
    for intervention, site, outcome in zip(interventions, sites, outcomes, strict=True):
        if isinstance(outcome, str):
            plain = PlainPath(
                model, intervention.sae, corpus, site, reason=outcome,
                random_error=options.random_error, spread=options.spread,
            )  # fmt: skip
            (outcome,) = _measure_on_path(plain, model, [intervention], corpus, options)
        assert isinstance(outcome, Measurement)
        measurements.append(outcome)
    return measurements


def _measure_on_path(
    path: SweepPath,
    model: LanguageModel,
    interventions: Sequence[Intervention],
    corpus: Corpus,
    options: _Arguments,
) -> list[Measurement | str]:
    """Measure on a path; return for each SAE its measurement, or why the path is rejected."""

    def measurements_of(segments: Sequence[slice]) -> list[Measurement | str]:
        # Rows in the order of the corpus, whatever order their segments were measured in.
        mask = np.zeros(len(corpus.tokens), dtype=np.bool_)
        for segment in segments:
            mask[segment] = True
        rows = np.flatnonzero(mask)
        return [
            result
            if isinstance(result, str)
            else build_measurement(
                model, intervention, corpus, result, options.expect_clean_ce, rows
            )
            for intervention, result in zip(interventions, path.results(), strict=True)
        ]

    def is_enough(segments: Sequence[slice]) -> bool:
        (measurement,) = measurements_of(segments)
        return isinstance(measurement, Measurement) and options.is_enough(measurement)

    context = corpus.tokens.shape[1]
    size = options.batch_size or default_batch_size(model, context, plain=path.every_logit)
    segments = sweep.run(path, corpus, options.segments, size, is_enough, options.progress)
    return [
        result if isinstance(result, str) else add_excerpts(result, corpus, model.tokenizer)
        for result in measurements_of(segments)
    ]


def hooks_to_store(model: LanguageModel, later_hooks: Sequence[tuple[str, ...]]) -> list[str]:
    """List the hook points whose clean activations later measurements need from the cache.

    Args:
        model: Language model.
        later_hooks: Hook points of the later measurements; those that the model lacks are skipped.
    """
    existing = [
        hooks for hooks in later_hooks if all(hook in model.bridge.hook_dict for hook in hooks)
    ]
    suffixes = [(Suffix.from_hooks(model, *hooks), hooks) for hooks in existing]
    return [name for suffix, hooks in suffixes if suffix for name in suffix.clean_hooks(*hooks)]


def build_measurement(
    model: LanguageModel,
    intervention: Intervention,
    corpus: Corpus,
    result: PathResult,
    expect_clean_ce: tuple[float, float] | None,
    rows: NDArray[np.int64],
) -> Measurement:
    """Build the measurement of some rows.

    Args:
        model: Language model.
        intervention: SAE and its hook points.
        corpus: Windows.
        result: Numbers of a path.
        expect_clean_ce: As in `measure`.
        rows: Indices of the windows that were measured.

    Raises:
        SetupError: The clean loss or the effect of an ablation shows that the setup is wrong.
    """
    is_complete = len(rows) == len(corpus.tokens)
    sums = {name: column.numpy()[rows] for name, column in result.sums.items()}
    if expect_clean_ce is not None:
        _check_clean_ce(sums, expect_clean_ce, is_complete=is_complete)
    # A replacement that reaches the logits changes at least one loss by its last bit.
    if np.array_equal(sums["ce_zero"], sums["ce_clean"]):
        hook = intervention.site.replaced
        raise SetupError(
            f"hook point {hook!r} of {model.name} has no effect: zeros there leave every loss as "
            "it was, so nothing can be measured; use another hook point"
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
        whole_sq_deviation=None if is_complete else result.sq_deviation,
    )


def add_excerpts(measurement: Measurement, corpus: Corpus, tokenizer: Any) -> Measurement:
    """Add the text around the worst tokens, and the beginnings of the worst sequences."""
    worst_places = worst(measurement, tokens=_TOKENS_WITH_TEXT, sequences=_SEQUENCES_WITH_TEXT)
    positions = [(token.sequence, token.position) for token in worst_places.tokens]
    sequences = [sequence.sequence for sequence in worst_places.sequences]
    return replace(measurement, excerpts=excerpts(corpus, tokenizer, positions, sequences))


def _check_clean_ce(
    sums: Mapping[str, NDArray[np.float64]], expected: tuple[float, float], *, is_complete: bool
) -> None:
    """Raise `SetupError` if the clean loss, or its interval while rows are missing, is outside."""
    low = high = sums["ce_clean"].sum() / sums["n_tokens"].sum()
    if not is_complete:
        interval = ratio_interval(
            sums["ce_clean"], sums["n_tokens"], float(low), confidence=_CLEAN_CE_CONFIDENCE
        )
        # Too few rows for an interval can show nothing.
        low, high = interval or (-math.inf, math.inf)
    # Written so that a NaN is an error.
    if not (low <= expected[1] and high >= expected[0]):
        clean = sums["ce_clean"].sum() / sums["n_tokens"].sum()
        raise SetupError(
            f"clean cross-entropy is {clean:.4f} nats, but expect_clean_ce allows "
            f"[{expected[0]}, {expected[1]}]: check the text, tokenizer, BOS and model"
        )


def check_tokens(model: LanguageModel, corpus: Corpus) -> None:
    """Check that the model can run the windows, and that a token is scored.

    Raises:
        SetupError: No token is scored, a window is longer than the model's context, or a token id
            is outside the vocabulary.
    """
    if not bool(corpus.scored[:, :-1].any()):
        raise SetupError(
            "no token is scored: every position holds an excluded token; exclude fewer tokens or "
            "use other text"
        )
    length, largest = corpus.tokens.shape[1], int(corpus.tokens.max())
    if length > model.context_size:
        raise SetupError(
            f"the windows have {length} tokens, but {model.name} has {model.context_size} "
            "positions; use shorter windows"
        )
    smallest = int(corpus.tokens.min())
    if largest >= model.vocabulary_size or smallest < 0:
        token = smallest if smallest < 0 else largest
        raise SetupError(
            f"token id {token} is outside the vocabulary of {model.name}, 0 to "
            f"{model.vocabulary_size - 1}; use tokens of the model's own tokenizer"
        )


def _provenance(
    model: LanguageModel, intervention: Intervention, corpus: Corpus, result: PathResult
) -> Provenance:
    site, mean = intervention.site, result.mean
    packages = ("sae-guard", "torch", "transformers", "transformer-lens")
    return Provenance(
        model=model.identity,
        checkpoint=intervention.sae.identity,
        corpus=corpus.identity,
        hook=site.read,
        hook_out=None if site.read == site.replaced else site.replaced,
        mean_sha256="" if mean is None else sha256(mean.numpy().tobytes()).hexdigest(),
        formula_versions={name: metric.version for name, metric in METRICS.items()},
        versions={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        device=str(model.device),
        paths=result.paths,
    )
