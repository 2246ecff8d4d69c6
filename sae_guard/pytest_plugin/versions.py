"""``--sae-baseline VERSION``: what cases are compared with."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import pytest

from sae_guard.errors import SaeGuardError

if TYPE_CHECKING:
    from sae_guard.core.comparison import Baseline
    from sae_guard.core.measurement import Measurement
    from sae_guard.core.pareto import ParetoVerdict
    from sae_guard.core.thresholds import Threshold
    from sae_guard.gate.baselines import Earlier
    from sae_guard.gate.cases import Case
    from sae_guard.pytest_plugin.gate import Gate

VERSIONS = pytest.StashKey["Versions"]()


class Versions:
    """What the cases of a run are compared with."""

    def __init__(self, gate: Gate, folder: str) -> None:
        self._gate = gate
        self._folder = folder

    @classmethod
    def of(cls, config: pytest.Config, gate: Gate) -> Versions:
        """Those of the folder in which ``--sae-record`` keeps records."""
        return cls(gate, config.getini("sae_history"))

    @cached_property
    def _earlier(self) -> Earlier:
        from sae_guard.gate.baselines import Earlier
        from sae_guard.history import History, store

        return Earlier(History(store.chosen(self._folder, self._gate.options.root)))

    def check(self) -> None:
        """Raise `pytest.UsageError` where ``--sae-baseline`` names no version at all."""
        from sae_guard.history import NO_VERSION

        asked = self._gate.options.baseline
        if asked in (None, NO_VERSION):
            return
        try:
            self._earlier.check(asked)
        except SaeGuardError as error:
            raise pytest.UsageError(f"--sae-baseline: {error}") from None

    def baseline(self, case: Case, threshold: Threshold) -> Baseline | None:
        """What the threshold compares the case with; raises like `Earlier.since`."""
        asked = self._gate.options.baseline
        return self._earlier.since(case, self._spec(case), threshold, asked)

    def pareto(self, case: Case, measurement: Measurement) -> ParetoVerdict | None:
        """Whether a record dominates what was measured; raises like `Earlier.pareto`."""
        return self._earlier.pareto(case, self._spec(case), measurement)

    def lines(self) -> list[str]:
        """What was asked for in vain, or left out."""
        from sae_guard.history import NO_VERSION

        specs = {id(case.spec): case.spec for case in self._gate.plan.cases}.values()
        asked = self._gate.options.baseline
        changes = [t for spec in specs for t in spec.thresholds if t.change]
        changes_or_more = [*changes, *(spec.pareto for spec in specs if spec.pareto)]
        if asked not in (None, NO_VERSION) and not changes:
            return [f"--sae-baseline {asked}: no spec of this run has thresholds on changes"]
        if asked == NO_VERSION and changes_or_more:
            n = len(changes_or_more)
            told = "threshold" if n == 1 else "thresholds"
            return [f"--sae-baseline=none: left out {n} {told} that earlier versions set"]
        return []

    def _spec(self, case: Case) -> str:
        return f"{self._gate.display(case.spec.file)}::{case.spec.name}"
