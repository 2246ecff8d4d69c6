"""Checkpoints and specs of a command line → what is to be measured, and what measures it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sae_guard.checkpoints.options import NOTHING_SAID, SaeOptions
from sae_guard.errors import SetupError
from sae_guard.gate import project

if TYPE_CHECKING:
    from sae_guard.gate.cases import Case
    from sae_guard.gate.session import Workbench
    from sae_guard.specs import Spec

_OF_PYTEST = re.compile(r"--sae-(?=(spec|hook|cache|baseline|arch|k|norm|scale)\b)")
"""Options of pytest that commands have without ``sae-``."""


def cases(
    checkpoints: Sequence[str],
    specs: Sequence[str] = (),
    *,
    options: SaeOptions = NOTHING_SAID,
    hook: str | None = None,
    changes: bool = True,
) -> list[Case]:
    """What there is to measure, spec after spec; each case has what one measurement needs.

    Args:
        checkpoints: Paths, globs and references.
        specs: Files or names of specs; those in ``thresholds`` of the project where there are none.
        options: What is said of the SAEs.
        hook: ``HOOK`` or ``HOOK:HOOK_OUT``, of checkpoints that do not name it.
        changes: Whether there is an earlier version, so that thresholds on changes are in force.

    Raises:
        SetupError: A checkpoint is not found, not gated, or gated ambiguously; a spec is malformed,
            or was named and gates nothing.
        InfrastructureError: A checkpoint has to be downloaded and cannot be.
    """
    from sae_guard.checkpoints.reference import resolve
    from sae_guard.gate.planning import candidates, check_named, plan

    here = Path.cwd()
    files = _spec_files(specs, here, checkpoints)
    documents = [spec for file in files for spec in read_specs(file)]
    found = [each for text in checkpoints for each in resolve(text, here)]
    made = plan(documents, candidates(found, options=options, hook=hook), changes=changes)
    if specs:
        check_named(files, documents, made, shown_file)
    return [case for spec in documents for case in made.of(spec)]


def read_specs(file: Path) -> tuple[Spec, ...]:
    """The documents of a spec file; raises `SpecError`."""
    from sae_guard.specs import load_specs

    return load_specs(file, display=shown_file(file))


def shown_file(file: Path) -> str:
    """The path of a spec file from the project's root, as pytest shows and records it."""
    return project.display(file, project.root_of(Path.cwd()))


def named(case: Case) -> str:
    """The spec of a case as records have it."""
    return f"{shown_file(case.spec.file)}::{case.spec.name}"


def shown(case: Case) -> str:
    """What to call a case."""
    return f"{named(case)} [{case.label}]"


def workbench(
    cases: Sequence[Case],
    *,
    device: str = "auto",
    batch_size: int | None = None,
    cache: str | None = None,
) -> Workbench:
    """What measures the cases: ``workbench(cases).measurement(case)``.

    Args:
        cases: All that are to be measured, so that one clean run serves all of a model.
        device: As ``--device``.
        batch_size: Token windows per forward pass, at most.
        cache: Folder of the cache, or ``off``; None for the usual one.
    """
    from sae_guard.cache import Cache, chosen_root
    from sae_guard.gate.session import Workbench

    root = chosen_root(cache)
    shown = sys.stderr if sys.stderr.isatty() and not os.environ.get("CI") else None
    return Workbench(
        device=device,
        batch_size=batch_size,
        cache=lambda: Cache(root) if root else None,
        cases=lambda: cases,
        progress=shown,
    )


def told(said: object) -> str:
    """A message or a line, with options as they are called here."""
    return _OF_PYTEST.sub("--", str(said))


def _spec_files(specs: Sequence[str], here: Path, checkpoints: Sequence[str]) -> tuple[Path, ...]:
    root = project.root_of(here)
    known = project.spec_files(root)
    if specs:
        try:
            return tuple(dict.fromkeys(project.named_spec(text, here, known) for text in specs))
        except SetupError as error:
            raise SetupError(f"--spec {error}") from None
    if not known:
        raise SetupError(
            f"no spec gates {', '.join(checkpoints)}: nothing matches {', '.join(project.SPECS)} "
            f"in {root}, and --spec names none"
        )
    return known
