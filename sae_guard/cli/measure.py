"""``sae-guard measure``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sae_guard import project
from sae_guard.cli import measuring
from sae_guard.cli.asked import (
    about_saes,
    about_the_machine,
    cache_option,
    hook_option,
    spec_option,
)
from sae_guard.cli.files import write_whole
from sae_guard.errors import SaeGuardError, SetupError

if TYPE_CHECKING:
    from sae_guard.cases import Case
    from sae_guard.history import History
    from sae_guard.history.make import Occasion
    from sae_guard.measurement import Measurement
    from sae_guard.verdicts import Verdict
    from sae_guard.wire import Outcome

_COLUMNS = (
    "spec", "name", "checkpoint", "metric", "value", "low", "high", "confidence", "unit", "min",
    "max", "headroom", "verdict", "message", "n_tokens", "n_sequences",
)  # fmt: skip
"""Of what is exported."""


@click.command()
@click.argument("checkpoints", metavar="CHECKPOINT...", nargs=-1, required=True)
@spec_option
@hook_option
@click.option("--record", metavar="NAME", help="Keep a record of this version, such as v1.2.")
@click.option(
    "--folder",
    metavar="FOLDER|URL",
    help="Where records are kept (default: $SAE_GUARD_HISTORY, or .sae_guard/history in the root "
    "folder of the project).",
)
@click.option(
    "--export",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a row for each metric to this file: .csv, .json or .parquet.",
)
@about_the_machine
@cache_option
@about_saes
def measure(
    checkpoints: tuple[str, ...],
    specs: tuple[str, ...],
    hook: str | None,
    record: str | None,
    folder: str | None,
    export: Path | None,
    device: str,
    batch_size: int | None,
    cache: str | None,
    **said: Any,
) -> None:  # fmt: skip
    """Measure each CHECKPOINT at each spec that gates it, and print all metrics.

    Specs are those in thresholds/ of the project, or --spec. Verdicts on thresholds are shown, and
    the exit code is 0 whatever they are: the gate is `pytest --sae CHECKPOINT`. It is 1 where
    something could not be measured or recorded; all that can be is.

    --record keeps what `pytest --sae-record` does. The root folder is the one that pytest finds;
    its ini options are not read.
    """
    from sae_guard.checkpoints.options import parse
    from sae_guard.history import export as tables

    if folder is not None and record is None:
        raise click.UsageError("--folder is where --record keeps its record: name the version")
    try:
        if export is not None and export.suffix not in tables.KINDS:
            raise SetupError(f"--export {export}: allowed: {', '.join(tables.KINDS)}")
        found = measuring.cases(checkpoints, specs, options=parse(said), hook=hook)
        keeper = None if record is None else Keeper.of(record, folder)
    except SaeGuardError as error:
        raise click.ClickException(measuring.told(error)) from None
    bench = measuring.workbench(found, device=device, batch_size=batch_size, cache=cache)
    outcomes: list[Outcome] = []
    trouble: list[str] = []
    for case in found:
        try:
            measurement = bench.measurement(case)
        except SaeGuardError as error:
            trouble.append(f"{measuring.shown(case)}: {error.cause} error: {measuring.told(error)}")
            continue
        outcomes += _tell(case, measurement, keeper, trouble)
    if export is not None:
        rows = [{name: getattr(each, name) for name in _COLUMNS} for each in outcomes]
        write_whole(export, tables.to_bytes(rows, export.suffix))
        click.echo(f"{len(rows)} rows in {export}")
    if trouble:
        raise click.ClickException("\n".join(trouble))


@dataclass(frozen=True)
class Keeper:
    """Where what is measured is recorded, and as which version."""

    history: History
    occasion: Occasion

    @classmethod
    def of(cls, name: str, folder: str | None) -> Keeper:
        """Raises `SetupError` or `HistoryError` before anything is measured."""
        from sae_guard.history import History, where
        from sae_guard.history.make import Occasion

        here = Path.cwd()
        root = project.root_of(here)
        history = History(where.chosen(folder, here if folder else root))
        occasion = Occasion.of(name, root)
        history.prepare()
        return cls(history, occasion)

    def keep(self, case: Case, measurement: Measurement, verdicts: Sequence[Verdict]) -> str:
        """The path of the record that is made; raises `NotRecordedError` or `HistoryError`."""
        from sae_guard.history.make import make

        file = measuring.shown_file(case.spec.file)
        return self.history.add(*make(case, measurement, verdicts, self.occasion, file=file)).path


def _tell(
    case: Case, measurement: Measurement, keeper: Keeper | None, trouble: list[str]
) -> list[Outcome]:
    """Print and record one case; its outcomes."""
    from sae_guard.report import every_metric, metric_table
    from sae_guard.verdicts import judge

    verdicts = [judge(measurement, threshold) for threshold in case.thresholds]
    outcomes = list(_outcomes(case, measurement, verdicts))
    names = {"spec": measuring.shown_file(case.spec.file), "name": case.spec.name}
    every = every_metric(measurement, outcomes, **names, checkpoint=case.label)
    for line in metric_table(every):
        click.echo(measuring.told(line))
    if keeper is not None:
        try:
            click.echo(f"recorded: {_short(keeper.keep(case, measurement, verdicts))}")
        except SaeGuardError as error:
            trouble.append(f"NOT RECORDED: {measuring.shown(case)}: {error}")
    click.echo()
    return every


def _outcomes(
    case: Case, measurement: Measurement, verdicts: Sequence[Verdict]
) -> Iterator[Outcome]:
    from sae_guard.wire import Outcome

    provenance = json.dumps(asdict(measurement.provenance))
    for verdict in verdicts:
        yield Outcome.of(
            verdict,
            spec=measuring.shown_file(case.spec.file),
            name=case.spec.name,
            checkpoint=case.label,
            provenance=provenance,
        )


def _short(path: str) -> str:
    """From the current folder, where it is in there."""
    inside = "://" not in path and Path(path).is_relative_to(Path.cwd())
    return Path(path).relative_to(Path.cwd()).as_posix() if inside else path
