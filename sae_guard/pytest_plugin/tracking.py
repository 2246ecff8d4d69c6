"""Thresholds in force that are looser than at the last promoted version; on the controller only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sae_guard.errors import SaeGuardError

if TYPE_CHECKING:
    import pytest

    from sae_guard.history import History
    from sae_guard.history.threshold_changes import Looser
    from sae_guard.pytest_plugin.gate import Gate
    from sae_guard.specs import Spec


class Tracker:
    """What `--sae-record` would write to is read, and nothing but promotions and what they name."""

    def __init__(self, config: pytest.Config, gate: Gate) -> None:
        self._named: str = config.getini("sae_history")
        self._gate = gate
        self._looser: list[Looser] = []
        self._unread: list[str] = []

    def look(self, tested: Callable[[str], bool]) -> None:
        """Compare the specs of the run, once all is told.

        Args:
            tested: Whether a spec, ``file::name``, has tests in the run.
        """
        cases = self._gate.plan.cases
        own = {self._key(case.spec): case.spec for case in cases if case.checkpoint is not None}
        specs = {key: spec for key, spec in own.items() if tested(key)}
        if not specs:
            return
        from sae_guard.history import History, store

        history = History(store.chosen(self._named, self._gate.options.root))
        try:
            self._compare(history, specs)
        except SaeGuardError as error:
            self._unread.append(str(error))

    def _compare(self, history: History, specs: dict[str, Spec]) -> None:
        from sae_guard.history.threshold_changes import last_promotion, looser

        promotions, unreadable = history.promotions()
        self._unread += unreadable
        for key, spec in specs.items():
            promotion = last_promotion(promotions, key)
            if promotion is None:
                continue
            try:
                record = history.record(promotion.record).record
            except SaeGuardError as error:
                self._unread.append(f"{key} at {promotion.label}: {error}")
                continue
            found = looser(promotion, record, spec.thresholds, spec.pareto)
            self._looser += [] if found is None else [found]

    def _key(self, spec: Spec) -> str:
        return f"{self._gate.display(spec.file)}::{spec.name}"

    def lines(self) -> Iterator[str]:
        """What is looser, and what could not be compared and why."""
        if self._looser or self._unread:
            from sae_guard.render import looser_line

            yield from map(looser_line, self._looser)
            for line in self._unread:
                yield f"WARNING: thresholds of the last promoted version cannot be read: {line}"

    def rows(self) -> list[dict[str, Any]]:
        """What is looser, for JSON."""
        from sae_guard.render import looser_row

        return list(map(looser_row, self._looser))
