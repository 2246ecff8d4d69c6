"""Two versions on the same tokens: which is better, by how much, and where it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sae_guard.core.comparison.comparable import NotComparableError, differences, formula_difference
from sae_guard.core.comparison.metric_move import (
    SPARSITY,
    MetricMove,
    Standing,
    Version,
    metric_move,
    standing,
)
from sae_guard.core.comparison.moved import (
    Moved,
    MovedSequence,
    MovedToken,
    moved_sequences,
    moved_tokens,
)
from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.errors import SetupError, UndefinedMetricError, allowed

QUALITIES = tuple(
    name
    for name, each in METRICS.items()
    if each.direction != "window" and each.firing_above is None
)
"""Metrics that can stand for quality beside L0: those of rows that have a better side."""


@dataclass(frozen=True)
class Comparison:
    """What became of the metrics from one version to another, row by row on the same tokens."""

    before: str
    after: str
    """Names of the versions."""
    hook: str
    hook_out: str | None
    tokens_sha256: str
    n_tokens: int
    n_sequences: int
    quality: str
    """Which metric the verdict looks at beside L0."""
    confidence: float
    alpha: float
    margin: float
    verdict: Standing | None
    """Of ``after`` against ``before``; None where quality or L0 do not tell."""
    no_verdict: str
    """Why there is none; empty where there is one."""
    metrics: tuple[MetricMove, ...]
    undefined: Mapping[str, str]
    """Metric → why it has no value in one of them."""
    refused: Mapping[str, str]
    """Metric → why its values are of different formulas."""
    noted: tuple[str, ...]
    """What else differs and may move numbers a little."""
    sequences: Moved[MovedSequence]
    tokens: Moved[MovedToken]
    no_tokens: str
    """Why nothing is known of single tokens; empty where it is."""

    def __getitem__(self, name: str) -> MetricMove:
        """How a metric moved; raises `KeyError` of one that was not compared."""
        return {each.metric: each for each in self.metrics}[name]


def compare(
    before: Version | Measurement,
    after: Version | Measurement,
    *,
    quality: str = "kl",
    confidence: float = 0.95,
    alpha: float = 0.01,
    margin: float = 0.01,
    tokens: int = 5,
    sequences: int = 5,
) -> Comparison:
    """Did ``after`` get better or worse than ``before``, on the same tokens?

    All intervals and p-values are paired by sequence (`statistics.paired.move`). The verdict is of
    ``quality`` and L0 together: ``dominates`` if one is better and none worse, ``dominated`` if one
    is worse and none better, ``trade-off`` if one is better and the other worse, and ``same`` if no
    difference was found, which is not that there is none: the interval says how large it could be.

    Args:
        before: What is compared with.
        after: What is compared.
        quality: Metric that the verdict looks at beside L0; of `QUALITIES`.
        confidence: Of the intervals, two-sided.
        alpha: A metric moved where its p is below it.
        margin: A move of this share of what the metric was, or less, is the same whatever its p
            (`standing.outcome`).
        tokens: How many of those that moved most, each way.
        sequences: Likewise.

    Raises:
        NotComparableError: They are of other tokens, another policy, hook point, dtype, processing
            or clean model; all of it is listed.
        SetupError: ``quality`` is no such metric, or a number is out of its range.
    """
    old, new = _version(before, "before"), _version(after, "after")
    _check(quality, confidence=confidence, alpha=alpha, margin=margin)
    told = differences(old.measurement, new.measurement)
    if told.refused:
        raise NotComparableError(old.name, new.name, told.refused)
    how = {"confidence": confidence, "alpha": alpha, "margin": margin}
    moves, undefined, refused = _moves(old, new, how)
    missing = {**undefined, **refused}
    why, verdict = _standing(moves, missing, quality)
    of_sequences, of_tokens, no_tokens = Moved[MovedSequence](), Moved[MovedToken](), ""
    if "kl" in missing:
        no_tokens = f"kl cannot be compared: {missing['kl']}"
    else:
        of_sequences = moved_sequences(old.measurement, new.measurement, sequences)
        no_tokens, of_tokens = _tokens(old, new, tokens)
    return Comparison(
        before=old.name,
        after=new.name,
        hook=new.measurement.provenance.hook,
        hook_out=new.measurement.provenance.hook_out,
        tokens_sha256=new.measurement.provenance.corpus["sha256"],
        n_tokens=new.measurement.n_tokens,
        n_sequences=new.measurement.n_sequences,
        quality=quality,
        confidence=confidence,
        alpha=alpha,
        margin=margin,
        verdict=verdict,
        no_verdict=why,
        metrics=tuple(moves),
        undefined=undefined,
        refused=refused,
        noted=(*_same_checkpoint(old, new), *told.noted),
        sequences=of_sequences,
        tokens=of_tokens,
        no_tokens=no_tokens,
    )


def _moves(
    old: Version, new: Version, how: Mapping[str, float]
) -> tuple[list[MetricMove], dict[str, str], dict[str, str]]:
    """Of each metric how it moved, or why it has no value in one of them, or no one formula."""
    moves, undefined, refused = list[MetricMove](), dict[str, str](), dict[str, str]()
    before, after = old.measurement.provenance, new.measurement.provenance
    for name in METRICS:
        if (formula := formula_difference(before, after, name)) is not None:
            refused[name] = formula
            continue
        try:
            moves.append(metric_move(old, new, name, **how))
        except UndefinedMetricError as error:
            undefined[name] = str(error)
    return moves, undefined, refused


def _version(given: Version | Measurement, name: str) -> Version:
    return given if isinstance(given, Version) else Version(name, given)


def _check(quality: str, *, confidence: float, alpha: float, margin: float) -> None:
    if quality not in QUALITIES:
        raise SetupError(f"quality is {quality!r}; {allowed(quality, QUALITIES)}")
    for name, value, low, high in (
        ("confidence", confidence, 0.5, 1.0),
        ("alpha", alpha, 0.0, 0.5),
    ):
        if not low < value < high:
            raise SetupError(f"{name} is {value}, allowed: above {low:g} and below {high:g}")
    if not 0 <= margin < 1:
        raise SetupError(f"margin is {margin}, allowed: from 0 and below 1")


def _standing(
    moves: list[MetricMove], missing: Mapping[str, str], quality: str
) -> tuple[str, Standing | None]:
    """Why there is no verdict, or the verdict."""
    outcomes = {each.metric: each.outcome for each in moves}
    found = []
    for name in (quality, SPARSITY):
        if name in missing:
            return f"{name} cannot be compared: {missing[name]}", None
        told = outcomes[name]
        if told is None:
            return f"of {name} one sequence does not tell: it has no spread", None
        found.append(told)
    return "", standing(*found)


def _same_checkpoint(old: Version, new: Version) -> list[str]:
    files = [v.measurement.provenance.checkpoint.get("files") for v in (old, new)]
    return ["both are the same files of a checkpoint"] if files[0] and files[0] == files[1] else []


def _tokens(old: Version, new: Version, most: int) -> tuple[str, Moved[MovedToken]]:
    """Why nothing is known of single tokens, or those that moved most."""
    if not most:
        return "", Moved()
    before, after = old.token_kl, new.token_kl
    missing = [v.name for v, kl in ((old, before), (new, after)) if kl is None]
    if before is None or after is None:
        return f"no values of single tokens are known of {' and '.join(missing)}", Moved()
    try:
        return "", moved_tokens((old.measurement, before), (new.measurement, after), most)
    except UndefinedMetricError as error:
        return str(error), Moved()
