"""All metrics of a measurement, those without a threshold too → lines. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.core.report import Outcome
from sae_guard.errors import UndefinedMetricError
from sae_guard.render.terminal_summary import half, path_lines, verdict_words
from sae_guard.render.words import bounds, sample, shown
from sae_guard.tables import table_lines

_TITLES = ("metric", "value", "± 95 %", "unit", "bound", "verdict")


def every_metric(
    measurement: Measurement, judged: Sequence[Outcome], *, spec: str, name: str, checkpoint: str
) -> list[Outcome]:
    """An outcome of every metric, in the order of the README, then those of other views.

    Args:
        measurement: Of a checkpoint at a spec.
        judged: The outcomes of the thresholds.
        spec: As outcomes have it, like the rest.
        name: Of the document.
        checkpoint: Its label.
    """
    by_metric = {outcome.metric: outcome for outcome in judged}
    found = [
        by_metric.get(metric)
        or _unbounded(measurement, metric, Outcome(spec, name, checkpoint, metric, "", "metric"))
        for metric in METRICS
    ]
    return [*found, *(outcome for outcome in judged if outcome.metric not in METRICS)]


def metric_table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A title and a row for each outcome of one case; what is undefined says why."""
    first = outcomes[0]
    measured = next(outcome for outcome in outcomes if outcome.n_tokens is not None)
    yield f"{first.spec}::{first.name} [{first.checkpoint}]  {sample(measured)}"
    yield from path_lines(max(outcomes, key=lambda outcome: len(outcome.provenance)))
    yield from table_lines([_TITLES, *map(_row, outcomes)], right=(1, 2, 4), indent="  ")


def _unbounded(measurement: Measurement, metric: str, empty: Outcome) -> Outcome:
    told = replace(empty, unit=METRICS[metric].unit, n_tokens=measurement.n_tokens,
                   n_sequences=measurement.n_sequences)  # fmt: skip
    try:
        estimate = measurement.estimate(metric)
    except UndefinedMetricError as error:
        return replace(told, message=str(error))
    if not math.isfinite(estimate.value):
        return replace(told, message=f"it is {estimate.value}")
    return replace(told, **asdict(estimate))


def _row(outcome: Outcome) -> tuple[str, ...]:
    told = verdict_words(outcome) if outcome.verdict else ""
    if outcome.value is None:
        told = f"{told}: {_briefly(outcome)}" if told else _briefly(outcome)
    unit = "" if outcome.change == "share" else outcome.unit
    return (
        outcome.metric, shown(outcome), half(outcome), unit, bounds(outcome, short=True), told,
    )  # fmt: skip


def _briefly(outcome: Outcome) -> str:
    """Why there is no value, without the metric's name and formula; of one that nobody bounds,
    without what to do about it."""
    why = outcome.message.removeprefix(outcome.metric).removeprefix(": ")
    if why.startswith(" = "):
        return why.partition(": ")[2]
    return (why.partition(": ")[0] if outcome.kind == "metric" else why).strip()
