"""``sae-guard tighten``: move the bounds of a spec to measured values and a margin."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sae_guard.cli.options import parse_share
from sae_guard.cli.output import write_whole
from sae_guard.cli.records import folder_option
from sae_guard.errors import SetupError, allowed

if TYPE_CHECKING:
    from sae_guard.core.report import CaseReport
    from sae_guard.core.thresholds import Threshold
    from sae_guard.core.tightening import Decision
    from sae_guard.specs import Spec

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("spec", type=_FILE)
@click.option(
    "--from", "file", type=_FILE, help="Report that `pytest --sae-json FILE` has written."
)
@click.option(
    "--to",
    "version",
    metavar="VERSION",
    help="Records instead of a report: a promoted label, or their id, hash or name.",
)
@folder_option
@click.option(
    "--margin", default="5%", show_default=True, metavar="SHARE", callback=parse_share,
    help="Room between a value and its bound, as a share of its distance from 0 (scores: from 1).",
)  # fmt: skip
@click.option(
    "--document",
    "documents",
    multiple=True,
    metavar="NAME",
    help="Only this document of SPEC; repeatable.",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="NAME",
    help="Only this checkpoint; repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Print the difference and write nothing.")
@click.option("--allow-loosen", is_flag=True, help="Also loosen bounds that are tighter than this.")
@click.option(
    "--reason", metavar="TEXT", help="Why bounds may be loosened; printed, for the commit message."
)
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

    A bound moves to where all checkpoints (in FILE or of VERSION, or those named by --checkpoint)
    keep it by the margin, if it gets tighter. Only the characters of these numbers change in SPEC.
    """
    reason = (reason or "").strip()
    if allow_loosen != bool(reason):
        raise click.UsageError(
            "--allow-loosen and --reason go together; say why bounds may be loosened"
        )
    if (file is None) == (version is None):
        raise click.UsageError("give one of --from FILE and --to VERSION")
    if folder is not None and version is None:
        raise click.UsageError("--folder goes with --to: it is the folder of the records")
    source = _Source(file, version, folder)
    try:
        old = spec.read_bytes()
        decisions = _decide(
            old, spec, source, margin, documents, checkpoints, allow_loosen=allow_loosen
        )
        new = _rewritten(old, spec, decisions)
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
    """Source of measured values: the report of a run, or the records of a version."""

    file: Path | None
    version: str | None
    folder: str | None

    def __str__(self) -> str:
        return str(self.file or self.version)

    def reports(self, path: Path, specs: Sequence[Spec]) -> list[CaseReport]:
        """Return reports on the cases of a spec file.

        Args:
            path: Path of the spec file.
            specs: Its documents.
        """
        from sae_guard.cli.tighten_sources import reports_of_file, reports_of_version
        from sae_guard.core.report_json import report_from_json

        if self.file is None:
            return reports_of_version(str(self.version), self.folder, path, specs)
        return reports_of_file(
            report_from_json(self.file.read_bytes(), file=str(self)), path, file=str(self)
        )


_Decisions = Sequence[tuple["Spec", "tuple[Decision, ...]"]]
"""Documents of the spec file, each with the decisions on its bounds."""


def _decide(
    data: bytes,
    path: Path,
    source: _Source,
    margin: Decimal,
    documents: Sequence[str],
    checkpoints: Sequence[str],
    *,
    allow_loosen: bool,
) -> _Decisions:
    """Decide on the bounds of the selected documents; those that were not measured have none."""
    from sae_guard.cli.tighten_sources import measured_values, select_checkpoints
    from sae_guard.core.tightening import tightened
    from sae_guard.specs.load import parse_specs

    specs = {spec.name: spec for spec in parse_specs(data, path, display=str(path))}
    for name in documents:
        if name not in specs:
            raise SetupError(f"{path} has no document {name!r}; {allowed(name, specs)}")
    selected = [spec for name, spec in specs.items() if not documents or name in documents]
    reports = source.reports(path, list(specs.values()))
    reports = select_checkpoints(reports, checkpoints, file=str(source))
    decisions_by_spec: list[tuple[Spec, tuple[Decision, ...]]] = []
    for spec in selected:
        measured = measured_values(reports, spec, file=str(source))
        if documents and not measured:
            raise SetupError(f"{source} has no verdicts by {path}::{spec.name}")
        thresholds = spec.thresholds if measured else ()
        decisions = tightened(thresholds, measured, margin, allow_loosen=allow_loosen)
        decisions_by_spec.append((spec, decisions))
    if not any(decisions for _, decisions in decisions_by_spec):
        names = ", ".join(sorted({report.case.document for report in reports}))
        raise SetupError(f"{source} has no verdicts by the thresholds of {path}, only by {names}")
    return decisions_by_spec


def _rewritten(data: bytes, path: Path, decisions_by_spec: _Decisions) -> bytes:
    """Return the new bytes of the spec file, which are parsed and compared before any is written.

    Raises:
        SetupError: They would have other thresholds than the decisions say.
    """
    from sae_guard.specs.load import parse_specs
    from sae_guard.specs.rewrite import NewBound, replace_bounds

    bounds = [
        NewBound(spec.name, d.threshold.target, d.side, d.new, d.warn)
        for spec, decisions in decisions_by_spec
        for d in decisions
        if d.new is not None
    ]
    new = replace_bounds(data, bounds, file=str(path))
    changed = {spec.name: decisions for spec, decisions in decisions_by_spec}
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
    path: Path, decisions_by_spec: _Decisions, margin: str, reason: str, *, dry_run: bool
) -> Iterator[str]:
    from sae_guard.render.tightening import decision_counts, decision_table

    for spec, decisions in decisions_by_spec:
        remark = f"margin {margin}" if decisions else "kept: not measured"
        yield f"{path}::{spec.name}  {remark}"
        yield from decision_table(decisions)
        yield ""
    all_decisions = [decision for _, decisions in decisions_by_spec for decision in decisions]
    yield f"{path}: {decision_counts(all_decisions)}{', nothing is written' if dry_run else ''}"
    if any(decision.loosens for decision in all_decisions):
        yield f"loosened because: {reason}"


def _diff(old: bytes, new: bytes, name: str) -> str:
    before, after = (list(io.StringIO(text.decode())) for text in (old, new))
    lines = difflib.unified_diff(before, after, name, name)
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )
