"""Spec file → documents → per checkpoint one test for each part of the load contract, then one
for each threshold, then one for its controls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

import pytest

from sae_guard.errors import Contract, SaeGuardError
from sae_guard.pytest_plugin.contracts import ContractItem
from sae_guard.pytest_plugin.controls import ControlsItem
from sae_guard.pytest_plugin.gate import GATE
from sae_guard.pytest_plugin.pareto import ParetoItem
from sae_guard.pytest_plugin.thresholds import ThresholdItem

if TYPE_CHECKING:
    from sae_guard.gate.cases import Case
    from sae_guard.specs import Spec


class SpecFile(pytest.File):
    """A YAML file of specs."""

    def collect(self) -> Iterator[pytest.Collector]:
        """One collector per document; a malformed file is a collection error."""
        gate = self.config.stash[GATE]
        try:
            plan = gate.plan
            for spec in gate.specs_of(self.path):
                if plan.of(spec):
                    yield SpecDocument.from_parent(self, name=spec.name, spec=spec)
        except (SaeGuardError, pytest.UsageError) as error:
            raise self.CollectError(str(error)) from None


class SpecDocument(pytest.Collector):
    """One document: a model, a hook point and a token set with their thresholds."""

    def __init__(self, *, spec: Spec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec

    def collect(self) -> Iterator[pytest.Item]:
        """The tests of each checkpoint that the spec gates."""
        for case in self.config.stash[GATE].plan.of(self.spec):
            for contract in get_args(Contract) if case.checkpoint else ():
                yield ContractItem.from_parent(
                    self, **self._named(f"load.{contract}", case), contract=contract
                )
            for threshold in case.thresholds:
                yield ThresholdItem.from_parent(
                    self, **self._named(str(threshold.target), case), threshold=threshold
                )
            if case.pareto is not None:
                yield ParetoItem.from_parent(self, **self._named("pareto", case))
            if case.compared:
                yield ControlsItem.from_parent(self, **self._named("controls", case))

    def _named(self, what: str, case: Case) -> dict[str, Any]:
        name = f"{what}[{case.label}]"
        # The id as text: pytest 9 then parses the brackets as it does those in its cache, without
        # which --lf does not know its own failures.
        return {"name": name, "nodeid": f"{self.nodeid}::{name}", "case": case}
