"""``sae-guard history``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sae_guard.cli.output import shorten_apart, write_whole
from sae_guard.cli.records import (
    filter_records,
    folder_option,
    open_history,
    read_records,
)
from sae_guard.tables import table_lines

if TYPE_CHECKING:
    from sae_guard.core.pareto import Pareto
    from sae_guard.history import Contents, Promotion, Recorded

_METRICS = ("kl", "ce_increase", "l0", "fvu")
"""Metrics that are columns of the table."""


@click.command()
@folder_option
@click.option(
    "--spec", metavar="GLOB", help="Only records of this spec: its file, its name, or file::name."
)
@click.option("--hook", metavar="GLOB", help="Only records of this hook point.")
@click.option(
    "--checkpoint", metavar="GLOB", help="Only records of this checkpoint: its member or reference."
)
@click.option(
    "--name",
    metavar="GLOB",
    help="Only records of this version, by its recorded name or promoted label.",
)
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the newest N of these.")
@click.option(
    "--metric", metavar="METRIC", help="Draw a metric from record to record, such as kl or kl.p99."
)
@click.option(
    "--export",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a table of the records to this file: .csv, .json or .parquet.",
)
@click.option(
    "--promotions",
    is_flag=True,
    help="List promotions and retractions: who promoted which records, and why.",
)
@click.option("--thresholds", is_flag=True, help="List when thresholds were tightened or loosened.")
@click.option(
    "--pareto", metavar="X,Y", help="Plot one metric against another, with the frontier: l0,kl."
)
def history(folder: str | None, last: int | None, **options: Any) -> None:
    """List the recorded versions, the oldest first.

    Records are made by `pytest --sae CHECKPOINT --sae-record NAME`, and by `sae-guard measure`.
    """
    globs = {key: options.pop(key) for key in ("spec", "hook", "checkpoint", "name")}
    views = sorted(key for key, value in options.items() if value)
    if len(views) > 1:
        names = " and ".join(f"--{key}" for key in views)
        raise click.UsageError(f"{names} do not go together; use one of them")
    opened = open_history(folder)
    contents = read_records(opened)
    # Without --last the slice is [0:], all of them.
    records = filter_records(contents, globs, opened.url)[-(last or 0) :]
    # A filter cannot match a record that is not there.
    is_filtered = last is not None or any(globs.values())
    _print_history(contents, records, is_filtered=is_filtered, **options)
    if contents.unreadable:
        raise SystemExit(1)


def _print_history(
    contents: Contents,
    records: Sequence[Recorded],
    *,
    is_filtered: bool,
    metric: str | None,
    export: Path | None,
    promotions: bool,
    thresholds: bool,
    pareto: str | None,
) -> None:
    """Print the view of the history that the options ask for."""
    from sae_guard.history import export as tables
    from sae_guard.history.threshold_changes import track_thresholds
    from sae_guard.render.pareto import frontier_plots
    from sae_guard.render.threshold_changes import track_lines
    from sae_guard.render.trend import trend

    if export is not None:
        data = tables.to_bytes(tables.flat(records, contents.promotions), export.suffix)
        write_whole(export, data)
        click.echo(f"{len(records)} records in {export}")
    elif promotions:
        readable = {recorded.id for recorded in contents.records}
        named = {row.record for promotion in contents.promotions for row in promotion.records}
        missing = set() if is_filtered else named - readable
        _echo(_promotions(records, contents.promotions, missing))
    elif thresholds:
        ids = {recorded.id for recorded in records}
        _echo(track_lines(track_thresholds(contents.records, ids)))
    elif metric is not None:
        _echo(trend(records, metric))
    elif pareto is not None:
        _echo(frontier_plots(records, _axes(pareto)))
    else:
        _echo(_table(records, contents.promotions))


def _axes(text: str) -> Pareto:
    """Parse two metrics, such as ``l0,kl``.

    Raises:
        click.UsageError: It is something else, or one of the two cannot be an axis.
    """
    from sae_guard.core.pareto import Pareto

    x, comma, y = text.partition(",")
    if not comma:
        raise click.UsageError(f"--pareto {text!r}: expected two metrics, such as l0,kl")
    pareto = Pareto(x.strip(), y.strip())
    if (problem := pareto.problem()) is not None:
        raise click.UsageError(f"--pareto {text!r}: {problem}")
    return pareto


def _table(records: Sequence[Recorded], promotions: Sequence[Promotion]) -> Iterable[str]:
    """Write a row per record, the records of a version together.

    What is the same in all rows is left out, but for version, metrics, verdict and id.
    """
    from sae_guard.history import promoted_labels
    from sae_guard.render.numbers import number

    labels = promoted_labels(promotions)
    versions = list(dict.fromkeys(recorded.record.name for recorded in records))
    records = sorted(records, key=lambda recorded: versions.index(recorded.record.name))
    spec_by_name = {r.record.spec.name: r.spec for r in records}
    names_are_unique = len(spec_by_name) == len({r.spec for r in records})
    specs = [r.record.spec.name if names_are_unique else r.spec for r in records]
    columns = {
        "version": shorten_apart([r.record.name for r in records], 24),
        "member": shorten_apart([r.member for r in records], 24),
        "spec": shorten_apart(specs, 20),
        "recorded": [f"{r.record.created.astimezone():%Y-%m-%d %H:%M}" for r in records],
        "promoted": [", ".join(labels.get(r.id, ())) for r in records],
    }
    differing = {title for title, cells in columns.items() if len({*cells}) > 1}
    # Records of one run are of one time; of two runs the minute may be the same.
    if len({recorded.record.run for recorded in records}) > 1:
        differing.add("recorded")
    shown = {"version", *(differing if len(records) > 1 else columns)}
    if not any(columns["promoted"]):
        shown.discard("promoted")
    metrics = {
        name: [
            "-" if (row := r.record.metrics.get(name)) is None or row.value is None
            else number(row.value)
            for r in records
        ]
        for name in _METRICS
    }  # fmt: skip
    verdicts = [
        r.record.verdict if r.record.verdict == "pass" else r.record.verdict.upper()
        for r in records
    ]  # fmt: skip
    before = {title: columns[title] for title in columns if title in shown - {"promoted"}}
    after = {title: columns[title] for title in columns if title in shown & {"promoted"}}
    ids = [r.short for r in records]
    table = {**before, **metrics, "verdict": verdicts, **after, "id": ids}
    right = range(len(before), len(before) + len(metrics))
    return table_lines([[*table], *zip(*table.values(), strict=True)], right=right)


def _promotions(
    records: Sequence[Recorded], promotions: Sequence[Promotion], missing: set[str]
) -> Iterable[str]:
    """Write the promotions and retractions of some records, and of ids that cannot be read."""
    from sae_guard.history import releases_in_force

    case_by_id = {recorded.id: recorded.case for recorded in records}
    ids = case_by_id.keys() | missing
    in_force = {
        (id(promoted.promotion), promoted.record)
        for release in releases_in_force(promotions).values()
        for promoted in release.records
    }
    for promotion in promotions:
        rows = [row for row in promotion.records if row.record in ids]
        if not rows:
            continue
        date = f"{promotion.created.astimezone():%Y-%m-%d %H:%M}"
        verb = "promoted" if promotion.action == "promote" else "RETRACTED"
        yield f"{date}  {promotion.label}  {verb} by {promotion.by}: {promotion.reason}"
        if promotion.action == "retract":
            continue
        for row in rows:
            remark = ", which is no readable record" if row.record in missing else ""
            mark = "" if (id(promotion), row) in in_force else "  (no longer)"
            case = case_by_id.get(row.record, row.case)
            yield f"  {row.record}  {case}{remark}{mark}"
        for row in promotion.removed:
            yield f"  without {row.case}"


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)
