"""What a command line asks for → the options of the gate, and the session that measures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.gate import project
from sae_guard.gate.options import EarlyOptions, GateOptions

if TYPE_CHECKING:
    from sae_guard.gate.cases import Case
    from sae_guard.gate.session import GateSession
    from sae_guard.specs import Spec

Said = Mapping[str, Any]
"""What the options about SAEs say, by the keys of the `sae` block of a spec; None where nothing."""


def gate_options(
    said: Said | None = None, *, folder: str | None = None, **asked: Any
) -> GateOptions:
    """Put the options of a command together: those of the gate, from the folder we are in.

    Args:
        said: Of the SAEs.
        folder: Folder or URL of the records, from the folder we are in; None for the usual one.
        asked: As `GateOptions` has them.
    """
    here = Path.cwd()
    if folder is not None:
        from sae_guard.history import store

        folder = store.locate(folder, here)
    return GateOptions(
        root=project.root_of(here),
        here=here,
        sae={key: value for key, value in (said or {}).items() if value is not None},
        early=EarlyOptions(never=True),
        history=folder,
        **asked,
    )


def planned(options: GateOptions) -> tuple[Case, ...]:
    """Plan what there is to measure, spec after spec.

    Raises:
        SetupError: A checkpoint is not found, not gated, or gated ambiguously; a spec is malformed,
            or was named and gates nothing.
        InfrastructureError: A checkpoint has to be downloaded and cannot be.
    """
    from sae_guard.gate.run_plan import RunPlan

    return RunPlan(options).plan.cases


def session_for(options: GateOptions, cases: Callable[[], Sequence[Case]]) -> GateSession:
    """Make the session that measures the cases, so that one clean run serves all of a model."""
    from sae_guard.gate.session import GateSession

    shown = sys.stderr.isatty() and not os.environ.get("CI")
    return GateSession(options, cases, progress=sys.stderr if shown else None)


def read_specs(file: Path) -> tuple[Spec, ...]:
    """Read the documents of a spec file; raises `SpecError`."""
    from sae_guard.specs import load_specs

    return load_specs(file, display=project.display(file, project.root_of(Path.cwd())))
