"""``--sae-baseline VERSION``: what thresholds on changes compare with."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import pytest

from sae_guard.errors import SaeGuardError, SetupError

if TYPE_CHECKING:
    from sae_guard.cases import Case
    from sae_guard.comparison import Baseline
    from sae_guard.history import History, Promotion, Recorded
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
    """Recorded versions of the specs of a run, read when first asked for."""

    def __init__(self, history: History, gate: Gate) -> None:
        self._history = history
        self._gate = gate
        self._found: dict[tuple[str, str, bool], Baseline | SaeGuardError] = {}

    @classmethod
    def of(cls, config: pytest.Config, gate: Gate) -> Versions:
        """Those of the folder in which ``--sae-record`` keeps records."""
        from sae_guard.history import History, where

        return cls(History(where.chosen(config.getini("sae_history"), gate.options.root)), gate)

    def check(self) -> None:
        """Raise `pytest.UsageError` where ``--sae-baseline`` names no version at all."""
        from sae_guard.history import meant

        asked = self._gate.options.baseline
        if asked in (None, NONE):
            return
        try:
            meant(*self._kept, asked)
        except SaeGuardError as error:
            raise pytest.UsageError(f"--sae-baseline: {error} ({self._history.url})") from None

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
        spec = f"{self._gate.display(case.spec.file)}::{case.spec.name}"
        key = (reference, spec, case.spec.strict_env)
        if key not in self._found:
            try:
                self._found[key] = self._read(reference, spec, strict=case.spec.strict_env)
            except SaeGuardError as error:  # kept: each threshold asks anew
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, SaeGuardError):
            raise found
        return found

    @cached_property
    def _kept(self) -> tuple[list[Recorded], list[Promotion]]:
        records, _ = self._history.records()
        promotions, _ = self._history.promotions()
        return records, promotions

    def _read(self, reference: str, spec: str, *, strict: bool) -> Baseline:
        from sae_guard.comparison import Baseline
        from sae_guard.history import meant_for

        try:
            recorded = meant_for(*self._kept, reference, spec)
        except SetupError as error:
            raise SetupError(f"baseline in {self._history.url}: {error}") from None
        short = recorded.id.rpartition("-")[2]
        return Baseline(
            reference if reference == recorded.id else f"{reference} ({short})",
            self._history.measurement(recorded),
            {n: r.value for n, r in recorded.record.views.items() if r.value is not None},
            strict,
        )

    def lines(self) -> list[str]:
        """What was asked for in vain, or left out."""
        cases = self._gate.plan.cases
        asked = self._gate.options.baseline
        changes = [t for case in cases for t in case.spec.thresholds if t.change]
        if asked not in (None, NONE) and not changes:
            return [f"--sae-baseline {asked}: no spec of this run has thresholds on changes"]
        if asked == NONE and changes:
            return [f"--sae-baseline=none: {len(changes)} thresholds on changes were left out"]
        return []
