"""`compare` two versions on the same tokens: which is better, by how much, and on which texts."""

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
    for name, definition in METRICS.items()
    if definition.direction != "window" and definition.firing_above is None
)
"""Metrics that `compare` accepts as ``quality``: ratios of sums with a better direction."""


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`: every metric of two versions, paired on the same tokens."""

    before: str
    """Name of the earlier version."""
    after: str
    """Name of the later version."""
    hook: str
    hook_out: str | None
    tokens_sha256: str
    n_tokens: int
    n_sequences: int
    quality: str
    """Metric that the verdict is based on, together with L0."""
    confidence: float
    """Confidence level of the intervals."""
    alpha: float
    """Significance level of a difference."""
    margin: float
    """Relative difference up to which a metric counts as the same."""
    verdict: Standing | None
    """``after`` against ``before``; None where quality or L0 give no outcome."""
    no_verdict: str
    """The reason why there is no verdict; empty where there is one."""
    metrics: tuple[MetricMove, ...]
    undefined: Mapping[str, str]
    """Metric → why it is undefined in one of the versions."""
    refused: Mapping[str, str]
    """Metric → the formula versions, where they differ."""
    noted: tuple[str, ...]
    """Other differences that may change numbers slightly, one sentence each."""
    sequences: Moved[MovedSequence]
    """Sequences whose KL changed most."""
    tokens: Moved[MovedToken]
    """Tokens whose KL changed most."""
    no_tokens: str
    """The reason why single tokens were not compared; empty where they were."""

    def __getitem__(self, name: str) -> MetricMove:
        """Return the comparison of one metric; raise `KeyError` where it was not compared."""
        return {move.metric: move for move in self.metrics}[name]


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
    """Compare two versions on the same tokens: did ``after`` get better or worse than ``before``?

    All intervals and p-values are paired by sequence (`statistics.paired.move`). The verdict is on
    ``quality`` and L0 together: ``dominates`` if one is better and neither worse, ``dominated`` if
    one is worse and neither better, ``trade-off`` if one is better and the other worse, and
    ``same`` if no difference was detected. ``same`` does not prove that there is none: the interval
    shows how large it could be.

    Args:
        before: The earlier version.
        after: The later version.
        quality: Metric that the verdict is based on, together with L0; one of `QUALITIES`.
        confidence: Confidence level of the two-sided intervals.
        alpha: Significance level: a metric changed where its p-value is below it.
        margin: Relative difference up to which a metric counts as the same, whatever its p-value
            (`metric_move.outcome`).
        tokens: Number of tokens to list in each direction, those whose KL changed most.
        sequences: Number of sequences to list in each direction.

    Raises:
        NotComparableError: The versions differ in tokens, token policy, hook point, dtype,
            processing or clean model; the message lists every difference.
        SetupError: ``quality`` is not one of `QUALITIES`, or a number is out of range.
    """
    old, new = _version(before, "before"), _version(after, "after")
    _check(quality, confidence=confidence, alpha=alpha, margin=margin)
    comparability = differences(old.measurement, new.measurement)
    if comparability.refused:
        raise NotComparableError(old.name, new.name, comparability.refused)
    options = {"confidence": confidence, "alpha": alpha, "margin": margin}
    moves, undefined, refused = _moves(old, new, options)
    missing = {**undefined, **refused}
    no_verdict, verdict = _standing(moves, missing, quality)
    of_sequences, of_tokens, no_tokens = Moved[MovedSequence](), Moved[MovedToken](), ""
    if "kl" in missing:
        no_tokens = f"kl cannot be compared: {missing['kl']}"
    else:
        of_sequences = moved_sequences(old.measurement, new.measurement, sequences)
        no_tokens, of_tokens = _tokens(old, new, tokens)
    provenance = new.measurement.provenance
    return Comparison(
        before=old.name, after=new.name, hook=provenance.hook, hook_out=provenance.hook_out,
        tokens_sha256=provenance.corpus["sha256"], n_tokens=new.measurement.n_tokens,
        n_sequences=new.measurement.n_sequences,
        quality=quality, confidence=confidence, alpha=alpha, margin=margin,
        verdict=verdict, no_verdict=no_verdict,
        metrics=tuple(moves), undefined=undefined, refused=refused,
        noted=(*_same_checkpoint(old, new), *comparability.noted),
        sequences=of_sequences, tokens=of_tokens, no_tokens=no_tokens,
    )  # fmt: skip


def _moves(
    old: Version, new: Version, options: Mapping[str, float]
) -> tuple[list[MetricMove], dict[str, str], dict[str, str]]:
    """Compare every metric.

    Returns:
        The metrics that can be compared; metric → why it is undefined in one of the versions;
        metric → its formula versions, where they differ.
    """
    moves, undefined, refused = list[MetricMove](), dict[str, str](), dict[str, str]()
    before, after = old.measurement.provenance, new.measurement.provenance
    for name in METRICS:
        if (formula := formula_difference(before, after, name)) is not None:
            refused[name] = formula
            continue
        try:
            moves.append(metric_move(old, new, name, **options))
        except UndefinedMetricError as error:
            undefined[name] = str(error)
    return moves, undefined, refused


def _version(version: Version | Measurement, name: str) -> Version:
    return version if isinstance(version, Version) else Version(name, version)


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
    """Return the reason why there is no verdict, or an empty text and the verdict."""
    outcomes = {move.metric: move.outcome for move in moves}
    both = []
    for name in (quality, SPARSITY):
        if name in missing:
            return f"{name} cannot be compared: {missing[name]}", None
        result = outcomes[name]
        if result is None:
            return f"{name} cannot be tested: one sequence has no variance", None
        both.append(result)
    return "", standing(*both)


def _same_checkpoint(old: Version, new: Version) -> list[str]:
    files = [v.measurement.provenance.checkpoint.get("files") for v in (old, new)]
    return ["both are the same files of a checkpoint"] if files[0] and files[0] == files[1] else []


def _tokens(old: Version, new: Version, limit: int) -> tuple[str, Moved[MovedToken]]:
    """Return the reason why single tokens were not compared, or an empty text and the tokens."""
    if not limit:
        return "", Moved()
    before, after = old.token_kl, new.token_kl
    missing = [v.name for v, kl in ((old, before), (new, after)) if kl is None]
    if before is None or after is None:
        return f"no values of single tokens are known of {' and '.join(missing)}", Moved()
    try:
        return "", moved_tokens((old.measurement, before), (new.measurement, after), limit)
    except UndefinedMetricError as error:
        return str(error), Moved()
