"""Options of a command → options of the gate, its plan, and the session that measures."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.gate import project
from sae_guard.gate.options import EarlyOptions, GateOptions

if TYPE_CHECKING:
    from sae_guard.gate.cases import Case
    from sae_guard.gate.session import GateSession

SaeSettings = Mapping[str, Any]
"""Values of the options about SAEs by the keys of the `sae` block of a spec; None if not used."""


def gate_options(
    sae: SaeSettings | None = None, *, folder: str | None = None, **options: Any
) -> GateOptions:
    """Return the options of the gate for a command that runs in the current folder.

    Args:
        sae: Options about the SAEs.
        folder: Folder or URL of the records, from the current folder; None for the default.
        options: Other options, as `GateOptions` has them.
    """
    folder_of_command = Path.cwd()
    if folder is not None:
        from sae_guard.history import store

        folder = store.locate(folder, folder_of_command)
    return GateOptions(
        root=project.root_of(folder_of_command),
        here=folder_of_command,
        sae={key: value for key, value in (sae or {}).items() if value is not None},
        early=EarlyOptions(never=True),
        history=folder,
        **options,
    )


def plan_cases(options: GateOptions) -> tuple[Case, ...]:
    """Return the cases to measure, spec by spec.

    Raises:
        SetupError: A checkpoint does not exist, is not gated, or is gated ambiguously; a spec is
            malformed, or is named in the options and gates nothing.
        InfrastructureError: A checkpoint has to be downloaded and cannot be.
    """
    from sae_guard.gate.run_plan import RunPlan

    return RunPlan(options).plan.cases


def create_session(options: GateOptions, cases: Sequence[Case]) -> GateSession:
    """Create the session that measures the cases.

    Args:
        options: Options of the gate.
        cases: All cases, so that one clean run serves all cases of a model.
    """
    from sae_guard.gate.session import GateSession

    has_reader = sys.stderr.isatty() and not os.environ.get("CI")
    return GateSession(options, lambda: cases, progress=sys.stderr if has_reader else None)
