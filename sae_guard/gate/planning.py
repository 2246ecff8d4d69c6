"""Which spec gates which checkpoint, by what checkpoints say of their training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.options import NOTHING_SAID, SaeOptions, merged
from sae_guard.checkpoints.reference import Checkpoint, labels_of
from sae_guard.core.report import CONTROL
from sae_guard.errors import LoadError, SetupError
from sae_guard.gate.cases import CONTROLS, Case
from sae_guard.specs import Spec


@dataclass(frozen=True)
class Candidate:
    """A checkpoint to gate, what it is called in node ids, and what it says of itself."""

    checkpoint: Checkpoint
    label: str
    declared: Declaration
    options: SaeOptions = NOTHING_SAID
    """What the command line says of it."""
    unreadable: str = ""
    """Why it could not be asked where it belongs."""


@dataclass(frozen=True)
class Idle:
    """A pair, or a spec without any checkpoint, that is not measured, and why."""

    spec: Spec
    label: str | None
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a run gates and what it does not."""

    cases: tuple[Case, ...]
    """Spec after spec, each with its checkpoints and then its controls."""
    idle: tuple[Idle, ...]

    def of(self, spec: Spec) -> tuple[Case, ...]:
        """The cases of one spec document."""
        return tuple(case for case in self.cases if case.spec is spec)


def candidates(
    checkpoints: Sequence[Checkpoint],
    *,
    options: SaeOptions = NOTHING_SAID,
    hook: str | None = None,
) -> list[Candidate]:
    """The checkpoints, each once, with what they say of themselves.

    Args:
        checkpoints: Any.
        options: What the command line says of them.
        hook: ``HOOK``, or ``HOOK:HOOK_OUT`` of transcoders, of those that do not say it.

    Raises:
        SetupError: One says another hook point.
    """
    names = labels_of(list(dict.fromkeys(checkpoints)))
    return [_candidate(checkpoint, label, options, hook) for checkpoint, label in names.items()]


def _candidate(
    checkpoint: Checkpoint, label: str, options: SaeOptions, hook: str | None
) -> Candidate:
    unreadable = ""
    try:
        declared = declare(checkpoint.path, checkpoint.name)
    except LoadError as error:  # to load it will say so, if a spec can be chosen
        declared, unreadable = Declaration(), str(error)
    if hook is not None:
        declared = decided(declared, hook, str(checkpoint))
    return Candidate(checkpoint, label, declared, options, unreadable)


def plan(
    specs: Sequence[Spec],
    candidates: Sequence[Candidate],
    *,
    controls: bool = False,
    changes: bool = True,
) -> Plan:
    """Which spec gates which checkpoint.

    A checkpoint that names its hook point and model is gated by the specs of the same ones; one
    that names neither, by all specs if they agree on both.

    Args:
        specs: Documents of spec files.
        candidates: Checkpoints.
        controls: Whether controls are measured beside them.
        changes: Whether there is an earlier version, so that thresholds on changes are in force.

    Raises:
        SetupError: A checkpoint names no hook point and specs of several could gate it, or no
            spec gates it, or one without a threshold in force does.
    """
    cases: dict[int, list[Case]] = {id(spec): [] for spec in specs}
    idle: list[Idle] = []
    for candidate in candidates:
        reasons = {id(spec): mismatch(spec, candidate.declared) for spec in specs}
        chosen = [spec for spec in specs if reasons[id(spec)] is None]
        _check_chosen(candidate, chosen, specs, reasons)
        for spec in chosen:
            cases[id(spec)].append(_case(spec, candidate, controls=controls, changes=changes))
        idle.extend(
            Idle(spec, candidate.label, reason) for spec in specs if (reason := reasons[id(spec)])
        )
    if controls:
        for spec in specs:
            if cases[id(spec)]:
                cases[id(spec)] += [
                    Case(spec, f"{CONTROL}{name}", None, thresholds, control=name)
                    for name, thresholds in CONTROLS.items()
                ]
    return Plan(tuple(case for of_spec in cases.values() for case in of_spec), tuple(idle))


def check_named(
    named: Sequence[Path], specs: Sequence[Spec], made: Plan, display: Callable[[Path], str]
) -> None:
    """Raise `SetupError`, which says why, where a spec file that was named gates nothing."""
    for path in named:
        documents = [spec for spec in specs if spec.file == path]
        if documents and not any(made.of(spec) for spec in documents):
            why = [idle for idle in made.idle if idle.spec.file == path]
            told = _listed(f"{idle.label or 'no checkpoint'}: {idle.reason}" for idle in why)
            raise SetupError(f"{display(path)} gates nothing:{told}")


def _case(spec: Spec, candidate: Candidate, *, controls: bool, changes: bool) -> Case:
    checkpoint = candidate.checkpoint
    try:
        options = merged(
            (f"the `sae` block of {spec.file.name}::{spec.name}", spec.sae),
            ("the registry", checkpoint.options),
            ("the command line", candidate.options),
        )
    except SetupError as error:
        raise SetupError(f"{checkpoint}: {error}") from None
    thresholds = tuple(each for each in spec.thresholds if changes or not each.change)
    if not thresholds:
        raise SetupError(
            f"{spec.file.name}::{spec.name} has thresholds on changes only: without a baseline "
            f"nothing of {checkpoint} would be gated"
        )
    pareto = spec.pareto if changes else None
    return Case(
        spec, candidate.label, checkpoint, thresholds, options, pareto=pareto, compared=controls
    )


def mismatch(spec: Spec, declared: Declaration) -> str | None:
    """Why the spec does not gate a checkpoint that declares this of itself; None if it does."""
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


def decided(declared: Declaration, hook: str, checkpoint: str) -> Declaration:
    """The declaration, with what ``HOOK`` or ``HOOK:HOOK_OUT`` of the command line says.

    Raises:
        SetupError: The checkpoint says otherwise.
    """
    read, _, replaced = hook.partition(":")
    for said, asked in ((declared.hook, read), (declared.hook_out, replaced or None)):
        if said is not None and said != asked:
            raise SetupError(
                f"{checkpoint} says hook point {said}, you say {hook}", options=("hook",)
            )
    return replace(declared, hook=read, hook_out=replaced or None)


def _plain(model_name: str) -> str:
    """``google/gemma-2-2b`` and ``gemma-2-2b`` are one model."""
    return PurePath(model_name).name.lower()


def _check_chosen(
    candidate: Candidate,
    chosen: Sequence[Spec],
    specs: Sequence[Spec],
    reasons: Mapping[int, str | None],
) -> None:
    if not chosen:
        why = _listed(f"{_named(spec)}: {reasons[id(spec)]}" for spec in specs)
        raise SetupError(f"no spec gates {candidate.checkpoint}:{why}")
    places = {(spec.model.name, spec.hook, spec.hook_out) for spec in chosen}
    if candidate.declared.hook is None and len(places) > 1:
        raise SetupError(
            f"{candidate.checkpoint} does not say which model and hook point it belongs to, and "
            f"several specs could gate it; name the spec, or the hook point:"
            f"{_listed(map(_named, chosen))}"
            + (f"\n({candidate.unreadable})" if candidate.unreadable else ""),
            options=("spec", "hook"),
        )


def _named(spec: Spec) -> str:
    return f"{spec.file.name}::{spec.name} ({spec.model.name}, {spec.hook})"


def _listed(lines: Iterable[Any]) -> str:
    return "".join(f"\n  {line}" for line in lines) or "\n  there is no spec"


def check_metadata(spec: Spec, said: Mapping[str, Any], checkpoint: str) -> None:
    """Raise `LoadError` where what a loaded checkpoint says of its training contradicts the spec.

    Args:
        spec: What it is measured by.
        said: The checkpoint's own words, under the names of `SaeSource.declared`.
        checkpoint: What to call it.
    """
    for key in ("model_name", "hook_name", "hook_name_out"):
        if not isinstance(said.get(key), str | None):
            raise LoadError(f"{checkpoint}: {key} is {said[key]!r}, expected text", "metadata")
    # Silence on what it replaces is no contradiction: its weights say whether it is a transcoder.
    replaced = said.get("hook_name_out") or spec.hook_out
    place = Declaration(said.get("model_name"), said.get("hook_name"), replaced)
    for wrong in (mismatch(spec, place), *_other_policies(spec, said)):
        if wrong is not None:
            raise LoadError(f"{checkpoint}: {wrong}", "metadata")


def _other_policies(spec: Spec, said: Mapping[str, Any]) -> Iterator[str]:
    """Where the SAE was trained on other tokens, or in another space, than it is measured in."""
    bos = said.get("prepend_bos")
    if bos is not None and bos != spec.data.prepend_bos:
        yield (
            f"it was trained with prepend_bos {str(bos).lower()}, the spec has `data: "
            f"{{prepend_bos: {str(spec.data.prepend_bos).lower()}}}`"
        )
    excluded = said.get("exclude_special_tokens")
    if excluded and spec.data.special_tokens == "include":
        yield (
            f"it was trained with exclude_special_tokens {excluded!r}, the spec has `data: "
            "{special_tokens: include}`"
        )
    arguments = said.get("model_from_pretrained_kwargs")
    centred = arguments.get("center_writing_weights") if isinstance(arguments, Mapping) else None
    processing = None if centred is None else "hooked" if centred else "raw"
    if processing not in (None, spec.model.processing):
        yield (
            f"it was trained with center_writing_weights {str(centred).lower()}, which is `model: "
            f"{{processing: {processing}}}`, the spec has {spec.model.processing}"
        )
