"""``sae-guard measure``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sae_guard.cli import session
from sae_guard.cli.options import (
    about_saes,
    about_the_machine,
    cache_option,
    hook_option,
    spec_option,
)
from sae_guard.cli.output import write_whole
from sae_guard.errors import SaeGuardError, SetupError
from sae_guard.gate import project

if TYPE_CHECKING:
    from sae_guard.core.measurement import Measurement
    from sae_guard.core.pareto import ParetoVerdict
    from sae_guard.core.report import Outcome
    from sae_guard.core.thresholds import Threshold
    from sae_guard.core.verdicts import Verdict
    from sae_guard.gate.cases import Case
    from sae_guard.gate.recording import Occasion

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
    "--baseline",
    metavar="VERSION",
    help="Recorded version that thresholds on changes compare with (default: that of the spec); "
    "none leaves these thresholds out.",
)
@click.option(
    "--folder",
    metavar="FOLDER|URL",
    help="Where versions are recorded (default: $SAE_GUARD_HISTORY, or .sae_guard/history in the "
    "root folder of the project).",
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
    baseline: str | None,
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

    --record keeps what `pytest --sae-record` does, and --baseline is its --sae-baseline. The root
    folder is the one that pytest finds; its ini options are not read.
    """
    from sae_guard.checkpoints.options import parse
    from sae_guard.history import NO_VERSION
    from sae_guard.history import export as tables

    try:
        if export is not None and export.suffix not in tables.KINDS:
            raise SetupError(f"--export {export}: allowed: {', '.join(tables.KINDS)}")
        options, changes = parse(said), baseline != NO_VERSION
        found = session.cases(checkpoints, specs, options=options, hook=hook, changes=changes)
        versions = Versions(folder, baseline, record)
    except SaeGuardError as error:
        raise click.ClickException(session.told(error)) from None
    bench = session.workbench(found, device=device, batch_size=batch_size, cache=cache)
    outcomes: list[Outcome] = []
    trouble: list[str] = []
    for case in found:
        try:
            measurement = bench.measurement(case)
        except SaeGuardError as error:
            trouble.append(f"{session.shown(case)}: {error.cause} error: {session.told(error)}")
            continue
        outcomes += _tell(case, measurement, versions, trouble)
    if export is not None:
        rows = [_exported(each) for each in outcomes]
        write_whole(export, tables.to_bytes(rows, export.suffix))
        click.echo(f"{len(rows)} rows in {export}")
    if trouble:
        raise click.ClickException("\n".join(trouble))


class Versions:
    """What is compared with, and where what is measured is kept, if it is."""

    def __init__(self, folder: str | None, baseline: str | None, record: str | None) -> None:
        """Raises `SetupError` or `HistoryError` before anything is measured."""
        from sae_guard.gate.baselines import Earlier
        from sae_guard.gate.recording import Occasion
        from sae_guard.history import NO_VERSION, History, store

        here = Path.cwd()
        root = project.root_of(here)
        self._history = History(store.chosen(folder, here if folder else root))
        self._earlier = Earlier(self._history)
        self._asked = baseline
        self._occasion: Occasion | None = None
        if baseline not in (None, NO_VERSION):
            self._earlier.check(str(baseline))
        if record is not None:
            self._occasion = Occasion.of(record, root)
            self._history.prepare()

    def judge(self, case: Case, measurement: Measurement) -> list[Verdict]:
        """The verdicts of all thresholds."""
        return [self._verdict(case, measurement, threshold) for threshold in case.thresholds]

    def _verdict(self, case: Case, measurement: Measurement, threshold: Threshold) -> Verdict:
        from sae_guard.core.verdicts import Verdict, judge

        try:
            before = self._earlier.since(case, session.named(case), threshold, self._asked)
        except SaeGuardError as error:
            return Verdict(threshold, "error", cause=error.cause, message=session.told(error))
        return judge(measurement, threshold, before)

    def pareto(self, case: Case, measurement: Measurement) -> ParetoVerdict | None:
        """Beside all records of the spec, if it asks for that; raises like `Earlier.pareto`."""
        return self._earlier.pareto(case, session.named(case), measurement)

    def keep(
        self,
        case: Case,
        measurement: Measurement,
        verdicts: Sequence[Verdict],
        pareto: ParetoVerdict | None,
    ) -> Iterator[str]:
        """Keep a record where one was asked for, and say so.

        Raises:
            NotRecordedError: What was measured is none.
            HistoryError: It cannot be written.
        """
        from sae_guard.gate.recording import make

        if self._occasion is None:
            return
        file = session.shown_file(case.spec.file)
        made = make(case, measurement, verdicts, self._occasion, file=file, pareto=pareto)
        yield f"recorded: {_short(self._history.add(*made).path)}"


def _tell(
    case: Case, measurement: Measurement, versions: Versions, trouble: list[str]
) -> list[Outcome]:
    """Print and record one case; its outcomes."""
    from sae_guard.render import every_metric, metric_table, not_compared, pareto_headline

    verdicts = versions.judge(case, measurement)
    outcomes = list(_outcomes(case, measurement, verdicts))
    names = {"spec": session.shown_file(case.spec.file), "name": case.spec.name}
    every = every_metric(measurement, outcomes, **names, checkpoint=case.label)
    for line in metric_table(every):
        click.echo(session.told(line))
    pareto = None
    try:
        pareto = versions.pareto(case, measurement)
    except SaeGuardError as error:
        click.echo(f"  pareto: no verdict: {session.told(error)}")
    if pareto is not None:
        click.echo(f"  {pareto_headline(pareto)}")
        for line in not_compared(pareto):
            click.echo(f"    {line}")
    try:
        for line in versions.keep(case, measurement, verdicts, pareto):
            click.echo(line)
    except SaeGuardError as error:
        trouble.append(f"NOT RECORDED: {session.shown(case)}: {session.told(error)}")
    click.echo()
    return every


def _outcomes(
    case: Case, measurement: Measurement, verdicts: Sequence[Verdict]
) -> Iterator[Outcome]:
    from sae_guard.core.report import Outcome

    provenance = json.dumps(asdict(measurement.provenance))
    for verdict in verdicts:
        yield Outcome.of(
            verdict,
            spec=session.shown_file(case.spec.file),
            name=case.spec.name,
            checkpoint=case.label,
            provenance=provenance,
        )


def _exported(outcome: Outcome) -> dict[str, Any]:
    row = {name: getattr(outcome, name) for name in _COLUMNS}
    return {**row, "unit": "share"} if outcome.change == "share" else row


def _short(path: str) -> str:
    """From the current folder, where it is in there."""
    inside = "://" not in path and Path(path).is_relative_to(Path.cwd())
    return Path(path).relative_to(Path.cwd()).as_posix() if inside else path
