"""The load contract: what a checkpoint is held to before anything is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sae_guard.errors import Contract, LoadError, SaeGuardError
from sae_guard.pytest_plugin.case_item import CaseItem, Told
from sae_guard.pytest_plugin.session import WORKBENCH

if TYPE_CHECKING:
    from sae_guard.core.verdicts import Status


class ContractItem(CaseItem):
    """One part of the contract. A broken part FAILS; those it keeps from being checked are ERRORs.

    Either way there is no verdict on the SAE, so the run's exit code is 2.
    """

    def __init__(self, *, contract: Contract, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.contract = contract
        self.line = self.case.spec.line
        self._broken: LoadError | None = None

    def setup(self) -> None:
        """Load the checkpoint, or take the one that another test loaded, and check."""
        error = self._found()
        if isinstance(error, LoadError) and error.contract == self.contract:
            self._broken = error
        elif isinstance(error, LoadError) and self.contract == "readable":
            return  # it was read, or nothing else could have been found broken
        elif error is not None:
            self._record("undecided" if isinstance(error, LoadError) else "error", error)
            pytest.fail(self.error_text(error), pytrace=False)

    def runtest(self) -> None:
        """Say what was found."""
        if self._broken is None:
            self._record("pass")
            return
        self._record("error", self._broken)
        raise Told(self.error_text(self._broken))

    def _found(self) -> SaeGuardError | None:
        try:
            self.config.stash[WORKBENCH].check(self.case, self.contract)
        except SaeGuardError as error:
            return error
        return None

    def _record(self, verdict: Status, error: SaeGuardError | None = None) -> None:
        from sae_guard.core.report import Outcome

        self.record(
            Outcome(
                **self.identity,
                kind="contract",
                metric=f"load.{self.contract}",
                verdict=verdict,
                cause=None if error is None else error.cause,
                message="" if error is None else str(error),
            )
        )
