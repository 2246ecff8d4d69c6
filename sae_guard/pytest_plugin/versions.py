"""``--sae-baseline VERSION``: what cases are compared with."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import pytest

from sae_guard.errors import SaeGuardError, SetupError

if TYPE_CHECKING:
    from sae_guard.cases import Case
    from sae_guard.comparison import Baseline
    from sae_guard.history import Earlier
    from sae_guard.measurement import Measurement
    from sae_guard.pareto import ParetoVerdict
    from sae_guard.pytest_plugin.gate import Gate
    from sae_guard.verdicts import Threshold

VERSIONS = pytest.StashKey["Versions"]()

NONE = "none"
"""Of the option: there is no version yet."""


def add_options(group: pytest.OptionGroup) -> None:
    """Declare the options."""
    group.addoption(
        "--sae-baseline",
        default=None,
        metavar="VERSION",
        help="recorded version that max_increase and max_decrease compare with: a label that was "
        "promoted, or a record's name or id (default: `baseline` in the spec); none leaves these "
        "thresholds out, for the first version",
    )


class Versions:
    """What the cases of a run are compared with."""

    def __init__(self, gate: Gate, folder: str) -> None:
        self._gate = gate
        self._folder = folder
        self._baselines: dict[tuple[str, str, bool], Baseline | SaeGuardError] = {}

    @classmethod
    def of(cls, config: pytest.Config, gate: Gate) -> Versions:
        """Those of the folder in which ``--sae-record`` keeps records."""
        return cls(gate, config.getini("sae_history"))

    @cached_property
    def _earlier(self) -> Earlier:
        from sae_guard.history import Earlier, History, where

        return Earlier(History(where.chosen(self._folder, self._gate.options.root)))

    def check(self) -> None:
        """Raise `pytest.UsageError` where ``--sae-baseline`` names no version at all."""
        asked = self._gate.options.baseline
        if asked in (None, NONE):
            return
        try:
            self._earlier.check(asked)
        except SaeGuardError as error:
            raise pytest.UsageError(f"--sae-baseline: {error}") from None

    def baseline(self, case: Case, threshold: Threshold) -> Baseline | None:
        """What the threshold compares the case with; None where it is on no change.

        Raises:
            SetupError: No version is named, or it has no record by the spec of the case.
            HistoryError: It cannot be read.
        """
        if not threshold.change:
            return None
        reference = self._gate.options.baseline or case.spec.baseline
        if reference is None:
            raise SetupError(
                f"{threshold.where}: {threshold.view} needs a baseline: give --sae-baseline "
                "VERSION, or `baseline` in the spec; --sae-baseline=none where there is none yet"
            )
        key = (reference, self._spec(case), case.spec.strict_env)
        if key not in self._baselines:
            try:
                self._baselines[key] = self._earlier.baseline(*key[:2], strict=key[2])
            except SaeGuardError as error:  # kept: each threshold asks anew
                self._baselines[key] = error
        found = self._baselines[key]
        if isinstance(found, SaeGuardError):
            raise found
        return found

    def pareto(self, case: Case, measurement: Measurement) -> ParetoVerdict:
        """Whether a record dominates what was measured of the case, which has such a threshold.

        Raises:
            UndefinedMetricError: One of the two metrics is.
            SetupError: There is no record to compare with.
            HistoryError: A record cannot be read.
        """
        from sae_guard.pareto import Point

        assert case.pareto is not None
        x, y = (measurement.estimate(name).value for name in (case.pareto.x, case.pareto.y))
        point = Point(case.label, x, y)
        return self._earlier.beside(case.pareto, self._spec(case), point, measurement)

    def lines(self) -> list[str]:
        """What was asked for in vain, or left out."""
        specs = {id(case.spec): case.spec for case in self._gate.plan.cases}.values()
        asked = self._gate.options.baseline
        changes = [t for spec in specs for t in spec.thresholds if t.change]
        changes_or_more = [*changes, *(spec.pareto for spec in specs if spec.pareto)]
        if asked not in (None, NONE) and not changes:
            return [f"--sae-baseline {asked}: no spec of this run has thresholds on changes"]
        if asked == NONE and changes_or_more:
            n = len(changes_or_more)
            told = "threshold" if n == 1 else "thresholds"
            return [f"--sae-baseline=none: left out {n} {told} that earlier versions set"]
        return []

    def _spec(self, case: Case) -> str:
        return f"{self._gate.display(case.spec.file)}::{case.spec.name}"
