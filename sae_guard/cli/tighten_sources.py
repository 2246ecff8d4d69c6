"""What was measured for the thresholds of a spec, or why it is not.

It comes from the outcomes of a run of pytest, or of the records of a version.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_guard.cli.records import opened, read, without_collection
from sae_guard.core.metrics import METRICS
from sae_guard.core.report import Outcome
from sae_guard.core.statistics import Estimate, rescaled
from sae_guard.core.targets import Target, level
from sae_guard.core.thresholds import Threshold
from sae_guard.core.tightening import Measured
from sae_guard.core.verdicts import judge
from sae_guard.errors import SetupError, allowed
from sae_guard.history import History, Recorded, meant
from sae_guard.history.record import MetricRow, ThresholdRow
from sae_guard.specs import Spec


def of_file(outcomes: Sequence[Outcome], path: Path, *, file: str) -> list[Outcome]:
    """The outcomes of the spec file at ``path``; raises like `of_path`."""
    name = of_path({outcome.spec for outcome in outcomes}, path, file=file)
    return [outcome for outcome in outcomes if outcome.spec == name]


def of_path(names: Collection[str], path: Path, *, file: str) -> str:
    """Which of the names is that of the spec file at ``path``.

    They are paths from the root folder of a run, which need not be the folder that we are in.

    Raises:
        SetupError: None is, or several could be.
    """
    known = sorted(names)
    own = [name for name in known if _ends_with(path.absolute(), name)]
    own = own or [name for name in known if _ends_with(path.resolve(), name)]
    if not own:
        raise SetupError(
            f"{file} has no verdict by {path}; it has those by {', '.join(known) or 'none'}"
        )
    if len(own) > 1:
        raise SetupError(f"{file} has specs that could be {path}: {', '.join(own)}")
    return own[0]


def _ends_with(path: Path, name: str) -> bool:
    parts = Path(name).parts
    return bool(parts) and path.parts[-len(parts) :] == parts


def of_checkpoints(
    outcomes: Sequence[Outcome], checkpoints: Sequence[str], *, file: str
) -> list[Outcome]:
    """The outcomes of these checkpoints, or of all; those of controls stay.

    Raises:
        SetupError: One of them has none.
    """
    names = {outcome.checkpoint for outcome in outcomes if not _is_control(outcome)}
    for name in checkpoints:
        if name not in names:
            raise SetupError(f"{file} has no checkpoint {name!r}; {allowed(name, names)}")
    return [
        outcome
        for outcome in outcomes
        if not checkpoints or outcome.checkpoint in checkpoints or _is_control(outcome)
    ]


def of_spec(outcomes: Sequence[Outcome], spec: Spec, *, file: str) -> dict[Target, list[Measured]]:
    """What the outcomes say of the thresholds of one document of the spec file.

    Raises:
        SetupError: One of them is an error, an early estimate, or of other tokens or another place
            than the spec now names; or is there of some checkpoints only.
    """
    own = [outcome for outcome in outcomes if outcome.name == spec.name]
    problems = [text for outcome in own for text in _problems(outcome, spec)]
    if problems:
        raise SetupError("\n".join(f"{file}: {text}" for text in dict.fromkeys(problems)))
    thresholds = {str(threshold.target): threshold for threshold in spec.thresholds}
    found: dict[Target, list[Measured]] = {}
    for outcome in own:
        threshold = thresholds.get(outcome.metric)
        if outcome.kind == "threshold" and not _is_control(outcome) and threshold is not None:
            found.setdefault(threshold.target, []).append(_measured(outcome, threshold))
    checkpoints = {each.checkpoint for measured in found.values() for each in measured}
    for target, measured in found.items():
        if missing := checkpoints - {each.checkpoint for each in measured}:
            raise SetupError(
                f"{file} has {spec.name}::{target} of {measured[0].checkpoint} and not of "
                f"{', '.join(sorted(missing))}; choose by --checkpoint"
            )
    return found


def _is_control(outcome: Outcome) -> bool:
    """Whether it is of a control whose numbers are known beforehand."""
    return outcome.kind == "threshold" and outcome.where == "--sae-controls"


def _problems(outcome: Outcome, spec: Spec) -> Iterator[str]:
    """Why its value is none, or not one of the spec's metric."""
    name = f"{outcome.spec}::{outcome.name}::{outcome.metric}[{outcome.checkpoint}]"
    if outcome.verdict == "error":
        yield f"{name} is an error, so nothing is known: {outcome.message or outcome.cause}"
    elif outcome.kind == "controls":
        return
    elif (_is_control(outcome) or outcome.kind == "contract") and not outcome.passes:
        yield f"{name} is {outcome.verdict}: no number beside it holds"
    elif outcome.seen_sequences is not None:
        yield (
            f"{name} is early, by {outcome.seen_sequences:,} of {outcome.of_sequences or 0:,} "
            "sequences: its value is not the metric; run without --sae-fast, or with --sae-audit"
        )
    elif outcome.kind == "threshold" and outcome.value is None:
        yield f"{name} has no value"
    elif different := list(_differences(outcome, spec)):
        yield f"{name} is of something else than the spec by now: {', '.join(different)}"


def _differences(outcome: Outcome, spec: Spec) -> Iterator[str]:
    """Between what was measured and what the spec names."""
    if outcome.kind != "threshold" or _is_control(outcome):
        return
    told: Mapping[str, Any] = json.loads(outcome.provenance) if outcome.provenance else {}
    there, name = _mapping(told, "model"), spec.model.path_or_name(spec.file.parent)
    if isinstance(name, Path):  # which may be in another place on another machine
        there, name = {**there, "name": Path(str(there.get("name"))).name}, name.name
    hook_out = None if spec.hook_out == spec.hook else spec.hook_out
    pairs: list[tuple[str, Any, Any]] = [
        ("model", there.get("name"), name),
        ("model.processing", there.get("processing"), spec.model.processing),
        ("model.dtype", there.get("dtype"), spec.model.dtype),
        ("hook", told.get("hook"), spec.hook),
        ("hook_out", told.get("hook_out"), hook_out),
    ]
    source = _mapping(_mapping(told, "corpus"), "source")
    data = spec.data.model_dump(mode="json", exclude_none=True)
    keys = sorted({*data, *source} - {"expect_clean_ce"})
    pairs += [(f"data.{key}", source.get(key), data.get(key)) for key in keys]
    metric = Target.parse(outcome.metric.partition("@")[0]).metric
    if metric in METRICS:
        version = _mapping(told, "formula_versions").get(metric)
        pairs.append(("version of the formula", version, METRICS[metric].version))
    for key, was, now in pairs:
        if was != now:
            yield f"{key} was {_short(was)} and is {_short(now)}"


def _mapping(value: Any, key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


def _measured(outcome: Outcome, threshold: Threshold) -> Measured:
    assert outcome.value is not None
    low, high = _interval(outcome, outcome.value, threshold) or (None, None)
    return Measured(outcome.checkpoint, outcome.value, low, high)


def _interval(outcome: Outcome, value: float, threshold: Threshold) -> tuple[float, float] | None:
    """That of the threshold's confidence, as far as it follows from the one that is there."""
    n, had, low, high = outcome.n_sequences, outcome.confidence, outcome.low, outcome.high
    if threshold.confidence is None or had is None or low is None or high is None:
        return None
    if n is not None and level(threshold.target.statistic) is None:
        return rescaled(Estimate(value, low, high, 0, n, had), threshold.confidence)
    return (low, high) if threshold.confidence <= had else None


_CONFIDENCE = 0.95
"""Of the intervals that a record holds."""


def of_version(
    reference: str, folder: str | None, path: Path, specs: Sequence[Spec]
) -> list[Outcome]:
    """What the records that are meant say of the thresholds that a spec file has now.

    Args:
        reference: A promoted label, or the id, hash or name of records.
        folder: Where the history is; None for the default.
        path: Of the spec file.
        specs: Its documents.

    Raises:
        SetupError: No record is meant, or none of the spec file.
        HistoryError: A record cannot be read.
    """
    with without_collection():
        kept = opened(folder)
        records, promotions, _ = read(kept)
        chosen = meant(records, promotions, reference)
    file = of_path({each.record.spec.file for each in chosen}, path, file=reference)
    own = [each for each in chosen if each.record.spec.file == file]
    by_name = {spec.name: spec for spec in specs}
    return [
        outcome
        for recorded, label in _labelled(own)
        for outcome in _outcomes(kept, recorded, label, by_name.get(recorded.record.spec.name))
    ]


def _labelled(records: Sequence[Recorded]) -> Iterator[tuple[Recorded, str]]:
    """Each with the label of its checkpoint, and its own hash where several have it."""
    labels = Counter((each.spec, each.record.checkpoint.label) for each in records)
    for each in records:
        label = each.record.checkpoint.label
        several = labels[each.spec, label] > 1
        yield each, f"{label} {each.short}" if several else label


def _outcomes(
    kept: History, recorded: Recorded, label: str, spec: Spec | None
) -> Iterator[Outcome]:
    """One for each threshold of which something is known.

    It is judged anew, as there may be thresholds that the record did not have; what takes the
    values of single tokens, which are not kept, is as the record has it. So are all, where the spec
    file has no such document any more. Thresholds on changes are of another version too.
    """
    record = recorded.record
    about: dict[str, Any] = {
        "spec": record.spec.file, "name": record.spec.name, "checkpoint": label,
        "provenance": json.dumps(record.provenance),
    }  # fmt: skip
    rows = {row.metric: row for row in record.thresholds} | record.views
    if spec is None:
        yield from (_as_it_was(name, row, about) for name, row in rows.items())
        return
    measurement = kept.measurement(recorded)
    for threshold in spec.thresholds:
        name = str(threshold.target)
        if threshold.change:
            continue
        verdict = judge(measurement, threshold)
        if verdict.status != "error":
            yield Outcome.of(verdict, **about)
        elif name in rows and rows[name].value is not None:
            yield _as_it_was(name, rows[name], about)


def _as_it_was(name: str, row: ThresholdRow | MetricRow, about: Mapping[str, Any]) -> Outcome:
    """Of how many sequences is not known: as many as have such tokens. Whether it was kept is found
    out anew by whoever asks."""
    return Outcome(
        **about, metric=name, verdict="pass", value=row.value, low=row.low, high=row.high,
        confidence=_CONFIDENCE,
    )  # fmt: skip
