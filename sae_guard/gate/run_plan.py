"""What a run gates: its spec files, its checkpoints and the plan made of them. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sae_guard.errors import SetupError, SpecError
from sae_guard.gate import project
from sae_guard.gate.options import GateOptions

if TYPE_CHECKING:
    from sae_guard.checkpoints.reference import Checkpoint
    from sae_guard.gate.planning import Candidate, Plan
    from sae_guard.specs import Spec


class RunPlan:
    """The specs and the plan of a run, each made when it is first asked for."""

    def __init__(
        self,
        options: GateOptions,
        *,
        named_files: Sequence[Path] = (),
        skip_malformed: bool = False,
    ) -> None:
        """Take the options of a run.

        Args:
            options: What is asked for.
            named_files: Spec files that have to gate something, beside those of the options.
            skip_malformed: Whether to plan without spec files that are malformed, for a shell that
                reports these by itself.
        """
        self.options = options
        self._named_files = named_files
        self._skip_malformed = skip_malformed
        self._documents: dict[Path, tuple[Spec, ...]] = {}

    @cached_property
    def spec_files(self) -> tuple[Path, ...]:
        """The spec files of the run: those that the options name, or all of the project.

        Raises:
            SetupError: A name is no spec file.
        """
        names, here = self.options.specs, self.options.here
        try:
            files = (project.named_spec(name, here, self.project_specs) for name in names)
            return tuple(dict.fromkeys(files)) or self.project_specs
        except SetupError as error:
            raise SetupError(str(error), options=("spec",)) from None

    @cached_property
    def project_specs(self) -> tuple[Path, ...]:
        """The spec files of the project, sorted."""
        return project.spec_files(self.options.root, self.options.spec_globs)

    def display(self, path: Path) -> str:
        """Name a file as node ids, messages and records do."""
        return project.display(path, self.options.root)

    def documents(self, path: Path) -> tuple[Spec, ...]:
        """Read the documents of a spec file; raises `SpecError`."""
        if path not in self._documents:
            from sae_guard.specs import load_specs

            self._documents[path] = load_specs(path, display=self.display(path))
        return self._documents[path]

    @cached_property
    def plan(self) -> Plan:
        """Which spec gates which checkpoint.

        Raises:
            SetupError: There is no spec; a checkpoint is not found, not gated, or gated
                ambiguously; or a spec that was named gates nothing.
            InfrastructureError: A checkpoint has to be downloaded and cannot be.
        """
        from sae_guard.gate.planning import Plan, check_files, plan

        self._check_any()
        specs, malformed = self._read_specs()
        try:
            if self.options.checkpoints:
                made = plan(specs, self._candidates(), **self._how)
            else:
                made = self._plan_of_defaults(specs)
        except SetupError:
            if malformed:  # what is wrong with that file says more
                return Plan((), ())
            raise
        named = {*self._named_files, *(self.spec_files if self.options.specs else ())}
        files = [path for path in self.spec_files if path in named]
        check_files(files, specs, made, self.display)
        return made

    def _check_any(self) -> None:
        options = self.options
        if options.gates and not self.spec_files:
            raise SetupError(
                f"no spec gates {', '.join(options.checkpoints)}: nothing matches "
                f"{', '.join(options.spec_globs)} in {options.root}, and none is named",
                options=("spec",),
            )

    @property
    def _how(self) -> dict[str, bool]:
        from sae_guard.history import NO_VERSION

        return {"controls": self.options.controls, "changes": self.options.baseline != NO_VERSION}

    def _read_specs(self) -> tuple[list[Spec], bool]:
        specs: list[Spec] = []
        malformed = False
        for path in self.spec_files:
            try:
                specs.extend(self.documents(path))
            except SpecError:
                if not self._skip_malformed:
                    raise
                malformed = True
        return specs, malformed

    def _candidates(self) -> list[Candidate]:
        from sae_guard.checkpoints.reference import resolve

        options = self.options
        return self._candidates_of(
            [each for text in options.checkpoints for each in resolve(text, options.here)]
        )

    def _candidates_of(self, checkpoints: Sequence[Checkpoint]) -> list[Candidate]:
        from sae_guard.checkpoints.options import parse
        from sae_guard.gate.planning import candidates

        return candidates(checkpoints, options=parse(self.options.sae), hook=self.options.hook)

    def _plan_of_defaults(self, specs: list[Spec]) -> Plan:
        """Plan a run without checkpoints: each spec gates its own default, if it names one."""
        from sae_guard.checkpoints.reference import resolve
        from sae_guard.gate.planning import Idle, Plan, plan

        checkpoints = {
            id(spec): resolve(spec.checkpoint, spec.file.parent)
            for spec in specs
            if spec.checkpoint
        }
        every = self._candidates_of([each for some in checkpoints.values() for each in some])
        by_checkpoint = {candidate.checkpoint: candidate for candidate in every}
        plans = [
            plan([spec], [by_checkpoint[each] for each in checkpoints[id(spec)]], **self._how)
            for spec in specs
            if spec.checkpoint
        ]
        without = tuple(
            Idle(spec, None, "it names no default checkpoint, and none was given")
            for spec in specs
            if not spec.checkpoint
        )
        return Plan(
            tuple(case for made in plans for case in made.cases),
            (*(idle for made in plans for idle in made.idle), *without),
        )
