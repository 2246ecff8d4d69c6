"""Plan a run: match specs and checkpoints by the hook point and model that both name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.options import NOTHING_SAID, SaeOptions, merged
from sae_guard.core.report import CONTROL, MemberProblem
from sae_guard.errors import LoadError, SetupError
from sae_guard.gate.cases import CONTROLS, Case
from sae_guard.release.members import Member
from sae_guard.specs import Spec


@dataclass(frozen=True)
class Candidate:
    """A member of a release that may be gated, with the declaration of its checkpoint."""

    member: Member
    declared: Declaration
    options: SaeOptions = NOTHING_SAID
    """The user's options for loading it."""
    unreadable: str = ""
    """Reason why its declaration could not be read; empty where it could."""


@dataclass(frozen=True)
class Idle:
    """A spec that does not gate a checkpoint, or any checkpoint at all, and the reason."""

    spec: Spec
    member: str | None
    """Name of the checkpoint; None for a spec that gates no checkpoint at all."""
    reason: str


@dataclass(frozen=True)
class Plan:
    """The cases of a run, and the specs and checkpoints that do not belong together."""

    cases: tuple[Case, ...]
    """Cases in the order of the specs; of each spec the checkpoints, then the controls."""
    idle: tuple[Idle, ...]
    """Pairs of spec and checkpoint that do not belong together."""
    problems: tuple[MemberProblem, ...] = ()
    """Members that are missing, unexpected, or cannot be paired with an earlier one."""

    def of(self, spec: Spec) -> tuple[Case, ...]:
        """Return the cases of one spec document."""
        return tuple(case for case in self.cases if case.spec is spec)


def candidates(
    members: Sequence[Member],
    *,
    options: SaeOptions = NOTHING_SAID,
    hook: str | None = None,
) -> list[Candidate]:
    """Read the declarations of the members of a release.

    Args:
        members: Members with their checkpoints.
        options: The user's options for loading them.
        hook: The user's ``HOOK``, or ``HOOK:HOOK_OUT`` of transcoders, for checkpoints that declare
            none.

    Raises:
        SetupError: A checkpoint declares another hook point than ``hook``.
    """
    return [_candidate(member, options, hook) for member in members]


def _candidate(member: Member, options: SaeOptions, hook: str | None) -> Candidate:
    checkpoint = member.checkpoint
    unreadable = ""
    try:
        declared = declare(checkpoint.path, checkpoint.name)
    except LoadError as error:  # loading raises it again, as an error of the case
        declared, unreadable = Declaration(), str(error)
    if hook is not None:
        declared = with_hook(declared, hook, str(checkpoint))
    return Candidate(member, declared, options, unreadable)


def plan(
    specs: Sequence[Spec],
    candidates: Sequence[Candidate],
    *,
    controls: bool = False,
    changes: bool = True,
) -> Plan:
    """Decide which spec gates which checkpoint.

    A checkpoint that declares its hook point and model is gated by the specs with the same ones. A
    checkpoint that declares neither is gated by all specs, if these agree on both.

    Args:
        specs: Documents of spec files.
        candidates: Checkpoints.
        controls: True to measure controls beside them.
        changes: True where an earlier version exists, so that thresholds on changes are in force.

    Raises:
        SetupError: No spec gates a checkpoint; specs at several hook points could gate one that
            declares none; or a spec that gates one has no threshold in force.
    """
    cases: dict[int, list[Case]] = {id(spec): [] for spec in specs}
    idle: list[Idle] = []
    for candidate in candidates:
        reasons = {id(spec): mismatch(spec, candidate.declared) for spec in specs}
        gating = [spec for spec in specs if reasons[id(spec)] is None]
        _check_gating(candidate, gating, specs, reasons)
        for spec in gating:
            cases[id(spec)].append(_case(spec, candidate, controls=controls, changes=changes))
        idle.extend(
            Idle(spec, candidate.member.name, reason)
            for spec in specs
            if (reason := reasons[id(spec)])
        )
    for of_spec in cases.values():
        _check_names(of_spec)
        of_spec[:] = [replace(case, alone=len(of_spec) == 1) for case in of_spec]
    if controls:
        for spec in specs:
            if cases[id(spec)]:
                cases[id(spec)] += [
                    Case(spec, f"{CONTROL}{name}", None, thresholds, control=name)
                    for name, thresholds in CONTROLS.items()
                ]
    return Plan(tuple(case for of_spec in cases.values() for case in of_spec), tuple(idle))


def check_files(
    files: Sequence[Path], specs: Sequence[Spec], plan: Plan, display: Callable[[Path], str]
) -> None:
    """Raise `SetupError` with the reasons where one of these spec files gates nothing."""
    for path in files:
        documents = [spec for spec in specs if spec.file == path]
        if documents and not any(plan.of(spec) for spec in documents):
            idle_pairs = [idle for idle in plan.idle if idle.spec.file == path]
            reasons = _indented(
                f"{idle.member or 'no checkpoint'}: {idle.reason}" for idle in idle_pairs
            )
            raise SetupError(f"{display(path)} gates nothing:{reasons}")


def _case(spec: Spec, candidate: Candidate, *, controls: bool, changes: bool) -> Case:
    member, checkpoint = candidate.member, candidate.member.checkpoint
    try:
        options = merged(
            (f"the `sae` block of {spec.file.name}::{spec.name}", spec.sae),
            ("the registry", checkpoint.options),
            ("the command line", candidate.options),
        )
    except SetupError as error:
        raise SetupError(f"{checkpoint}: {error}") from None
    thresholds = tuple(t for t in spec.thresholds if changes or not t.change)
    if not thresholds:
        raise SetupError(
            f"{spec.file.name}::{spec.name} has thresholds on changes only: without a baseline it "
            f"does not gate {checkpoint}; name a baseline, or add a threshold that needs none"
        )
    pareto = spec.pareto if changes else None
    return Case(
        spec, member.name, checkpoint, thresholds, options, pareto=pareto, compared=controls,
        named_by=member.named_by, manifest=member.manifest,
    )  # fmt: skip


def _check_names(cases: Sequence[Case]) -> None:
    """Raise `SetupError` where two checkpoints of one spec have one name."""
    by_name: dict[str, Case] = {}
    for case in cases:
        other = by_name.setdefault(case.member, case)
        if other is not case:
            raise SetupError(
                f"{other.checkpoint} and {case.checkpoint} are both named {case.member!r} in "
                f"{case.ref.spec}; allowed: one name each; name the root folder of the release, "
                "below which the path is the name, or name each of them",
                options=("root", "member"),
            )


def mismatch(spec: Spec, declared: Declaration) -> str | None:
    """Return why the spec does not gate a checkpoint with this declaration; None if it does."""
    if declared.hook is not None and declared.hook != spec.hook:
        return f"its hook point is {declared.hook}, the spec's is {spec.hook}"
    if declared.hook_out is not None and declared.hook_out != spec.hook_out:
        return f"it replaces {declared.hook_out}, the spec's hook_out is {spec.hook_out or 'none'}"
    if declared.hook is not None and declared.hook_out is None and spec.hook_out is not None:
        return f"it replaces what it reads, the spec's hook_out is {spec.hook_out}"
    name = declared.model_name
    if name is not None and _plain(name) not in map(_plain, (spec.model.name, *spec.model.aliases)):
        return (
            f"its model is {name!r}, the spec's is {spec.model.name!r} "
            "(`model: {aliases: [...]}` in the spec names further spellings)"
        )
    return None


def with_hook(declared: Declaration, hook: str, checkpoint: str) -> Declaration:
    """Return the declaration, completed with the user's ``HOOK`` or ``HOOK:HOOK_OUT``.

    Raises:
        SetupError: The checkpoint declares another hook point.
    """
    hook_in, _, hook_out = hook.partition(":")
    for own, requested in ((declared.hook, hook_in), (declared.hook_out, hook_out or None)):
        if own is not None and own != requested:
            raise SetupError(
                f"{checkpoint} declares hook point {own}, but the options name {hook}",
                options=("hook",),
            )
    return replace(declared, hook=hook_in, hook_out=hook_out or None)


def _plain(model_name: str) -> str:
    """Drop organisation and case: ``google/gemma-2-2b`` and ``gemma-2-2b`` are one model."""
    return PurePath(model_name).name.lower()


def _check_gating(
    candidate: Candidate,
    gating: Sequence[Spec],
    specs: Sequence[Spec],
    reasons: Mapping[int, str | None],
) -> None:
    if not gating:
        lines = _indented(f"{_spec_line(spec)}: {reasons[id(spec)]}" for spec in specs)
        raise SetupError(f"no spec gates {candidate.member.checkpoint}:{lines}")
    hook_sites = {(spec.model.name, spec.hook, spec.hook_out) for spec in gating}
    if candidate.declared.hook is None and len(hook_sites) > 1:
        raise SetupError(
            f"{candidate.member.checkpoint} does not declare its model and hook point, and several "
            f"specs could gate it; name the spec, or the hook point:"
            f"{_indented(map(_spec_line, gating))}"
            + (f"\n({candidate.unreadable})" if candidate.unreadable else ""),
            options=("spec", "hook"),
        )


def _spec_line(spec: Spec) -> str:
    return f"{spec.file.name}::{spec.name} ({spec.model.name}, {spec.hook})"


def _indented(lines: Iterable[Any]) -> str:
    return "".join(f"\n  {line}" for line in lines) or "\n  there is no spec"


def check_metadata(spec: Spec, metadata: Mapping[str, Any], checkpoint: str) -> None:
    """Raise `LoadError` where the metadata of a loaded checkpoint contradict the spec.

    Args:
        spec: The spec that the checkpoint is measured by.
        metadata: Facts about its training, under the names of `SaeSource.declared`.
        checkpoint: The name of the checkpoint in messages.
    """
    for key in ("model_name", "hook_name", "hook_name_out"):
        if not isinstance(metadata.get(key), str | None):
            raise LoadError(f"{checkpoint}: {key} is {metadata[key]!r}, expected text", "metadata")
    # Many transcoders do not declare the hook point they replace. That is no contradiction: their
    # weights show that they are transcoders.
    hook_out = metadata.get("hook_name_out") or spec.hook_out
    declared = Declaration(metadata.get("model_name"), metadata.get("hook_name"), hook_out)
    for contradiction in (mismatch(spec, declared), *_other_training(spec, metadata)):
        if contradiction is not None:
            raise LoadError(f"{checkpoint}: {contradiction}", "metadata")


def _other_training(spec: Spec, metadata: Mapping[str, Any]) -> Iterator[str]:
    """Yield each setting of the SAE's training that contradicts the spec: tokens and processing."""
    bos = metadata.get("prepend_bos")
    if bos is not None and bos != spec.data.prepend_bos:
        yield (
            f"it was trained with prepend_bos {str(bos).lower()}, the spec has `data: "
            f"{{prepend_bos: {str(spec.data.prepend_bos).lower()}}}`"
        )
    excluded = metadata.get("exclude_special_tokens")
    if excluded and spec.data.special_tokens == "include":
        yield (
            f"it was trained with exclude_special_tokens {excluded!r}, the spec has `data: "
            "{special_tokens: include}`"
        )
    arguments = metadata.get("model_from_pretrained_kwargs")
    centred = arguments.get("center_writing_weights") if isinstance(arguments, Mapping) else None
    processing = None if centred is None else "hooked" if centred else "raw"
    if processing not in (None, spec.model.processing):
        yield (
            f"it was trained with center_writing_weights {str(centred).lower()}, which is `model: "
            f"{{processing: {processing}}}`, the spec has {spec.model.processing}"
        )
