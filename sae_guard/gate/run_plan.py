"""The spec files, the checkpoints and the plan of a run. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sae_guard.errors import SetupError, SpecError
from sae_guard.gate import project
from sae_guard.gate.options import GateOptions

if TYPE_CHECKING:
    from sae_guard.gate.baselines import Baselines
    from sae_guard.gate.planning import Plan
    from sae_guard.specs import Spec


class RunPlan:
    """Specs and plan of a run; each is read or made when it is first needed."""

    def __init__(
        self,
        options: GateOptions,
        *,
        named_files: Sequence[Path] = (),
        skip_malformed: bool = False,
    ) -> None:
        """Take the options of a run.

        Args:
            options: Options of the run.
            named_files: Further spec files that the user names: each has to gate a checkpoint.
            skip_malformed: True to plan without malformed spec files, in a shell that reports
                them itself.
        """
        self.options = options
        self._named_files = named_files
        self._skip_malformed = skip_malformed
        self._documents: dict[Path, tuple[Spec, ...]] = {}

    @cached_property
    def spec_files(self) -> tuple[Path, ...]:
        """Spec files of the run: those that the options name, or else all of the project.

        Raises:
            SetupError: A name does not belong to a spec file.
        """
        names, folder = self.options.specs, self.options.here
        try:
            files = (project.named_spec(name, folder, self.project_specs) for name in names)
            return tuple(dict.fromkeys(files)) or self.project_specs
        except SetupError as error:
            raise SetupError(str(error), options=("spec",)) from None

    @cached_property
    def project_specs(self) -> tuple[Path, ...]:
        """Spec files of the project, sorted."""
        return project.spec_files(self.options.root, self.options.spec_globs)

    def display(self, path: Path) -> str:
        """Return the path of a file as node ids, messages and records show it."""
        return project.display(path, self.options.root)

    def documents(self, path: Path) -> tuple[Spec, ...]:
        """Read the documents of a spec file; raises `SpecError`."""
        if path not in self._documents:
            from sae_guard.specs import load_specs

            self._documents[path] = load_specs(path, display=self.display(path))
        return self._documents[path]

    @cached_property
    def plan(self) -> Plan:
        """Plan of the run: the cases, and the pairs of spec and checkpoint that do not match.

        Raises:
            SetupError: There is no spec; a checkpoint does not exist; no spec gates it, or several
                could; or a spec that the user names gates nothing.
            InfrastructureError: The download of a checkpoint fails.
        """
        from sae_guard.gate.planning import Plan, check_files

        self._check_any_spec()
        specs, malformed = self._read_specs()
        try:
            run_plan = self._plan_of(specs)
        except SetupError:
            if malformed:  # the error of the malformed file is the cause
                return Plan((), ())
            raise
        required = {*self._named_files, *(self.spec_files if self.options.specs else ())}
        files = [path for path in self.spec_files if path in required]
        check_files(files, specs, run_plan, self.display)
        return self._follow(run_plan, specs)

    def _follow(self, plan: Plan, specs: Sequence[Spec]) -> Plan:
        """Pair the cases with their earlier selves, where there is a baseline or a manifest."""
        from sae_guard.gate.following import follow

        options = self.options
        return follow(plan, specs, self.baselines, options.baseline, part=bool(options.specs))

    @cached_property
    def baselines(self) -> Baselines:
        """Recorded versions to compare with; plan and session share what was read of them."""
        from sae_guard.gate.baselines import Baselines
        from sae_guard.history import History, store

        return Baselines(History(store.locate(self.options.history, self.options.root)))

    def _check_any_spec(self) -> None:
        options = self.options
        if options.gates and not self.spec_files:
            named = ", ".join([*options.checkpoints, *options.members.values()])
            raise SetupError(
                f"no spec gates {named}: no file in {options.root} "
                f"matches {', '.join(options.spec_globs)}; add a spec file there, or name one",
                options=("spec",),
            )

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

    def _plan_of(self, specs: list[Spec]) -> Plan:
        """Plan these specs for the checkpoints of the options, or else each for its default."""
        from sae_guard.checkpoints.options import parse
        from sae_guard.gate.planning import Idle, Plan, candidates, plan
        from sae_guard.history import NO_VERSION
        from sae_guard.release.members import members

        options = self.options
        root = None if options.release_root is None else options.here / options.release_root
        if options.checkpoints or options.members:
            of_all = members(options.checkpoints, options.here, named=options.members, root=root)
            groups = [(specs, of_all)]
        else:
            groups = [
                ([spec], members([spec.checkpoint], spec.file.parent, root=root))
                for spec in specs
                if spec.checkpoint
            ]
        sae_options = parse(options.sae)
        plans = [
            plan(
                group_specs,
                candidates(group_members, options=sae_options, hook=options.hook),
                controls=options.controls,
                changes=options.baseline != NO_VERSION,
            )
            for group_specs, group_members in groups
        ]
        reason = "it names no default checkpoint, and none was given"
        named = options.checkpoints or options.members
        idle = [spec for spec in specs if not (spec.checkpoint or named)]
        return Plan(
            tuple(case for each in plans for case in each.cases),
            (
                *(pair for each in plans for pair in each.idle),
                *(Idle(spec, None, reason) for spec in idle),
            ),
        )
