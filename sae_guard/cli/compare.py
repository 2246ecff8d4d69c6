"""``sae-guard compare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sae_guard.cli.options import about_saes, about_the_machine, cache_option, hook_option, share
from sae_guard.cli.output import short, write_whole
from sae_guard.cli.records import folder_option, opened, without_collection
from sae_guard.cli.session import gate_options, planned, session_for
from sae_guard.cli.spelling import spelled
from sae_guard.cli.versions import Kept, Operand, pairs
from sae_guard.errors import SaeGuardError, SetupError

if TYPE_CHECKING:
    from sae_guard.core.comparison import Version
    from sae_guard.gate.cases import Case
    from sae_guard.gate.session import GateSession
    from sae_guard.render import Compared

_ASKED, _NOT_COMPARED = 1, 2
"""Exit codes."""


class _NotComparedError(click.ClickException):
    exit_code = _NOT_COMPARED


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@folder_option
@click.option("--spec", metavar="GLOB", help="By this spec: its file, its name, or file::name.")
@click.option(
    "--quality",
    default="kl",
    show_default=True,
    metavar="METRIC",
    help="What the verdict looks at beside l0, such as ce_increase.",
)
@click.option(
    "--alpha",
    type=float,
    default=0.01,
    show_default=True,
    help="A metric moved where its p is below this.",
)
@click.option(
    "--margin",
    default="1%",
    show_default=True,
    metavar="SHARE",
    callback=share,
    help="A move of this share of A's value, or less, is the same, whatever its p.",
)
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Of intervals.")
@click.option(
    "--sequences",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    metavar="N",
    help="Show the N that moved most, each way.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    metavar="N",
    help="Likewise.",
)
@click.option(
    "--export",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.json",
    help="Write it to this file.",
)
@click.option(
    "--fail-on",
    multiple=True,
    type=click.Choice(["dominated", "trade-off"]),
    help="Exit with 1 on this verdict; repeatable.",
)
@hook_option
@about_the_machine
@cache_option
@about_saes
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
    **said: Any,
) -> None:  # fmt: skip
    """Did version B get better or worse than version A, on the same tokens?

    A and B are records (a name, a promoted label, an id, its hash, or a record's folder), or
    checkpoints, which are measured by the specs of the record they are compared with, or else by
    those that gate both. What the history knows comes first: write ./NAME for a path.

    The verdict is of KL and L0 together: B dominates A, is dominated by it, is a trade-off, or no
    difference was found. Exit code 0: compared, whatever the verdict, or 1 where --fail-on asks for
    it; 2: something could not be compared.
    """
    how = {
        "quality": quality, "alpha": alpha, "margin": float(margin), "confidence": confidence,
        "sequences": sequences, "tokens": tokens,
    }  # fmt: skip
    try:
        if export is not None and export.suffix != ".json":
            raise SetupError(f"--export {export}: allowed: .json")
        found = _pairs(before, after, folder, spec, hook, said)
        cases = [each.case for pair in found for each in pair if each.case is not None]
        options = gate_options(device=device, batch_size=batch_size, cache=cache)
        session = session_for(options, lambda: cases)
        told = [_compared(pair, session, how) for pair in found]
    except SaeGuardError as error:
        raise _NotComparedError(spelled(error)) from None
    _tell(told)
    if export is not None:
        from sae_guard.render import comparison_json

        try:
            write_whole(export, comparison_json(told))
        except click.ClickException as error:
            raise _NotComparedError(error.message) from None
    verdicts = [None if each.comparison is None else each.comparison.verdict for each in told]
    if None in verdicts:
        raise SystemExit(_NOT_COMPARED)
    if set(verdicts) & set(fail_on):
        raise SystemExit(_ASKED)


def _pairs(
    before: str,
    after: str,
    folder: str | None,
    spec: str | None,
    hook: str | None,
    said: dict[str, Any],
) -> list[tuple[Operand, Operand]]:
    def cases(reference: str, specs: Sequence[str]) -> list[Case]:
        options = gate_options(said, checkpoints=(reference,), specs=tuple(specs), hook=hook)
        return list(planned(options))

    with without_collection():
        kept = Kept.of(opened(folder))
    return pairs(kept, before, after, cases, spec)


def _compared(pair: tuple[Operand, Operand], session: GateSession, how: dict[str, Any]) -> Compared:
    """Raises `SaeGuardError` where one of the two has no numbers."""
    from sae_guard.core.comparison import NotComparableError, compare
    from sae_guard.render import Compared

    before, after = (
        _version(operand, name, session) for operand, name in zip(pair, _names(*pair), strict=True)
    )
    source, target = pair[0].source, pair[1].source
    specs = " → ".join(dict.fromkeys(each.spec for each in pair))
    told = Compared(specs, {"name": before.name, **source}, {"name": after.name, **target})
    try:
        return replace(told, comparison=compare(before, after, **how))
    except NotComparableError as error:
        return replace(told, refused=error.reasons)


def _version(operand: Operand, name: str, session: GateSession) -> Version:
    from sae_guard.core.comparison import Version

    if operand.read is not None:
        return Version(name, *operand.read())
    assert operand.case is not None
    return Version(name, session.measurement(operand.case))


def _names(before: Operand, after: Operand) -> tuple[str, str]:
    """What tells the two apart."""
    if before.name != after.name:
        return before.name, after.name
    if before.label != after.label:
        return f"{before.name} [{before.label}]", f"{after.name} [{after.label}]"
    a, b = (_suffix(each) for each in (before, after))
    return (before.name, after.name) if a == b else (f"{before.name} {a}", f"{after.name} {b}")


def _suffix(operand: Operand) -> str:
    """The hash of a record, or the end of the path of a checkpoint."""
    if operand.case is None:
        return operand.source["record"].rpartition("-")[2]
    return f"({short(operand.source['checkpoint'], 24)})"


def _tell(found: Sequence[Compared]) -> None:
    from sae_guard.render import comparison_lines

    shown = 0
    for each in found:
        if each.comparison is None:
            names = f"{each.after['name']} is not comparable with {each.before['name']}"
            click.echo(f"{names} by {each.spec}:", err=True)
            for reason in each.refused:
                click.echo(f"  {reason}", err=True)
            continue
        if shown:
            click.echo()
        shown += 1
        for line in comparison_lines(each.comparison, title=each.spec):
            click.echo(line)
