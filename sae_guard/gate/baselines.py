"""What earlier versions of a spec got, for what a new one is compared with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

from sae_guard.core.comparison import Baseline, formula_difference, setting_differences
from sae_guard.core.measurement import Measurement, Provenance
from sae_guard.core.pareto import Pareto, ParetoVerdict, Point, compared
from sae_guard.core.thresholds import Threshold
from sae_guard.errors import SetupError
from sae_guard.gate.cases import Case
from sae_guard.history.record import HistoryError, Promotion, Recorded
from sae_guard.history.references import find_records, find_spec_record
from sae_guard.history.store import History


class Baselines:
    """The recorded versions that new ones are compared with, read when first asked for."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._measurements: dict[str, Measurement] = {}

    def check(self, reference: str) -> None:
        """Raise `SetupError` where it names no version of any spec."""
        try:
            find_records(self._records, self._promotions, reference)
        except SetupError as error:
            raise SetupError(f"{error} ({self._history.url})", options=("baseline",)) from None

    def since(self, case: Case, threshold: Threshold, version: str | None) -> Baseline | None:
        """Find what a threshold compares the case with; None where it is on no change.

        Args:
            case: A checkpoint at a spec.
            threshold: Of the case.
            version: The user's choice, which goes before that of the spec.

        Raises:
            SetupError: No version is named, or it has no record by the spec.
            HistoryError: It cannot be read.
        """
        if not threshold.change:
            return None
        reference = version or case.spec.baseline
        if reference is None:
            raise SetupError(
                f"{threshold.target} needs a baseline ({threshold.where}): name a version, or set "
                "`baseline` in the spec; the name is none where there is no version yet",
                options=("baseline",),
            )
        return self.baseline(reference, case.ref.spec, strict=case.spec.strict_env)

    def baseline(self, reference: str, spec: str, *, strict: bool = False) -> Baseline:
        """What was measured of a version.

        Args:
            reference: A promoted label, or a record's name or id.
            spec: ``file::name``.
            strict: Whether another device and other versions of libraries are refused.

        Raises:
            SetupError: It is no version, or has no record by the spec.
            HistoryError: It cannot be read; or something of this name cannot, which could be the
                later promotion.
        """
        # The name stands in the id, and the id in the path that each message starts with.
        own = re.compile(rf"Z-{re.escape(reference)}-[0-9a-f]{{12}}/")
        if broken := [line for line in self._unreadable if own.search(line)]:
            raise HistoryError(f"baseline: {reference} cannot be read: {broken[0]}")
        try:
            recorded = find_spec_record(self._records, self._promotions, reference, spec)
        except SetupError as error:
            raise SetupError(f"baseline in {self._history.url}: {error}") from None
        if recorded.id not in self._measurements:
            self._measurements[recorded.id] = self._history.measurement(recorded)
        return Baseline(
            reference if reference == recorded.id else f"{reference} ({recorded.short})",
            self._measurements[recorded.id],
            {n: row.value for n, row in recorded.record.views.items() if row.value is not None},
            strict,
        )

    def pareto(self, case: Case, new: Measurement) -> ParetoVerdict | None:
        """Judge whether a record dominates the case; None where its spec does not ask for that.

        Raises:
            UndefinedMetricError: One of the two metrics is.
            SetupError: There is no record to compare with.
            HistoryError: A record cannot be read.
        """
        if case.pareto is None:
            return None
        x, y = (new.estimate(name).value for name in (case.pareto.x, case.pareto.y))
        return self.beside(case.pareto, case.ref.spec, Point(case.label, x, y), new)

    def beside(self, pareto: Pareto, spec: str, point: Point, new: Measurement) -> ParetoVerdict:
        """The verdict on a point beside all records of a spec that are of the same tokens.

        Args:
            pareto: Of which two metrics.
            spec: ``file::name``.
            point: What was measured.
            new: Where it was.

        Raises:
            SetupError: There is no such record.
            HistoryError: A record cannot be read: it could be the better one.
        """
        if self._unreadable:
            raise HistoryError(f"pareto: a record cannot be read: {self._unreadable[0]}")
        points, left_out = [], []
        for each in self._records:
            if each.spec != spec:
                continue
            found = _point(each, pareto, new.provenance)
            if isinstance(found, Point):
                points.append(found)
            else:
                left_out.append(f"{each.display_name}: {found}")
        if not points:
            why = f"; {len(left_out)} of other things: {left_out[-1]}" if left_out else ""
            raise SetupError(
                f"{pareto.where}: pareto: no record of {spec} in {self._history.url} can be "
                f"compared with{why}; name the baseline none where there is no record yet",
                options=("baseline",),
            )
        return compared(pareto, point, points, left_out)

    @property
    def _records(self) -> Sequence[Recorded]:
        return self._read[0]

    @property
    def _promotions(self) -> Sequence[Promotion]:
        return self._read[1]

    @property
    def _unreadable(self) -> Sequence[str]:
        return self._read[2]

    @cached_property
    def _read(self) -> tuple[Sequence[Recorded], Sequence[Promotion], Sequence[str]]:
        records, unreadable = self._history.records()
        promotions, more = self._history.promotions()
        return records, promotions, (*unreadable, *more)


def _point(recorded: Recorded, pareto: Pareto, new: Provenance) -> Point | str:
    """The point of a record, or why it has none beside the new one."""
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
