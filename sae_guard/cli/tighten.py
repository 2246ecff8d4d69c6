"""``sae-guard tighten``: the bounds of a spec follow what was measured."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sae_guard.cli.options import share
from sae_guard.cli.output import write_whole
from sae_guard.cli.records import folder_option
from sae_guard.cli.spelling import spelled
from sae_guard.errors import SaeGuardError, SetupError, allowed

if TYPE_CHECKING:
    from sae_guard.core.report import CaseReport
    from sae_guard.core.thresholds import Threshold
    from sae_guard.core.tightening import Decision
    from sae_guard.specs import Spec

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("spec", type=_FILE)
@click.option("--from", "file", type=_FILE, help="What `pytest --sae-json FILE` has written.")
@click.option(
    "--to",
    "version",
    metavar="VERSION",
    help="Or what was recorded: a promoted label, or the id, hash or name of records.",
)
@folder_option
@click.option(
    "--margin", default="5%", show_default=True, metavar="SHARE", callback=share,
    help="Of the distance of a value from 0 (from 1: scores), left between it and its bound.",
)  # fmt: skip
@click.option("--document", "documents", multiple=True, metavar="NAME", help="Default: all.")
@click.option("--checkpoint", "checkpoints", multiple=True, metavar="NAME", help="Default: all.")
@click.option("--dry-run", is_flag=True, help="Print the difference and write nothing.")
@click.option("--allow-loosen", is_flag=True, help="Move bounds that are tighter than this, too.")
@click.option("--reason", metavar="TEXT", help="Why they may be loosened; printed, for the commit.")
def tighten(
    spec: Path,
    file: Path | None,
    version: str | None,
    folder: str | None,
    margin: Decimal,
    documents: tuple[str, ...],
    checkpoints: tuple[str, ...],
    *,
    dry_run: bool,
    allow_loosen: bool,
    reason: str | None,
) -> None:
    """Tighten the bounds of SPEC to what was measured and a margin.

    Each bound is moved to where the checkpoints in FILE or of VERSION, or those of them that are
    named, keep it by the margin, if that is tighter than it was. Of SPEC only the characters of
    these numbers change.
    """
    reason = (reason or "").strip()
    if allow_loosen != bool(reason):
        raise click.UsageError("--allow-loosen and --reason go together: say why")
    if (file is None) == (version is None):
        raise click.UsageError("give one of --from FILE and --to VERSION")
    if folder is not None and version is None:
        raise click.UsageError("--folder goes with --to: it is where records are")
    source = _Source(file, version, folder)
    try:
        old = spec.read_bytes()
        decisions = _decided(
            old, spec, source, margin, documents, checkpoints, allow_loosen=allow_loosen
        )
        new = _rewritten(old, spec, decisions)
    except SaeGuardError as error:
        raise click.ClickException(spelled(error)) from None
    except OSError as error:
        raise click.ClickException(str(error)) from None
    if new != old and not dry_run:
        write_whole(spec, new)
    for line in _report(spec, decisions, f"{margin:%}", reason, dry_run=dry_run):
        click.echo(line)
    if dry_run:
        click.echo(_diff(old, new, str(spec)), nl=False)


@dataclass(frozen=True)
class _Source:
    """What was measured: a file that a run wrote, or the records of a version."""

    file: Path | None
    version: str | None
    folder: str | None

    def __str__(self) -> str:
        return str(self.file or self.version)

    def reports(self, path: Path, specs: Sequence[Spec]) -> list[CaseReport]:
        """Report on the cases of the spec file at ``path``, which has these documents."""
        from sae_guard.cli.tighten_sources import of_report, of_version
        from sae_guard.core.report_json import report_from_json

        if self.file is None:
            return of_version(str(self.version), self.folder, path, specs)
        return of_report(
            report_from_json(self.file.read_bytes(), file=str(self)), path, file=str(self)
        )


_Decided = Sequence[tuple["Spec", "tuple[Decision, ...]"]]


def _decided(
    data: bytes,
    path: Path,
    source: _Source,
    margin: Decimal,
    documents: Sequence[str],
    checkpoints: Sequence[str],
    *,
    allow_loosen: bool,
) -> _Decided:
    """The chosen documents, and what becomes of their bounds: nothing, where none was measured."""
    from sae_guard.cli.tighten_sources import of_checkpoints, of_spec
    from sae_guard.core.tightening import tightened
    from sae_guard.specs.load import parse_specs

    specs = {spec.name: spec for spec in parse_specs(data, path, display=str(path))}
    for name in documents:
        if name not in specs:
            raise SetupError(f"{path} has no document {name!r}; {allowed(name, specs)}")
    chosen = [spec for name, spec in specs.items() if not documents or name in documents]
    reports = source.reports(path, list(specs.values()))
    reports = of_checkpoints(reports, checkpoints, file=str(source))
    decided: list[tuple[Spec, tuple[Decision, ...]]] = []
    for spec in chosen:
        measured = of_spec(reports, spec, file=str(source))
        if documents and not measured:
            raise SetupError(f"{source} has no verdict by {path}::{spec.name}")
        thresholds = spec.thresholds if measured else ()
        decisions = tightened(thresholds, measured, margin, allow_loosen=allow_loosen)
        decided.append((spec, decisions))
    if not any(decisions for _, decisions in decided):
        names = ", ".join(sorted({report.case.document for report in reports}))
        raise SetupError(f"{source} has no verdict by the thresholds of {path}, but by {names}")
    return decided


def _rewritten(data: bytes, path: Path, decided: _Decided) -> bytes:
    """The new bytes, of which the specs are read once more before they are written."""
    from sae_guard.specs.load import parse_specs
    from sae_guard.specs.rewrite import NewBound, replace_bounds

    bounds = [
        NewBound(spec.name, d.threshold.target, d.side, d.new, d.warn)
        for spec, decisions in decided
        for d in decisions
        if d.new is not None
    ]
    new = replace_bounds(data, bounds, file=str(path))
    changed = {spec.name: decisions for spec, decisions in decided}
    expected = [
        tuple(_changed(threshold, changed.get(spec.name, ())) for threshold in spec.thresholds)
        for spec in parse_specs(data, path, display=str(path))
    ]
    if [spec.thresholds for spec in parse_specs(new, path, display=str(path))] != expected:
        raise SetupError(f"{path}: its thresholds would not be the expected ones")
    return new


def _changed(threshold: Threshold, decisions: Sequence[Decision]) -> Threshold:
    new = {
        f"{'warn_' if d.warn else ''}{d.side}": float(d.new)
        for d in decisions
        if d.threshold == threshold and d.new is not None
    }
    return replace(threshold, **new)  # type: ignore[arg-type]


def _report(
    path: Path, decided: _Decided, margin: str, reason: str, *, dry_run: bool
) -> Iterator[str]:
    from sae_guard.render import changes, count

    for spec, decisions in decided:
        about = f"margin {margin}" if decisions else "kept: not measured"
        yield f"{path}::{spec.name}  {about}"
        yield from changes(decisions)
        yield ""
    every = [decision for _, decisions in decided for decision in decisions]
    yield f"{path}: {count(every)}{', nothing is written' if dry_run else ''}"
    if any(decision.loosens for decision in every):
        yield f"loosened because: {reason}"


def _diff(old: bytes, new: bytes, name: str) -> str:
    before, after = (list(io.StringIO(text.decode())) for text in (old, new))
    lines = difflib.unified_diff(before, after, name, name)
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )
