"""Let sessions of the gate measure what a test says: nothing is loaded and nothing runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sae_guard.core.diagnosis import Diagnosis
from sae_guard.core.measurement import Measurement
from sae_guard.errors import Contract, SaeGuardError
from sae_guard.gate.cases import Case
from sae_guard.gate.early import Watch
from sae_guard.gate.session import GateSession

Measure = Callable[[Case], "Measurement | SaeGuardError"]
"""Case → what is measured of it, or why nothing is."""


def can(
    monkeypatch: pytest.MonkeyPatch, measure: Measure, *, diagnosis: Diagnosis | None = None
) -> list[Case]:
    """Let every session measure this; each checkpoint keeps the load contract.

    Gives the cases that have been measured, in their order.
    """
    measured: list[Case] = []

    def canned(self: GateSession, case: Case, watch: Watch | None) -> Measurement | SaeGuardError:
        measured.append(case)
        result = measure(case)
        if watch is not None and isinstance(result, Measurement):
            watch(result)
        return result

    def check(self: GateSession, case: Case, contract: Contract) -> None:
        """Nothing is loaded, so nothing is broken."""

    monkeypatch.setattr(GateSession, "_measure", canned)
    monkeypatch.setattr(GateSession, "check", check)
    monkeypatch.setattr(GateSession, "diagnosis", lambda *_: diagnosis or Diagnosis())
    return measured


def write_checkpoint(folder: Path, hook: str = "blocks.1.hook_resid_post") -> Path:
    """Write a folder that says where it belongs, and holds nothing else."""
    folder.mkdir(parents=True)
    config = f'{{"metadata": {{"hook_name": "{hook}", "model_name": "gpt2"}}}}'
    (folder / "cfg.json").write_text(config, encoding="utf-8")
    (folder / "sae_weights.safetensors").write_bytes(b"")
    return folder
