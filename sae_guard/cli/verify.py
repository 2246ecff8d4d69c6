"""``sae-guard verify``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from sae_guard.cli.options import machine_options
from sae_guard.cli.records import folder_option, open_history, read_history
from sae_guard.cli.session import create_session, gate_options
from sae_guard.cli.spelling import spelled
from sae_guard.errors import SaeGuardError, SetupError
from sae_guard.files import expanded
from sae_guard.gate import project

if TYPE_CHECKING:
    from sae_guard.checkpoints.reference import Checkpoint
    from sae_guard.core.measurement import Measurement
    from sae_guard.corpus import Corpus
    from sae_guard.gate.cases import Case
    from sae_guard.gate.session import GateSession
    from sae_guard.history import Recorded
    from sae_guard.history.confirmation import NumberCheck
    from sae_guard.specs import Spec

_DIFFERS, _NOT_VERIFIED = 1, 2
"""Exit codes: something differs from the record; it could not be verified."""


class _DifferenceError(Exception):
    """Something differs from the record; the message has a line for each difference."""


def _parse_tolerance(_: click.Context, __: click.Parameter, value: float) -> float:
    if not 0 <= value < 0.1:
        raise click.BadParameter(f"{value}; allowed: from 0 to below 0.1")
    return value


@click.command()
@click.argument("reference", metavar="RECORD")
@click.option(
    "--sae", required=True, metavar="CHECKPOINT", help="Checkpoint that the record should be of."
)
@folder_option
@click.option(
    "--spec",
    metavar="FILE",
    help="Spec file that says where model and data are, if not where the record says.",
)
@click.option(
    "--model", metavar="NAME|FOLDER", help="Language model, if it is not where the record says."
)
@click.option(
    "--tolerance",
    type=float,
    default=1e-4,
    show_default=True,
    callback=_parse_tolerance,
    metavar="SHARE",
    help="Share of each value by which devices and versions of libraries may change it.",
)
@machine_options
@click.option(
    "--cache",
    # A cache that somebody forged could confirm a forged record.
    default="off",
    show_default=True,
    metavar="FOLDER|off",
    help="Folder of cached clean runs and measurements; its contents are trusted.",
)
def verify(
    reference: str,
    sae: str,
    folder: str | None,
    spec: str | None,
    model: str | None,
    tolerance: float,
    device: str,
    batch_size: int | None,
    cache: str,
) -> None:  # fmt: skip
    """Measure CHECKPOINT again and confirm a record of it, number by number.

    RECORD is the folder or URL of a record; or an id, its hash, a name or a promoted label in the
    history. The record contains the model, the tokens and the hook point. Its paths start from the
    root folder of the project; --spec and --model say where else model and data are.

    Exit code 0: confirmed; 1: the record, the weights, the tokens or a number differs; 2: it could
    not be verified.
    """
    try:
        recorded = _find_record(reference, folder)
        case = _case(recorded, sae, spec, model)
        options = gate_options(device=device, batch_size=batch_size, cache=cache)
        session = create_session(options, [case])
        rows = _check_before_measuring(recorded, case, session)
        measured = session.measurement(case)
        numbers = _check_numbers(recorded, rows, measured, tolerance)
    except _DifferenceError as error:
        _end(_DIFFERS, f"NOT CONFIRMED: {error}")
    except SaeGuardError as error:
        _stop(error)
    name = recorded.id
    n_different = sum(not number.ok for number in numbers)
    if n_different:
        _end(_DIFFERS, f"NOT CONFIRMED: {n_different} of {len(numbers)} numbers of {name} differ")
    click.echo(f"confirmed: all {len(numbers)} numbers of {name}")


def _stop(error: SaeGuardError) -> NoReturn:
    """Exit with the error; a record that was changed differs, others could not be verified."""
    from sae_guard.history import ChangedError

    if isinstance(error, ChangedError):
        _end(_DIFFERS, f"NOT CONFIRMED: {error}")
    _end(_NOT_VERIFIED, f"NOT VERIFIED ({error.cause} error): {spelled(error)}")


def _end(code: int, line: str) -> NoReturn:
    click.echo(line, err=True)
    raise SystemExit(code)


def _find_record(reference: str, folder: str | None) -> Recorded:
    """Find a record: a folder or URL comes before a name in the history."""
    from sae_guard.history import find_one_record, record_at

    path = expanded(reference)
    if "://" in reference:
        return record_at(reference)
    if path.name == "record.json" and path.is_file():
        path = path.parent
    if (path / "record.json").is_file() or os.sep in reference:
        return record_at(path.absolute().as_posix())
    return find_one_record(read_history(open_history(folder)), reference)


def _case(recorded: Recorded, sae: str, spec: str | None, model: str | None) -> Case:
    from sae_guard.gate.remeasuring import base_of, case_of
    from sae_guard.specs import load_specs

    current = Path.cwd()
    checkpoint = _one_checkpoint(sae, current)
    root = project.root_of(current)
    specs: tuple[Spec, ...] = ()
    if spec is not None:
        file = project.named_spec(spec, current, project.spec_files(root))
        specs = load_specs(file, display=project.display(file, root))
    if model is not None and (current / expanded(model) / "config.json").is_file():
        model = str(current / expanded(model))
    return case_of(
        recorded, checkpoint, recorded.record.checkpoint.label, base_of(recorded, root),
        specs=specs, model=model,
    )  # fmt: skip


def _one_checkpoint(sae: str, folder: Path) -> Checkpoint:
    from sae_guard.checkpoints.reference import resolve

    checkpoints = resolve(sae, folder)
    if len(checkpoints) != 1:
        raise SetupError(f"--sae {sae} names {len(checkpoints)} checkpoints, expected one")
    return checkpoints[0]


def _check_before_measuring(recorded: Recorded, case: Case, session: GateSession) -> Measurement:
    """Check record, rows, weights and tokens before anything is measured, and print each step.

    Returns:
        The rows of the record.

    Raises:
        _DifferenceError: Something differs from the record.
        SaeGuardError: Something cannot be checked.
    """
    from sae_guard.gate.remeasuring import as_json, needed
    from sae_guard.history import has_hash, read_measurement, read_report, verification

    provenance = needed(recorded)
    record = recorded.record
    if has_hash(recorded.id):
        assurance = "is unchanged: its hash is the one in the name of its folder"
    else:
        assurance = "is in a folder without a hash in its name, so only its numbers confirm it"
    click.echo(f"record    {recorded.id} {assurance}")
    rows = read_measurement(recorded)
    read_report(recorded)  # reading it verifies its hash
    if other := list(verification.other_formulas(record)):
        version = provenance.versions.get("sae-guard", "?")
        raise SetupError(
            f"it was measured by sae_guard {version}, which has other formulas:" + _listed(other)
        )
    _require_none("the record contradicts itself", verification.inconsistencies(record, rows))
    click.echo(
        f"rows      {rows.n_sequences:,} sequences, {len(rows.firings):,} latents: unchanged, and "
        f"its {len(record.metrics)} metrics follow from them"
    )
    sae = session.sae(case)
    files = sae.source.files
    _require_none("the weights differ", verification.other_files(record, files))
    identity = as_json(sae.identity)
    parts = verification.other_parts(record.provenance["checkpoint"], identity)
    _require_none("the checkpoint is read differently", parts)
    click.echo(f"weights   {', '.join(files)}: the same sha256")
    corpus = _corpus(case, session)
    tokens = as_json(corpus.identity)
    _require_none(
        "the tokens differ", verification.other_parts(record.provenance["corpus"], tokens)
    )
    click.echo(f"tokens    sha256 {corpus.sha256[:12]}…: the same")
    return rows


def _corpus(case: Case, session: GateSession) -> Corpus:
    try:
        return session.corpus(case.spec)
    except SetupError as error:
        raise SetupError(
            f"{error}\n--model says where the model is, and --spec FILE where model and data are"
        ) from None


def _check_numbers(
    recorded: Recorded, rows: Measurement, measured: Measurement, tolerance: float
) -> list[NumberCheck]:
    """Compare the new measurement with the record, and print each number."""
    from sae_guard.history import read_token_kl
    from sae_guard.history.confirmation import confirm, confirm_tokens, unverified_claims
    from sae_guard.render.verification import confirmation_table, provenance_differences

    record = recorded.record
    numbers = confirm(record, rows, measured, tolerance)
    if (tokens := read_token_kl(recorded)) is not None:
        numbers.append(confirm_tokens(tokens, measured.token_kl, tolerance))
    differences = provenance_differences(rows.provenance, measured.provenance)
    for line in (*differences, *unverified_claims(record)):
        click.echo(f"note      {line}")
    click.echo(f"measured  again; tolerance {tolerance:g} of a value, or what rounding makes of 0")
    for line in confirmation_table(numbers):
        click.echo(line)
    return numbers


def _require_none(problem: str, differences: Iterable[str]) -> None:
    """Raise `_DifferenceError` with the differences, if there are any."""
    if lines := list(differences):
        raise _DifferenceError(f"{problem}:{_listed(lines)}")


def _listed(lines: Iterable[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)
