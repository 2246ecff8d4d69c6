"""What is suspected of the checkpoints of a run: each examined once, on one batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sae_guard.errors import SaeGuardError

if TYPE_CHECKING:
    from sae_guard.core.diagnosis import Diagnosis
    from sae_guard.core.measurement import Measurement
    from sae_guard.gate.cases import Case
    from sae_guard.gate.session import Workbench

DIAGNOSES = pytest.StashKey["Diagnoses"]()


class Diagnoses:
    """Made when they are first asked for, and shared by xdist workers as measurements are."""

    def __init__(
        self, workbench: Workbench, *, thorough: bool = False, shared: Path | None = None
    ) -> None:
        self._workbench = workbench
        self._thorough = thorough
        self._shared = shared
        self._made: dict[str, Diagnosis] = {}

    def of(self, case: Case, measurement: Measurement) -> Diagnosis:
        """What is suspected of a case that was measured; nothing of controls."""
        from sae_guard.core.diagnosis import Diagnosis

        if case.control or case.checkpoint is None:
            return Diagnosis()
        if case.key not in self._made:
            self._made[case.key] = self._shared_or_made(case, measurement)
        return self._made[case.key]

    def _shared_or_made(self, case: Case, measurement: Measurement) -> Diagnosis:
        if self._shared is None:
            return self._make(case, measurement)
        from filelock import FileLock

        from sae_guard.core.diagnosis import Diagnosis

        stored = self._shared / f"{case.key}.diagnosis"
        with FileLock(f"{stored}.lock"):
            if stored.exists():
                return Diagnosis.of_json(stored.read_text(encoding="utf-8"))
            made = self._make(case, measurement)
            stored.write_text(made.json, encoding="utf-8")
            return made

    def _make(self, case: Case, measurement: Measurement) -> Diagnosis:
        import torch

        from sae_guard.core.diagnosis import diagnose
        from sae_guard.engine import HookSite
        from sae_guard.examination import examine

        bench = self._workbench
        sae = bench.sae(case)
        examination, why = None, "the batch has too few tokens that are scored and not special"
        try:
            examination = examine(
                bench.model(case.spec),
                sae,
                bench.corpus(case.spec),
                HookSite.of(sae, case.hook, case.hook_out),
                thorough=self._thorough,
            )
        # It was measured: what keeps it from being examined keeps no verdict from being reached.
        except (SaeGuardError, torch.OutOfMemoryError) as error:
            why = str(error)
        found = diagnose(measurement, examination)
        if self._thorough and examination is None:
            return replace(found, tried=(f"--sae-diagnose could try nothing: {why}",))
        return found
