"""Recorded versions that a new measurement is compared with: baselines and Pareto points."""

from __future__ import annotations

from functools import cached_property

from sae_guard.core.comparison import Baseline, formula_difference, setting_differences
from sae_guard.core.measurement import Measurement, Provenance
from sae_guard.core.pareto import Pareto, ParetoVerdict, Point, compared
from sae_guard.core.thresholds import Threshold
from sae_guard.errors import SetupError
from sae_guard.gate.cases import Case
from sae_guard.history.record import HistoryError, Recorded
from sae_guard.history.references import find_records, unreadable_of
from sae_guard.history.store import Contents, History, read_measurement
from sae_guard.release.pairing import Identity, Pair, earlier


class Baselines:
    """Recorded versions of a history; the history is read when they are first needed."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._measurements: dict[str, Measurement] = {}
        self._releases: dict[str, list[Recorded]] = {}

    def check(self, reference: str) -> None:
        """Raise `SetupError` where the reference names no recorded version of any spec."""
        try:
            find_records(self._contents, reference)
        except SetupError as error:
            raise SetupError(f"{error} ({self._history.url})", options=("baseline",)) from None

    def for_threshold(
        self, case: Case, threshold: Threshold, version: str | None
    ) -> Baseline | None:
        """Return the baseline of a threshold; None for a threshold that is not on a change.

        Args:
            case: A checkpoint at a spec.
            threshold: One of its thresholds.
            version: The version that the user names; it takes precedence over ``baseline`` in the
                spec.

        Raises:
            SetupError: Neither user nor spec names a version, or it has no record by the spec.
            HistoryError: The record cannot be read.
        """
        if not threshold.change:
            return None
        reference = version or case.spec.baseline
        if reference is None:
            raise SetupError(
                f"{threshold.target} needs a baseline ({threshold.where}): name a version, or set "
                "`baseline` in the spec; before the first version, name `none`: that leaves this "
                "threshold out",
                options=("baseline",),
            )
        return self.baseline(case, reference)

    def release(self, reference: str) -> list[Recorded]:
        """Return the records of a version, one of each spec and member.

        Raises:
            SetupError: The reference names no recorded version, or an ambiguous one.
            HistoryError: A record or promotion of the same name cannot be read, which could be the
                later one, or one of a member.
        """
        if reference not in self._releases:
            if messages := unreadable_of(self._contents, reference):
                raise HistoryError(f"baseline {reference} cannot be read: {messages[0]}")
            self._releases[reference] = find_records(self._contents, reference)
        return self._releases[reference]

    def earlier(self, case: Case, reference: str) -> Pair[Recorded] | None:
        """Return what the member of a case was in a version; None for a new one.

        Raises:
            SetupError: The reference names no version, or several members could be meant.
        """
        records = self.release(reference)
        if len(records) == 1 and reference in (records[0].id, records[0].short):
            return Pair(records[0])  # an id names its record, whatever the member is called now
        return earlier(case.identity, case.earlier_name, records, identity, alone=case.alone)

    def baseline(self, case: Case, reference: str) -> Baseline:
        """Load the measurement of the earlier self of a case.

        Args:
            case: A checkpoint at a spec.
            reference: A promoted label, or a record's name or id.

        Raises:
            SetupError: The reference is no version, or has no record by the spec.
            HistoryError: The record cannot be read; or a record or promotion of the same name
                cannot, which could be the later one.
        """
        try:
            pair = self.earlier(case, reference)
        except SetupError as error:
            raise SetupError(f"baseline in {self._history.url}: {error}") from None
        if pair is None:
            names = ", ".join(recorded.case for recorded in self.release(reference))
            raise SetupError(
                f"baseline in {self._history.url}: {case.ref.title} has no earlier version in "
                f"{reference}, which has {names}"
            )
        recorded = pair.old
        if recorded.id not in self._measurements:
            self._measurements[recorded.id] = read_measurement(recorded)
        member = "" if recorded.member == case.member else f" [{recorded.member}]"
        return Baseline(
            f"{reference}{member}" + ("" if reference == recorded.id else f" ({recorded.short})"),
            self._measurements[recorded.id],
            {n: row.value for n, row in recorded.record.views.items() if row.value is not None},
            case.spec.strict_env,
            same_shape=pair.alone,
        )

    def pareto(self, case: Case, new: Measurement) -> ParetoVerdict | None:
        """Judge whether a record dominates the case; None where its spec sets no Pareto threshold.

        Raises:
            UndefinedMetricError: One of the two metrics is undefined.
            SetupError: There is no record to compare with.
            HistoryError: A record cannot be read.
        """
        if case.pareto is None:
            return None
        x, y = (new.estimate(name).value for name in (case.pareto.x, case.pareto.y))
        return self.compare_point(case.pareto, case.ref.spec, Point(case.member, x, y), new)

    def compare_point(
        self, pareto: Pareto, spec: str, point: Point, new: Measurement
    ) -> ParetoVerdict:
        """Judge a point beside all records of a spec that measured the same token set.

        Args:
            pareto: The Pareto threshold, with its two metrics.
            spec: ``file::name``.
            point: The two metrics of the new measurement.
            new: The new measurement.

        Raises:
            SetupError: There is no such record.
            HistoryError: A record cannot be read, and could be one that dominates the point.
        """
        if self._contents.unreadable:
            raise HistoryError(f"pareto: a record cannot be read: {self._contents.unreadable[0]}")
        points, left_out = [], []
        for recorded in self._contents.records:
            if recorded.spec != spec:
                continue
            record_point = _point_or_reason(recorded, pareto, new.provenance)
            if isinstance(record_point, Point):
                points.append(record_point)
            else:
                left_out.append(f"{recorded.display_name}: {record_point}")
        if not points:
            others = f" ({len(left_out)} left out; {left_out[-1]})" if left_out else ""
            raise SetupError(
                f"{pareto.where}: pareto: no record of {spec} in {self._history.url} is comparable"
                f"{others}; before the first record, name the baseline `none`",
                options=("baseline",),
            )
        return compared(pareto, point, points, left_out)

    @cached_property
    def _contents(self) -> Contents:
        return self._history.read()


def _point_or_reason(recorded: Recorded, pareto: Pareto, new: Provenance) -> Point | str:
    """Return the point of a record, or the reason why it cannot be compared with the new one."""
    record = recorded.record
    try:
        old = Provenance(**record.provenance)
    except TypeError as error:
        raise HistoryError(f"pareto: {recorded.path}: provenance: {error}") from None
    reasons = setting_differences(old, new)
    reasons += filter(None, (formula_difference(old, new, name) for name in (pareto.x, pareto.y)))
    if reasons:
        return reasons[0]
    x, y = (record.metrics[name].value for name in (pareto.x, pareto.y))
    if x is None or y is None:
        return f"{pareto.x if x is None else pareto.y} is undefined"
    return Point(recorded.display_name, x, y)


def identity(recorded: Recorded) -> Identity:
    """Return what decides which later member a record is compared with."""
    return Identity(recorded.spec, recorded.member, recorded.named_by)
