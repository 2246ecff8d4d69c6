"""What a command line calls two versions → what is compared with what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sae_guard.cli.output import short
from sae_guard.cli.records import read_any
from sae_guard.errors import SetupError, allowed
from sae_guard.files import expanded
from sae_guard.gate import project

if TYPE_CHECKING:
    from sae_guard.core.measurement import Measurement, TokenKL
    from sae_guard.gate.cases import Case
    from sae_guard.history import History, Promotion, Recorded, RecordFolder

Cases = Callable[[str, Sequence[str]], "list[Case]"]
"""A checkpoint and the specs that are named, none for all → what is to be measured."""

Read = Callable[[], "tuple[Measurement, TokenKL | None]"]


@dataclass(frozen=True)
class Operand:
    """A version at one spec: a record, or a checkpoint that is yet to be measured."""

    name: str
    """Of the version."""
    spec: str
    """``file::name``."""
    label: str
    """Of the checkpoint."""
    source: Mapping[str, str]
    """What it is: a record, or a checkpoint."""
    case: Case | None
    """What is to be measured; None of a record."""
    read: Read | None
    """What was recorded; None of a checkpoint. Raises `HistoryError`."""


@dataclass(frozen=True)
class Kept:
    """The history that names of versions are looked up in."""

    history: History
    records: list[Recorded]
    promotions: list[Promotion]

    @classmethod
    def of(cls, history: History) -> Kept:
        """What it holds; what cannot be read is told, and the rest goes on."""
        records, promotions, _ = read_any(history)
        return cls(history, records, promotions)

    def find(self, reference: str) -> list[Operand] | None:
        """The records that are meant: of the history before those at a path or URL; None for what
        names a checkpoint.

        Raises:
            SetupError: It names nothing.
            HistoryError: It is a record that cannot be read.
        """
        from sae_guard.history import RecordFolder, find_records

        try:
            found = find_records(self.records, self.promotions, reference)
        except SetupError as error:
            known = any(each.label == reference for each in self.promotions)
            if known or not _elsewhere(reference):
                nor = "" if known else "; and there is no such path"
                raise SetupError(f"{error}{nor}") from None
            if not _is_record(reference):
                return None
            return [_outside(RecordFolder.from_url(expanded(reference).absolute().as_posix()))]
        if _elsewhere(reference):
            click.echo(
                f"{reference}: taken for what the history calls so; the path is ./{reference}",
                err=True,
            )
        return [self._operand(each, reference) for each in found]

    def _operand(self, recorded: Recorded, reference: str) -> Operand:
        said = {each.label for each in self.promotions} | {recorded.record.name}
        name = short(reference if reference in said else recorded.record.name, 24)

        def read() -> tuple[Measurement, TokenKL | None]:
            return self.history.measurement(recorded), self.history.token_kl(recorded)

        return _of_record(name, recorded, read)


def _outside(certificate: RecordFolder) -> Operand:
    def read() -> tuple[Measurement, TokenKL | None]:
        return certificate.measurement(), certificate.token_kl()

    name = short(certificate.recorded.record.name, 24)
    return _of_record(name, certificate.recorded, read)


def _of_record(name: str, recorded: Recorded, read: Read) -> Operand:
    label = recorded.record.checkpoint.label
    return Operand(name, recorded.spec, label, {"record": recorded.id}, None, read)


def _elsewhere(reference: str) -> bool:
    """Whether it could be a path, a glob or a URL."""
    path = reference.partition("#")[0]
    return "://" in path or any(c in path for c in "*?[") or expanded(path).exists()


def _is_record(reference: str) -> bool:
    return (expanded(reference) / "record.json").is_file()


def pairs(
    kept: Kept, before: str, after: str, cases: Cases, glob: str | None = None
) -> list[tuple[Operand, Operand]]:
    """What is compared with what, a pair for each spec and checkpoint that both have.

    Args:
        kept: Where names of versions are looked up.
        before: A name, a promoted label, an id, a hash, a record's folder, or a checkpoint.
        after: Likewise.
        cases: What is to be measured of a checkpoint.
        glob: Of specs: the file, the name, or ``file::name``.

    Raises:
        SaeGuardError: One names nothing, or they have nothing in common.
    """
    found = [kept.find(before), kept.find(after)]
    recorded = [each for side in found for each in side or ()]
    sides = []
    for reference, side in zip((before, after), found, strict=True):
        measured = side is None
        of = _chosen(
            _to_measure(reference, recorded, cases) if side is None else side, reference, glob
        )
        specs = {each.spec for each in recorded}
        sides.append([each for each in of if not (measured and specs) or each.spec in specs])
        if not sides[-1]:
            raise SetupError(
                f"{reference} is gated by {', '.join(sorted({each.spec for each in of}))}, and the "
                f"record is by {', '.join(sorted(specs))}"
            )
    return _paired((before, sides[0]), (after, sides[1]))


def _to_measure(reference: str, recorded: Sequence[Operand], cases: Cases) -> list[Operand]:
    """A checkpoint at the specs of the records it is compared with, or at all that gate it."""
    root = project.root_of(Path.cwd())
    files = {str(root / each.spec.rpartition("::")[0]) for each in recorded}
    known = {str(path) for path in project.spec_files(root)}
    named = () if files <= known else sorted(files)
    found = cases(reference, named)
    return [
        Operand(
            short(case.member, 24),
            case.ref.spec,
            case.member,
            {"checkpoint": str(case.checkpoint)},
            case,
            None,
        )
        for case in found
    ]


def _chosen(operands: list[Operand], reference: str, glob: str | None) -> list[Operand]:
    if glob is None:
        return operands

    def names(operand: Operand) -> tuple[str, ...]:
        file, _, name = operand.spec.rpartition("::")
        return name, file, operand.spec

    left = [each for each in operands if any(fnmatchcase(text, glob) for text in names(each))]
    if not left:
        hint = allowed(glob, {text for each in operands for text in names(each)})
        raise SetupError(f"nothing of {reference} has --spec {glob!r}; {hint}")
    return left


_Side = tuple[str, list[Operand]]


def _paired(before: _Side, after: _Side) -> list[tuple[Operand, Operand]]:
    (a, old), (b, new) = before, after
    if len(old) == len(new) == 1:
        return [(old[0], new[0])]
    common = [spec for spec in dict.fromkeys(each.spec for each in old)
              if any(each.spec == spec for each in new)]  # fmt: skip
    if not common:
        raise SetupError(f"no spec has both: {a} is by {_specs(old)}, {b} by {_specs(new)}")
    for reference, side in (before, after):
        if left := [each for each in side if each.spec not in common]:
            click.echo(f"not compared: only {reference} is by {_specs(left)}", err=True)
    return [pair for spec in common for pair in _of_spec(spec, before, after)]


def _of_spec(spec: str, before: _Side, after: _Side) -> list[tuple[Operand, Operand]]:
    old, new = ([each for each in side if each.spec == spec] for _, side in (before, after))
    if len(old) == len(new) == 1:
        return [(old[0], new[0])]
    later = {each.label: each for each in new}
    if len(later) < len(new) or {each.label for each in old} != later.keys() or (
        len(old) != len(new)
    ):  # fmt: skip
        listed = "".join(
            f"\n  {reference}: {each.label}, {' '.join(each.source.values())}"
            for reference, side in ((before[0], old), (after[0], new))
            for each in side
        )
        raise SetupError(f"which is to be compared with which? Give ids. By {spec}:{listed}")
    return [(each, later[each.label]) for each in old]


def _specs(operands: Sequence[Operand]) -> str:
    return ", ".join(dict.fromkeys(each.spec for each in operands))
