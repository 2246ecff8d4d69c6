"""Specs × checkpoints → the cases to measure, and why the others are none. No torch here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from sae_guard.checkpoints.declare import Declaration
from sae_guard.errors import SetupError
from sae_guard.spec import Spec
from sae_guard.verdicts import Threshold

CONTROLS: Mapping[str, tuple[Threshold, ...]] = {
    # The patch of the identity changes no bit of the activation, so neither of any logit; the
    # tolerance is for devices whose kernels do not repeat themselves.
    "identity": (
        Threshold("kl", max=1e-6, file="--sae-controls"),
        Threshold("reconstruction_score", max=1 + 1e-5, min=1 - 1e-5, file="--sae-controls"),
    ),
    "zero": (Threshold("reconstruction_score", max=1e-5, min=-1e-5, file="--sae-controls"),),
}
"""SAEs whose numbers are known beforehand, and the thresholds that hold them."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint to gate: where it is, what it is called in node ids, what it says of itself."""

    path: Path
    label: str
    declared: Declaration


@dataclass(frozen=True)
class Case:
    """One checkpoint (or control) at one spec: what is measured once and judged per threshold."""

    spec: Spec
    label: str
    checkpoint: Path | None
    """None for a control, which `label` names."""
    thresholds: tuple[Threshold, ...]

    @property
    def key(self) -> str:
        """Equal for cases that share one measurement, whatever their thresholds."""
        spec = self.spec
        parts = {
            "model": spec.model.model_dump(mode="json"),
            "hook": spec.hook,
            "data": spec.data.model_dump(mode="json"),
            "sae": spec.sae.model_dump(mode="json"),
            "base": str(spec.file.parent.resolve()),
            "checkpoint": str(self.checkpoint.resolve()) if self.checkpoint else self.label,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


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
    idle: tuple[Idle, ...]

    def of(self, spec: Spec) -> tuple[Case, ...]:
        """The cases of one spec document."""
        return tuple(case for case in self.cases if case.spec is spec)


def plan(specs: Sequence[Spec], candidates: Sequence[Candidate], *, controls: bool = False) -> Plan:
    """Which spec gates which checkpoint.

    A checkpoint that names its hook point and model is gated by the specs of the same ones; one
    that names neither, by all specs if they agree on both.

    Raises:
        SetupError: A checkpoint names no hook point and specs of several could gate it, or no
            spec gates it.
    """
    cases: list[Case] = []
    idle: list[Idle] = []
    for candidate in candidates:
        reasons = {id(spec): mismatch(spec, candidate.declared) for spec in specs}
        chosen = [spec for spec in specs if reasons[id(spec)] is None]
        _check_chosen(candidate, chosen, specs, reasons)
        cases.extend(Case(s, candidate.label, candidate.path, s.thresholds) for s in chosen)
        idle.extend(
            Idle(spec, candidate.label, reason) for spec in specs if (reason := reasons[id(spec)])
        )
    gated = {id(case.spec) for case in cases}
    if controls:
        cases.extend(
            Case(spec, f"{name} control", None, thresholds)
            for spec in specs
            if id(spec) in gated
            for name, thresholds in CONTROLS.items()
        )
    return Plan(tuple(cases), tuple(idle))


def mismatch(spec: Spec, declared: Declaration) -> str | None:
    """Why the spec does not gate a checkpoint that declares this of itself; None if it does."""
    if declared.hook is not None and declared.hook != spec.hook:
        return f"its hook point is {declared.hook}, the spec's is {spec.hook}"
    name = declared.model_name
    if name is not None and _plain(name) not in map(_plain, (spec.model.name, *spec.model.aliases)):
        return (
            f"its model is {name!r}, the spec's is {spec.model.name!r} "
            "(`model: {aliases: [...]}` in the spec names further spellings)"
        )
    return None


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
        raise SetupError(f"no spec gates {candidate.path}:{why}")
    places = {(spec.model.name, spec.hook) for spec in chosen}
    if candidate.declared.hook is None and len(places) > 1:
        raise SetupError(
            f"{candidate.path} does not say which model and hook point it belongs to, and several "
            f"specs could gate it; name one with --sae-spec:{_listed(map(_named, chosen))}"
        )


def _named(spec: Spec) -> str:
    return f"{spec.file.name}::{spec.name} ({spec.model.name}, {spec.hook})"


def _listed(lines: Iterable[Any]) -> str:
    return "".join(f"\n  {line}" for line in lines) or "\n  there is no spec"
