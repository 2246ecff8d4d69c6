"""``sae-guard history``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sae_guard.cli.output import short, write_whole
from sae_guard.cli.records import filtered, folder_option, opened, read, without_collection
from sae_guard.cli.spelling import spelled
from sae_guard.errors import SaeGuardError
from sae_guard.tables import table_lines

if TYPE_CHECKING:
    from sae_guard.core.pareto import Pareto
    from sae_guard.history import Promotion, Recorded

_SHOWN = ("kl", "ce_increase", "l0", "fvu")
"""Metrics of the table."""


@click.command()
@folder_option
@click.option("--spec", metavar="GLOB", help="Of this spec: its file, its name, or file::name.")
@click.option("--hook", metavar="GLOB", help="At this hook point.")
@click.option("--checkpoint", metavar="GLOB", help="Of this checkpoint: its label or reference.")
@click.option("--name", metavar="GLOB", help="Of this version, as recorded or as promoted.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="The newest N of these.")
@click.option("--metric", metavar="METRIC", help="Draw how it went, such as kl or kl.p99.")
@click.option(
    "--export",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a table of them to this file: .csv, .json or .parquet.",
)
@click.option("--promotions", "promoted", is_flag=True, help="List who promoted what, and why.")
@click.option("--thresholds", is_flag=True, help="Say when each was tightened or loosened.")
@click.option(
    "--pareto", metavar="X,Y", help="Plot one metric against another, with the frontier: l0,kl."
)
def history(folder: str | None, last: int | None, **asked: Any) -> None:
    """Say what was recorded of which version, the oldest first.

    Records are made by `pytest --sae CHECKPOINT --sae-record NAME`, and by `sae-guard measure`.
    """
    globs = {key: asked.pop(key) for key in ("spec", "hook", "checkpoint", "name")}
    shown = sorted(key for key, given in asked.items() if given)
    if len(shown) > 1:
        told = " and ".join(f"--{'promotions' if key == 'promoted' else key}" for key in shown)
        raise click.UsageError(f"{told} do not go together")
    try:
        with without_collection():
            whole = _answer(folder, globs, last, **asked)
    except SaeGuardError as error:
        raise click.ClickException(spelled(error)) from None
    if not whole:
        raise SystemExit(1)


def _answer(
    folder: str | None,
    globs: dict[str, str | None],
    last: int | None,
    *,
    metric: str | None,
    export: Path | None,
    promoted: bool,
    thresholds: bool,
    pareto: str | None,
) -> bool:
    """Say it, and whether everything could be read."""
    from sae_guard.history import export as tables
    from sae_guard.history.threshold_changes import track_thresholds
    from sae_guard.render import frontiers, tracks, trend

    kept = opened(folder)
    every, promotions, unreadable = read(kept)
    records = filtered(every, promotions, globs, kept.url)[-(last or 0) :]
    if export is not None:
        data = tables.to_bytes(tables.flat(records, promotions), export.suffix)
        write_whole(export, data)
        click.echo(f"{len(records)} records in {export}")
    elif promoted:
        gone = {each.record for each in promotions} - {each.id for each in every}
        # Of what is not there nothing is known that a filter could look at.
        unfiltered = last is None and not any(globs.values())
        _echo(_promotions(records, promotions, gone if unfiltered else set()))
    elif thresholds:
        _echo(tracks(track_thresholds(every, {each.id for each in records})))
    elif metric is not None:
        _echo(trend(records, metric))
    elif pareto is not None:
        _echo(frontiers(records, _axes(pareto)))
    else:
        _echo(_table(records, promotions))
    return not unreadable


def _axes(text: str) -> Pareto:
    """``l0,kl``; raises `click.UsageError`."""
    from sae_guard.core.pareto import Pareto

    x, comma, y = text.partition(",")
    found = Pareto(x.strip(), y.strip())
    if not comma or (why := found.problem()) is not None:
        why = why if comma else "expected two metrics, such as l0,kl"
        raise click.UsageError(f"--pareto {text!r}: {why}")
    return found


def _table(records: Sequence[Recorded], promotions: Sequence[Promotion]) -> Iterable[str]:
    from sae_guard.history import promotions_in_force
    from sae_guard.render import number

    labels: dict[str, list[str]] = {}
    for (label, _), each in promotions_in_force(promotions).items():
        labels.setdefault(each.record, []).append(label)
    names = {r.record.spec.name: r.spec for r in records}
    unique = len(set(names.values())) == len({r.spec for r in records})

    def row(recorded: Recorded) -> list[str]:
        record = recorded.record
        values = (record.metrics[name].value if name in record.metrics else None for name in _SHOWN)
        return [
            f"{record.created.astimezone():%Y-%m-%d %H:%M}",
            short(record.name, 20),
            short(record.spec.name if unique else recorded.spec, 20),
            short(record.checkpoint.label, 16),
            *("-" if value is None else number(value) for value in values),
            record.verdict if record.verdict == "pass" else record.verdict.upper(),
            ", ".join(labels.get(recorded.id, ())),
            recorded.short,
        ]

    titles = ["recorded", "name", "spec", "checkpoint", *_SHOWN, "verdict", "promoted", "id"]
    rows = [titles, *map(row, records)]
    if not labels:
        rows = [[*cells[:-2], cells[-1]] for cells in rows]
    return table_lines(rows, right=range(4, 4 + len(_SHOWN)))


def _promotions(
    records: Sequence[Recorded], promotions: Sequence[Promotion], gone: set[str]
) -> Iterable[str]:
    from sae_guard.history import promotions_in_force

    shown = {each.id for each in records}
    last = set(map(id, promotions_in_force(promotions).values()))
    for each in promotions:
        if each.record in shown | gone:
            mark = "" if id(each) in last else "  (no longer)"
            yield f"{each.created.astimezone():%Y-%m-%d %H:%M}  {each.label}  {each.spec}{mark}"
            missing = ", which is no readable record" if each.record in gone else ""
            yield f"  {each.record}{missing}, by {each.by}: {each.reason}"


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)
