"""What the tests of one checkpoint at one spec share: how they record and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import pytest

from sae_guard.errors import LoadError, SaeGuardError
from sae_guard.pytest_plugin.gate import GATE

if TYPE_CHECKING:
    from sae_guard.core.report import Outcome
    from sae_guard.gate.cases import Case

_REPORTED = pytest.StashKey[dict[str, str]]()


class CaseName(TypedDict):
    """What an outcome says of the case."""

    spec: str
    name: str
    checkpoint: str


class Told(Exception):
    """A test failed for a reason that needs no traceback; the message is the failure text."""


class CaseItem(pytest.Item):
    """A test of one checkpoint at one spec.

    What keeps it from reaching a verdict is raised in its setup, an ERROR for pytest.
    """

    line: int = 0
    """In the spec file."""

    def __init__(self, *, case: Case, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case = case

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any) -> Any:
        """The failure text as it is; whatever else happened, with its traceback."""
        if isinstance(excinfo.value, Told):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *args)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it stands in the spec, for editors and reports."""
        line = self.line - 1 if self.line else None
        # With the space it is no end of the node id, whose dots pytest would show as colons.
        return self.path, line, f"{self.case.spec.name}::{self.name} "

    def record(self, outcome: Outcome) -> Outcome:
        """Give the outcome to the report that crosses to the controller."""
        self.user_properties.extend(outcome.to_properties())
        return outcome

    @property
    def identity(self) -> CaseName:
        """What an outcome says of the case."""
        return CaseName(
            spec=self.config.stash[GATE].display(self.path),
            name=self.case.spec.name,
            checkpoint=self.case.label,
        )

    def first_of_case(self, said: pytest.StashKey[dict[str, str]]) -> str:
        """Node id of the test that says what concerns all tests of the case."""
        return self.config.stash.setdefault(said, {}).setdefault(self.case.key, self.nodeid)

    def error_text(self, error: SaeGuardError) -> str:
        """The whole error in one test of the case, a pointer to it in the others."""
        teller = self._broken_contract(error) or self.first_of_case(_REPORTED)
        head = f"{error.cause} error: "
        return head + (str(error) if teller == self.nodeid else f"not measured, see {teller}")

    def _broken_contract(self, error: SaeGuardError) -> str | None:
        """The test of the part of the load contract that is broken, if it runs."""
        if not isinstance(error, LoadError) or self.parent is None:
            return None
        nodeid = f"{self.parent.nodeid}::load.{error.contract}[{self.case.label}]"
        runs = any(item.nodeid == nodeid for item in self.session.items)
        return nodeid if runs else None
