"""``pareto: {x: l0, y: kl}``: no record of the spec may dominate the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sae_guard.errors import SaeGuardError
from sae_guard.pytest_plugin.case_item import CaseItem, Told
from sae_guard.pytest_plugin.session import WORKBENCH
from sae_guard.pytest_plugin.versions import VERSIONS

if TYPE_CHECKING:
    from sae_guard.core.pareto import ParetoVerdict


class ParetoItem(CaseItem):
    """Compares a checkpoint with all records of its spec: it fails where one is better in both
    metrics, and is an ERROR where none can be compared with."""

    _verdict: ParetoVerdict

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.line = self.case.pareto.line if self.case.pareto else 0

    def setup(self) -> None:
        """Measure the case, or take what another test measured, and read the records."""
        found = self._found()
        if isinstance(found, SaeGuardError):
            self._record("error", cause=found.cause, message=str(found))
            pytest.fail(f"{found.cause} error: {found}", pytrace=False)
        self._verdict = found

    def runtest(self) -> None:
        """Say what was found."""
        from sae_guard.render import pareto_failure

        found = self._verdict
        self._record("pass" if found.passes else "fail", pareto=found.json)
        if not found.passes:
            raise Told(pareto_failure(found))

    def _found(self) -> ParetoVerdict | SaeGuardError:
        try:
            measurement = self.config.stash[WORKBENCH].measurement(self.case)
            found = self.config.stash[VERSIONS].pareto(self.case, measurement)
        except SaeGuardError as error:
            return error
        assert found is not None
        return found

    def _record(self, verdict: str, **told: Any) -> None:
        from sae_guard.core.report import Outcome

        where = self.case.pareto.where if self.case.pareto else ""
        parts: dict[str, Any] = {
            **self.identity,
            "kind": "pareto",
            "metric": "pareto",
            "where": where,
        }
        self.record(Outcome(**parts, verdict=verdict, **told))
