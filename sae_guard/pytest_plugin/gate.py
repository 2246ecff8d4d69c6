"""What a run gates: its spec files, its checkpoints and the plan made of them. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sae_guard.errors import InfrastructureError, SaeGuardError, SetupError, SpecError
from sae_guard.gate import project
from sae_guard.pytest_plugin.options import EXIT_ERROR, Options

if TYPE_CHECKING:
    from sae_guard.checkpoints.reference import Checkpoint
    from sae_guard.gate.planning import Candidate, Plan
    from sae_guard.specs import Spec

GATE = pytest.StashKey["Gate"]()


class Gate:
    """The plan of a run, made when first asked for."""

    def __init__(self, options: Options, named: tuple[Path, ...] = ()) -> None:
        self.options = options
        self._named = named
        """Files that the command line names as arguments."""
        self._loaded: dict[Path, tuple[Spec, ...]] = {}

    @cached_property
    def spec_files(self) -> tuple[Path, ...]:
        """The spec files of the run: those that ``--sae-spec`` names, or all of the project.

        Raises:
            pytest.UsageError: ``--sae-spec`` names none.
        """
        if self.options.specs:
            return tuple(self._resolve(spec) for spec in self.options.specs)
        return self.project_specs

    @cached_property
    def project_specs(self) -> tuple[Path, ...]:
        """What the globs of the ini option ``sae_specs`` match, sorted."""
        return project.spec_files(self.options.root, self.options.spec_globs)

    def owns(self, path: Path) -> bool:
        """Whether ``path`` is a spec file of this run."""
        return path.suffix in (".yaml", ".yml") and path in self.spec_files

    def specs_of(self, path: Path) -> tuple[Spec, ...]:
        """The documents of a spec file; raises `SpecError`."""
        if path not in self._loaded:
            from sae_guard.specs import load_specs

            self._loaded[path] = load_specs(path, display=self.display(path))
        return self._loaded[path]

    def display(self, path: Path) -> str:
        """The path as node ids show it."""
        return project.display(path, self.options.root)

    @cached_property
    def plan(self) -> Plan:
        """Which spec gates which checkpoint.

        Raises:
            pytest.UsageError: A checkpoint is not found, not gated, or gated ambiguously; or a
                spec that the command line names gates nothing.
        """
        from sae_guard.gate.planning import plan

        specs, malformed = self._read_specs()
        try:
            if self.options.checkpoints:
                made = plan(specs, self._candidates(), **self._asked)
            else:
                made = self._plan_of_defaults(specs)
        except InfrastructureError as error:
            pytest.exit(f"sae_guard: {error}", EXIT_ERROR)
        except SaeGuardError as error:
            if malformed:  # the collection error of that file says more
                return plan([], [])
            raise pytest.UsageError(f"sae_guard: {error}") from None
        self._check_named(specs, made)
        return made

    @property
    def _asked(self) -> dict[str, bool]:
        from sae_guard.history import NO_VERSION

        return {"controls": self.options.controls, "changes": self.options.baseline != NO_VERSION}

    def _read_specs(self) -> tuple[list[Spec], bool]:
        specs: list[Spec] = []
        malformed = False
        for path in self.spec_files:
            try:
                specs.extend(self.specs_of(path))
            except SpecError:
                malformed = True
        return specs, malformed

    def _candidates(self) -> list[Candidate]:
        from sae_guard.checkpoints.reference import resolve

        here = self.options.here
        found = [each for text in self.options.checkpoints for each in resolve(text, here)]
        return self._candidates_of(found)

    def _candidates_of(self, found: Sequence[Checkpoint]) -> list[Candidate]:
        from sae_guard.gate.planning import candidates
        from sae_guard.pytest_plugin.options import sae_options

        said = sae_options(self.options.said)
        return candidates(found, options=said, hook=self.options.hook)

    def _plan_of_defaults(self, specs: list[Spec]) -> Plan:
        """Without ``--sae`` each spec gates its own default checkpoint, if it names one."""
        from sae_guard.checkpoints.reference import resolve
        from sae_guard.gate.planning import Idle, Plan, plan

        found = {
            id(spec): resolve(spec.checkpoint, spec.file.parent)
            for spec in specs
            if spec.checkpoint
        }
        every = self._candidates_of([each for some in found.values() for each in some])
        candidates = {candidate.checkpoint: candidate for candidate in every}
        plans = [
            plan(
                [spec],
                [candidates[checkpoint] for checkpoint in found[id(spec)]],
                **self._asked,
            )
            for spec in specs
            if spec.checkpoint
        ]
        without = tuple(
            Idle(spec, None, "it names no default checkpoint: give one with --sae")
            for spec in specs
            if not spec.checkpoint
        )
        return Plan(
            tuple(case for made in plans for case in made.cases),
            (*(idle for made in plans for idle in made.idle), *without),
        )

    def _check_named(self, specs: list[Spec], made: Plan) -> None:
        from sae_guard.gate.planning import check_named

        named = {*self._named, *(self.spec_files if self.options.specs else ())}
        try:
            check_named(
                [path for path in self.spec_files if path in named], specs, made, self.display
            )
        except SetupError as error:
            raise pytest.UsageError(f"sae_guard: {error}") from None

    def _resolve(self, spec: str) -> Path:
        try:
            return project.named_spec(spec, self.options.here, self.project_specs)
        except SetupError as error:
            raise pytest.UsageError(f"--sae-spec {error}") from None
