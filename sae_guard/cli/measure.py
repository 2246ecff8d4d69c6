"""``sae-guard measure``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sae_guard.cli.options import (
    cache_option,
    hook_option,
    machine_options,
    sae_options,
    spec_option,
)
from sae_guard.cli.output import write_whole
from sae_guard.cli.session import create_session, gate_options, plan_cases
from sae_guard.cli.spelling import spelled
from sae_guard.errors import SaeGuardError, SetupError

if TYPE_CHECKING:
    from sae_guard.gate.cases import Case
    from sae_guard.gate.recording import Recorder
    from sae_guard.gate.session import GateSession


@click.command()
@click.argument("checkpoints", metavar="CHECKPOINT...", nargs=-1, required=True)
@spec_option
@hook_option
@click.option("--record", metavar="NAME", help="Record this version under a name, such as v1.2.")
@click.option(
    "--baseline",
    metavar="VERSION",
    help="Recorded version that thresholds on changes compare with (default: that of the spec); "
    "none leaves these thresholds out.",
)
@click.option(
    "--folder",
    metavar="FOLDER|URL",
    help="Folder of the records (default: $SAE_GUARD_HISTORY, or .sae_guard/history in the "
    "root folder of the project).",
)
@click.option(
    "--export",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a row for each metric to this file: .csv, .json or .parquet.",
)
@machine_options
@cache_option
@sae_options
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
    **sae: Any,
) -> None:  # fmt: skip
    """Measure each CHECKPOINT at each spec that gates it, and print all metrics.

    Specs are those in thresholds/ of the project, or --spec. Verdicts on thresholds are printed,
    but they do not change the exit code: the gate is `pytest --sae CHECKPOINT`. Exit code 0:
    everything was measured and recorded; 1: something was not.

    --record does what `pytest --sae-record` does, and --baseline is its --sae-baseline. The root
    folder is the one that pytest finds; its ini options are not read.
    """
    from sae_guard.gate.recording import Recorder
    from sae_guard.history import export as tables

    if export is not None and export.suffix not in tables.KINDS:
        raise SetupError(f"--export {export}: allowed: {', '.join(tables.KINDS)}")
    options = gate_options(
        sae, folder=folder, checkpoints=checkpoints, specs=specs, hook=hook, device=device,
        batch_size=batch_size, cache=cache, baseline=baseline, record=record,
    )  # fmt: skip
    cases = plan_cases(options)
    session = create_session(options, cases)
    session.check_baseline()
    recorder = Recorder(session) if record is not None else None
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for case in cases:
        rows += _measure_case(case, session, recorder, problems)
    if export is not None:
        write_whole(export, tables.to_bytes(rows, export.suffix))
        click.echo(f"{len(rows)} rows in {export}")
    if problems:
        raise click.ClickException("\n".join(problems))


def _measure_case(
    case: Case, session: GateSession, recorder: Recorder | None, problems: list[str]
) -> list[dict[str, Any]]:
    """Measure, print and record one case.

    Args:
        case: The case.
        session: The session that measures it.
        recorder: Records it; None to record nothing.
        problems: Lines on what could not be measured or recorded are appended to it.

    Returns:
        Its rows for other programs.
    """
    from sae_guard.gate.case_tests import measured, metric_values, report
    from sae_guard.gate.recording import CaseResult
    from sae_guard.render.measured import metric_rows, metric_table
    from sae_guard.render.terminal_summary import pareto_lines

    try:
        judged = session.judged(case)
    except SaeGuardError as error:
        problems.append(f"{case.ref}: {error.cause} error: {spelled(error)}")
        return []
    tested = report(case, session)
    # The report of a test without a verdict has no numbers, but all metrics are printed.
    parts = {**measured(judged.measurement), "metrics": metric_values(judged.measurement)}
    complete = replace(tested, **parts)
    for line in metric_table(complete):
        click.echo(line)
    for line in pareto_lines(complete.pareto) if complete.pareto else ():
        click.echo(line)
    if recorder is not None:
        for result in recorder.record_all({case.ref: CaseResult(tested, judged)}):
            if result.path:
                click.echo(f"recorded: {result.path}")
            else:
                problems.append(f"NOT RECORDED: {case.ref}: {result.refused}")
    click.echo()
    return list(metric_rows(complete))
