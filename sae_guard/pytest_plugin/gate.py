"""What a run gates: its spec files, its checkpoints and the plan made of them. No torch here."""

from __future__ import annotations

import glob
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sae_guard.errors import InfrastructureError, LoadError, SaeGuardError, SpecError, allowed
from sae_guard.pytest_plugin.options import EXIT_ERROR, Options
from sae_guard.pytest_plugin.versions import NONE

if TYPE_CHECKING:
    from sae_guard.checkpoints.reference import Checkpoint
    from sae_guard.plan import Candidate, Plan
    from sae_guard.spec import Spec

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
        root = self.options.root
        found = {
            Path(name)
            for pattern in self.options.spec_globs
            for name in glob.glob(str(root / pattern), recursive=True)
        }
        return tuple(sorted(found))

    def owns(self, path: Path) -> bool:
        """Whether ``path`` is a spec file of this run."""
        return path.suffix in (".yaml", ".yml") and path in self.spec_files

    def specs_of(self, path: Path) -> tuple[Spec, ...]:
        """The documents of a spec file; raises `SpecError`."""
        if path not in self._loaded:
            from sae_guard.spec import load_specs

            self._loaded[path] = load_specs(path, display=self.display(path))
        return self._loaded[path]

    def display(self, path: Path) -> str:
        """The path as node ids show it."""
        root = self.options.root
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)

    @cached_property
    def plan(self) -> Plan:
        """Which spec gates which checkpoint.

        Raises:
            pytest.UsageError: A checkpoint is not found, not gated, or gated ambiguously; or a
                spec that the command line names gates nothing.
        """
        from sae_guard.plan import plan

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
        return {"controls": self.options.controls, "changes": self.options.baseline != NONE}

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
        from sae_guard.checkpoints.reference import labels_of, resolve

        here = self.options.here
        found = [each for text in self.options.checkpoints for each in resolve(text, here)]
        names = labels_of(list(dict.fromkeys(found)))
        return [self._candidate(checkpoint, label) for checkpoint, label in names.items()]

    def _candidate(self, checkpoint: Checkpoint, label: str) -> Candidate:
        from sae_guard.checkpoints.declare import Declaration, declare
        from sae_guard.plan import Candidate, decided
        from sae_guard.pytest_plugin.options import sae_options

        unreadable = ""
        try:
            declared = declare(checkpoint.path, checkpoint.name)
        except LoadError as error:  # its test load.readable says so, if a spec can be chosen
            declared, unreadable = Declaration(), str(error)
        if self.options.hook is not None:
            declared = decided(declared, self.options.hook, str(checkpoint))
        options = sae_options(self.options.said)
        return Candidate(checkpoint, label, declared, options, unreadable)

    def _plan_of_defaults(self, specs: list[Spec]) -> Plan:
        """Without ``--sae`` each spec gates its own default checkpoint, if it names one."""
        from sae_guard.checkpoints.reference import labels_of, resolve
        from sae_guard.plan import Idle, Plan, plan

        found = {
            id(spec): resolve(spec.checkpoint, spec.file.parent)
            for spec in specs
            if spec.checkpoint
        }
        names = labels_of([checkpoint for each in found.values() for checkpoint in each])
        plans = [
            plan(
                [spec],
                [self._candidate(checkpoint, names[checkpoint]) for checkpoint in found[id(spec)]],
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
        named = {*self._named, *(self.spec_files if self.options.specs else ())}
        for path in self.spec_files:
            documents = [spec for spec in specs if spec.file == path]
            if path in named and documents and not any(made.of(spec) for spec in documents):
                why = "".join(
                    f"\n  {idle.label or 'no checkpoint'}: {idle.reason}"
                    for idle in made.idle
                    if idle.spec.file == path
                )
                raise pytest.UsageError(f"sae_guard: {self.display(path)} gates nothing:{why}")

    def _resolve(self, spec: str) -> Path:
        path = Path(os.path.normpath(self.options.here / Path(spec).expanduser()))
        if path.is_file():
            return path
        by_name = {p.stem: p for p in self.project_specs} | {p.name: p for p in self.project_specs}
        if spec not in by_name:
            raise pytest.UsageError(
                f"--sae-spec {spec!r} is no file and no spec of this project; "
                + allowed(spec, {p.stem for p in self.project_specs})
            )
        return by_name[spec]
