"""``sae-guard compare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sae_guard.cli.options import (
    cache_option,
    hook_option,
    machine_options,
    parse_share,
    sae_options,
)
from sae_guard.cli.output import shorten, write_whole
from sae_guard.cli.records import folder_option, open_history, read_history
from sae_guard.cli.session import create_session, gate_options, plan_cases
from sae_guard.cli.spelling import spelled
from sae_guard.cli.versions import SpecVersion, VersionPairs, pairs
from sae_guard.errors import SaeGuardError, SetupError

if TYPE_CHECKING:
    from sae_guard.core.comparison import Version
    from sae_guard.gate.cases import Case
    from sae_guard.gate.session import GateSession
    from sae_guard.render.comparison import ComparisonResult

_FAILED, _NOT_COMPARED = 1, 2
"""Exit codes: a verdict of ``--fail-on``; something could not be compared."""


class _NotComparedError(click.ClickException):
    exit_code = _NOT_COMPARED


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@folder_option
@click.option("--spec", metavar="GLOB", help="Only this spec: its file, its name, or file::name.")
@click.option(
    "--quality",
    default="kl",
    show_default=True,
    metavar="METRIC",
    help="Metric that the verdict follows from, beside l0; such as ce_increase.",
)
@click.option(
    "--alpha",
    type=float,
    default=0.01,
    show_default=True,
    help="A metric changed if its p is below this.",
)
@click.option(
    "--margin",
    default="1%",
    show_default=True,
    metavar="SHARE",
    callback=parse_share,
    help="A change of up to this share of A's value (of scores: of its distance from 1) is "
    "no difference, whatever its p.",
)
@click.option(
    "--confidence", type=float, default=0.95, show_default=True, help="Confidence of intervals."
)
@click.option(
    "--sequences",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    metavar="N",
    help="Number of sequences listed whose KL rose most, and fell most.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    metavar="N",
    help="Number of tokens, likewise.",
)
@click.option(
    "--export",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.json",
    help="Write the comparison to this file.",
)
@click.option(
    "--fail-on",
    multiple=True,
    type=click.Choice(["dominated", "trade-off"]),
    help="Exit with 1 on this verdict; repeatable.",
)
@hook_option
@machine_options
@cache_option
@sae_options
def compare(
    before: str,
    after: str,
    folder: str | None,
    spec: str | None,
    export: Path | None,
    fail_on: tuple[str, ...],
    margin: Decimal,
    hook: str | None,
    device: str,
    batch_size: int | None,
    cache: str | None,
    *,
    quality: str,
    alpha: float,
    confidence: float,
    sequences: int,
    tokens: int,
    **sae: Any,
) -> None:  # fmt: skip
    """Say whether version B is better or worse than version A, on the same tokens.

    A and B are records (a name, a promoted label, an id, its hash, or a record's folder), or
    checkpoints, which are measured by the specs of the record they are compared with, or else by
    those that gate both. Names in the history come before paths: write ./NAME for a path.

    The verdict follows from KL and L0 together: B dominates A, is dominated by it, is a trade-off,
    or no difference was found. Exit code 0: compared, whatever the verdict; 1: the verdict is one
    of --fail-on; 2: something could not be compared.
    """
    settings = {
        "quality": quality, "alpha": alpha, "margin": float(margin), "confidence": confidence,
        "sequences": sequences, "tokens": tokens,
    }  # fmt: skip
    try:
        if export is not None and export.suffix != ".json":
            raise SetupError(f"--export {export}: allowed: .json")
        pairing = _pairs(before, after, folder, spec, hook, sae)
        cases = [version.case for pair in pairing.pairs for version in pair if version.case]
        options = gate_options(device=device, batch_size=batch_size, cache=cache)
        session = create_session(options, cases)
        results = [_result(pair, session, settings) for pair in pairing.pairs]
    except SaeGuardError as error:
        raise _NotComparedError(spelled(error)) from None
    _print(results)
    for line in pairing.unpaired:
        click.echo(f"not compared: {line}", err=True)
    if export is not None:
        from sae_guard.render.comparison import comparison_json

        try:
            write_whole(export, comparison_json(results))
        except click.ClickException as error:
            raise _NotComparedError(error.message) from None
    verdicts = [result.comparison.verdict if result.comparison else None for result in results]
    if None in verdicts or pairing.unpaired:
        raise SystemExit(_NOT_COMPARED)
    if set(verdicts) & set(fail_on):
        raise SystemExit(_FAILED)


def _pairs(
    before: str,
    after: str,
    folder: str | None,
    spec: str | None,
    hook: str | None,
    sae: dict[str, Any],
) -> VersionPairs:
    def plan(reference: str, specs: Sequence[str]) -> list[Case]:
        options = gate_options(sae, checkpoints=(reference,), specs=tuple(specs), hook=hook)
        return list(plan_cases(options))

    return pairs(read_history(open_history(folder)), before, after, plan, spec)


def _result(
    pair: tuple[SpecVersion, SpecVersion], session: GateSession, settings: dict[str, Any]
) -> ComparisonResult:
    """Compare two versions, and measure those that are checkpoints.

    Raises:
        SaeGuardError: One of the two cannot be read or measured.
    """
    from sae_guard.core.comparison import NotComparableError, compare
    from sae_guard.render.comparison import ComparisonResult

    before, after = (
        _measured_version(version, name, session)
        for version, name in zip(pair, _distinct_names(*pair), strict=True)
    )
    result = ComparisonResult(
        " → ".join(dict.fromkeys(version.spec for version in pair)),
        {"name": before.name, **pair[0].source},
        {"name": after.name, **pair[1].source},
    )
    try:
        return replace(result, comparison=compare(before, after, **settings))
    except NotComparableError as error:
        return replace(result, refused=error.reasons)


def _measured_version(version: SpecVersion, name: str, session: GateSession) -> Version:
    from sae_guard.core.comparison import Version
    from sae_guard.history import read_measurement, read_token_kl

    if version.recorded is not None:
        return Version(name, read_measurement(version.recorded), read_token_kl(version.recorded))
    assert version.case is not None
    return Version(name, session.measurement(version.case))


def _distinct_names(before: SpecVersion, after: SpecVersion) -> tuple[str, str]:
    """Return names that tell the two versions apart, with as few additions as possible."""
    if before.name != after.name:
        return before.name, after.name
    if before.label != after.label:
        return f"{before.name} [{before.label}]", f"{after.name} [{after.label}]"
    a, b = _suffix(before), _suffix(after)
    return (before.name, after.name) if a == b else (f"{before.name} {a}", f"{after.name} {b}")


def _suffix(version: SpecVersion) -> str:
    """Return the hash of a record, or the end of the path of a checkpoint."""
    if version.recorded is not None:
        return version.recorded.short
    return f"({shorten(version.source['checkpoint'], 24)})"


def _print(results: Sequence[ComparisonResult]) -> None:
    """Print comparisons with an empty line between them, and to stderr what has none."""
    from sae_guard.render.comparison import comparison_lines

    is_first = True
    for result in results:
        if result.comparison is None:
            names = f"{result.after['name']} is not comparable with {result.before['name']}"
            click.echo(f"{names} by {result.spec}:", err=True)
            for reason in result.refused:
                click.echo(f"  {reason}", err=True)
            continue
        if not is_first:
            click.echo()
        is_first = False
        for line in comparison_lines(result.comparison, title=result.spec):
            click.echo(line)
