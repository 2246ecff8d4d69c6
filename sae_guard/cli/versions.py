"""Two versions as a command line names them → the pairs that are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sae_guard.cli.output import shorten
from sae_guard.cli.records import matching, records_even_retracted
from sae_guard.errors import SetupError
from sae_guard.files import expanded
from sae_guard.gate import project

if TYPE_CHECKING:
    from sae_guard.gate.cases import Case
    from sae_guard.history import Contents, Recorded
    from sae_guard.release.pairing import Identity

PlanCases = Callable[[str, Sequence[str]], "list[Case]"]
"""Plans the cases of a checkpoint, from its reference and spec files; without files, from all."""

_NAME_WIDTH = 24
"""Maximum width of the name of a version, in characters."""


@dataclass(frozen=True)
class SpecVersion:
    """A version at one spec: a record, or a checkpoint that is yet to be measured."""

    name: str
    """Name of the version."""
    spec: str
    """``file::name`` of the spec."""
    label: str
    """Label of the checkpoint in reports and node ids, such as ``v2``."""
    recorded: Recorded | None
    """The record; None for a checkpoint."""
    case: Case | None
    """Case to be measured; None for a record."""
    exact: bool = False
    """True where the user names this record by its id or folder, or this checkpoint."""

    @property
    def identity(self) -> Identity:
        """Spec, name and rule of the member, by which it is paired with an earlier one."""
        from sae_guard.gate.baselines import identity

        if self.recorded is not None:
            return identity(self.recorded)
        assert self.case is not None
        return self.case.identity

    @property
    def earlier_name(self) -> str:
        """Name of the member in the earlier version."""
        return self.case.earlier_name if self.case else self.label

    @property
    def source(self) -> dict[str, str]:
        """Id of the ``record``, or path of the ``checkpoint``."""
        if self.recorded is not None:
            return {"record": self.recorded.id}
        return {"checkpoint": str(self.case.checkpoint)} if self.case else {}


@dataclass(frozen=True)
class VersionPairs:
    """The pairs of two versions, and the members that only one of them has."""

    pairs: list[tuple[SpecVersion, SpecVersion]]
    unpaired: list[str]
    """A line for each member of one version without a counterpart in the other."""


def find(contents: Contents, reference: str) -> list[SpecVersion] | None:
    """Return the records that a reference names; None if it names a checkpoint.

    Names in the history come before records at a path or URL.

    Args:
        contents: What the history holds.
        reference: A name, a promoted label, an id, a hash, a record's folder, or a checkpoint.

    Raises:
        SetupError: The reference names nothing.
        HistoryError: The reference is a record that cannot be read.
    """
    from sae_guard.history import record_at

    labels = {promotion.label for promotion in contents.promotions}
    try:
        records = records_even_retracted(contents, reference)
    except SetupError as error:
        is_label = reference in labels
        if is_label or not _could_be_a_path(reference):
            hint = "" if is_label else "; and there is no such path"
            raise SetupError(f"{error}{hint}") from None
        if not _is_record_folder(reference):
            return None
        recorded = record_at(expanded(reference).absolute().as_posix())
        return [_recorded_version(recorded.record.name, recorded, exact=True)]
    if _could_be_a_path(reference):
        click.echo(
            f"{reference}: the history has this name, so it is not read as a path; the path "
            f"is ./{reference}",
            err=True,
        )
    # A version is called by its name, even if the user gave an id or a hash.
    return [
        _recorded_version(
            reference if reference in labels else recorded.record.name,
            recorded,
            exact=reference not in {*labels, recorded.record.name},
        )
        for recorded in records
    ]


def _recorded_version(name: str, recorded: Recorded, *, exact: bool) -> SpecVersion:
    return SpecVersion(
        shorten(name, _NAME_WIDTH), recorded.spec, recorded.member, recorded, None, exact
    )


def _could_be_a_path(reference: str) -> bool:
    """Return True if the reference is a URL, a glob or an existing path."""
    path = reference.partition("#")[0]
    return "://" in path or any(c in path for c in "*?[") or expanded(path).exists()


def _is_record_folder(reference: str) -> bool:
    return (expanded(reference) / "record.json").is_file()


def pairs(
    contents: Contents, before: str, after: str, plan_cases: PlanCases, glob: str | None = None
) -> VersionPairs:
    """Return the pairs to compare: one for each spec and member that both versions have.

    Args:
        contents: What the history holds, in which names of versions are looked up.
        before: A name, a promoted label, an id, a hash, a record's folder, or a checkpoint.
        after: Likewise.
        plan_cases: Plans the cases of a checkpoint.
        glob: Selects specs by file, name or ``file::name``; None for all.

    Raises:
        SaeGuardError: A reference names nothing, or the two versions have no member in common.
    """
    references = (before, after)
    records = [find(contents, reference) for reference in references]
    recorded = [version for versions in records for version in versions or ()]
    recorded_specs = {version.spec for version in recorded}
    sides = []
    for reference, versions in zip(references, records, strict=True):
        if versions is None:
            measurable = _to_measure(reference, recorded, plan_cases)
            by_spec = _matching(measurable, reference, glob)
            # A checkpoint is only measured by the specs of the record it is compared with.
            side = [v for v in by_spec if not recorded_specs or v.spec in recorded_specs]
        else:
            side = by_spec = _matching(versions, reference, glob)
        if not side:
            raise SetupError(
                f"{reference} is gated by {', '.join(sorted({v.spec for v in by_spec}))}, but the "
                f"record was measured by {', '.join(sorted(recorded_specs))}"
            )
        sides.append(side)
    return _paired((before, sides[0]), (after, sides[1]))


def _to_measure(
    reference: str, recorded: Sequence[SpecVersion], plan_cases: PlanCases
) -> list[SpecVersion]:
    """Plan a checkpoint by the specs of the records it is compared with, or by all that gate it."""
    root = project.root_of(Path.cwd())
    files = {str(root / version.spec.rpartition("::")[0]) for version in recorded}
    project_files = {str(path) for path in project.spec_files(root)}
    cases = plan_cases(reference, () if files <= project_files else sorted(files))
    return [
        SpecVersion(
            shorten(case.member, _NAME_WIDTH),
            case.ref.spec,
            case.member,
            None,
            case,
            exact=len(cases) == 1,
        )
        for case in cases
    ]


def _matching(versions: list[SpecVersion], reference: str, glob: str | None) -> list[SpecVersion]:
    """Select the versions whose spec matches the glob."""

    def names(version: SpecVersion) -> tuple[str, ...]:
        file, _, name = version.spec.rpartition("::")
        return name, file, version.spec

    return matching(versions, glob, names, f"no spec of {reference} matches --spec")


_Side = tuple[str, list[SpecVersion]]
"""A version as the user names it, and what it is at each spec."""


def _paired(before: _Side, after: _Side) -> VersionPairs:
    """Pair each member of two versions with its own earlier self.

    A single SAE that the user names itself (by an id, a record's folder or a path) is compared
    with another such one, whatever the two are called.
    """
    from sae_guard.release.pairing import earlier

    (before_name, old), (after_name, new) = before, after
    if len(old) == len(new) == 1 and (
        _is_same_kind(old[0], new[0]) or old[0].exact or new[0].exact
    ):
        return VersionPairs([(old[0], new[0])], [])
    paired, lines = list[tuple[SpecVersion, SpecVersion]](), list[str]()
    for version in new:
        alone = sum(other.spec == version.spec for other in new) == 1
        try:
            pair = earlier(
                version.identity, version.earlier_name, old, lambda old: old.identity, alone=alone
            )
        except SetupError as error:
            raise SetupError(f"{before_name}: {error}") from None
        if pair is None:
            lines.append(f"only {after_name} has {version.spec} [{version.label}]")
        else:
            paired.append((pair.old, version))
    found = {id(version) for version, _ in paired}
    lines += [
        f"only {before_name} has {version.spec} [{version.label}]"
        for version in old
        if id(version) not in found
    ]
    if not paired:
        raise SetupError(
            f"{before_name} and {after_name} have no member in common: {'; '.join(lines)}"
        )
    order = {id(version): index for index, version in enumerate(old)}
    return VersionPairs(sorted(paired, key=lambda pair: order[id(pair[0])]), lines)


def _is_same_kind(old: SpecVersion, new: SpecVersion) -> bool:
    """Return whether both have the same name, or names that are those of versions."""
    names_say_nothing = old.identity.may_be_version and new.identity.may_be_version
    return old.label == new.label or names_say_nothing
