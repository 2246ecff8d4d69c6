"""``sae-guard verify``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sae_guard.cli.options import machine_options
from sae_guard.cli.recorded_members import (
    checkpoint_of_record,
    checkpoints_of_release,
    unrecorded,
)
from sae_guard.cli.records import (
    folder_option,
    matching,
    open_history,
    read_history,
    records_even_retracted,
)
from sae_guard.cli.session import create_session, gate_options
from sae_guard.cli.spelling import spelled
from sae_guard.errors import SaeGuardError, SetupError
from sae_guard.files import expanded
from sae_guard.gate import project
from sae_guard.gate.options import GateOptions

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
@click.argument("reference", metavar="REFERENCE")
@click.option(
    "--sae",
    "checkpoints",
    required=True,
    multiple=True,
    metavar="CHECKPOINT|FOLDER",
    help="Checkpoint that the record should be of; for a release the folder of its manifest, a "
    "glob, or several times.",
)
@click.option("--member", metavar="GLOB", help="Only these members of a release.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="Root folder of a release without a manifest: the path below it is a member's name.",
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
    checkpoints: tuple[str, ...],
    member: str | None,
    root: Path | None,
    folder: str | None,
    spec: str | None,
    model: str | None,
    tolerance: float,
    device: str,
    batch_size: int | None,
    cache: str,
) -> None:  # fmt: skip
    """Measure CHECKPOINT again and confirm a record of it, number by number.

    REFERENCE is the folder or URL of a record; or an id, its hash, a name or a promoted label in
    the history. A name or label may stand for a release of several members: then each is measured
    again, and --sae names their checkpoints. The record contains the model, the tokens and the hook
    point. Its paths start from the root folder of the project; --spec and --model say where else
    model and data are.

    Exit code 0: confirmed; 1: the record, the weights, the tokens or a number differs; 2: it could
    not be verified.
    """
    settings = _Settings(spec, model, tolerance, gate_options(
        device=device, batch_size=batch_size, cache=cache,
    ))  # fmt: skip
    root = None if root is None else root.absolute()
    try:
        release = _find_records(reference, folder)
        if len(release) == 1 and member is None:
            checkpoint = checkpoint_of_record(release[0], checkpoints, Path.cwd(), root)
            case = _case(release[0], checkpoint, settings)
            session = create_session(settings.gate, [case])
            raise SystemExit(_verify_record(release[0], case, session, settings.tolerance))
        code = _verify_release(reference, release, checkpoints, member, root, settings)
    except SaeGuardError as error:
        code = _reported(error)
    raise SystemExit(code)


@dataclass(frozen=True)
class _Settings:
    """Options that hold for every record."""

    spec: str | None
    """Spec file that says where model and data are."""
    model: str | None
    tolerance: float
    gate: GateOptions


def _verify_release(
    reference: str,
    release: Sequence[Recorded],
    checkpoints: Sequence[str],
    glob: str | None,
    root: Path | None,
    settings: _Settings,
) -> int:
    """Verify each member of a release, print what it came to, and return the worst exit code.

    Raises:
        SaeGuardError: The checkpoints cannot be found, or no member matches the glob.
    """
    from sae_guard.release.members import members

    records = matching(
        list(release), glob, lambda r: (r.member,), f"{reference} has no member with --member"
    )
    candidates = members(checkpoints, Path.cwd(), root=root)
    codes: dict[str, int] = {}
    targets = [
        _case_or_error(recorded, checkpoint, settings)
        for recorded, checkpoint in zip(
            records, checkpoints_of_release(records, candidates), strict=True
        )
    ]
    # One session for all: models and tokens are loaded once.
    cases = [target for target in targets if not isinstance(target, SaeGuardError)]
    session = create_session(settings.gate, cases)
    for recorded, target in zip(records, targets, strict=True):
        click.echo(f"{recorded.case}  {recorded.id}")
        if isinstance(target, SaeGuardError):
            code = _reported(target)
        else:
            code = _verify_record(recorded, target, session, settings.tolerance)
        codes[recorded.member] = max(code, codes.get(recorded.member, 0))
        click.echo("")
    extra = unrecorded(records, candidates) if glob is None else []
    return _summarised(reference, codes, [f"{each.name} ({each.checkpoint})" for each in extra])


def _summarised(reference: str, codes: Mapping[str, int], unrecorded: Sequence[str]) -> int:
    """Print what the verification of a release came to, and return the worst exit code.

    Args:
        reference: Name of the release.
        codes: Member → its exit code.
        unrecorded: Checkpoints that no record is of, and that so are not verified.
    """
    worst = max(*codes.values(), _NOT_VERIFIED if unrecorded else 0)
    confirmed = sum(code == 0 for code in codes.values())
    line = f"confirmed: {confirmed} of {len(codes)} members of {reference}"
    for code, problem in ((_DIFFERS, "differ"), (_NOT_VERIFIED, "not verified")):
        if names := [name for name, its_code in codes.items() if its_code == code]:
            line += f"; {problem}: {', '.join(names)}"
    if unrecorded:
        line += f"; without a record: {', '.join(unrecorded)}"
    click.echo(line, err=worst > 0)
    return worst


def _verify_record(recorded: Recorded, case: Case, session: GateSession, tolerance: float) -> int:
    """Measure a checkpoint again, compare it with its record, print this, return the exit code."""
    try:
        rows = _check_before_measuring(recorded, case, session)
        measured = session.measurement(case)
        numbers = _check_numbers(recorded, rows, measured, tolerance)
    except _DifferenceError as error:
        click.echo(f"NOT CONFIRMED: {error}", err=True)
        return _DIFFERS
    except SaeGuardError as error:
        return _reported(error)
    name = recorded.id
    n_different = sum(not number.ok for number in numbers)
    if n_different:
        message = f"NOT CONFIRMED: {n_different} of {len(numbers)} numbers of {name} differ"
        click.echo(message, err=True)
        return _DIFFERS
    click.echo(f"confirmed: all {len(numbers)} numbers of {name}")
    return 0


def _reported(error: SaeGuardError) -> int:
    """Print the error and return the exit code.

    A record that was changed differs, others could not be verified.
    """
    from sae_guard.history import ChangedError

    if isinstance(error, ChangedError):
        click.echo(f"NOT CONFIRMED: {error}", err=True)
        return _DIFFERS
    click.echo(f"NOT VERIFIED ({error.cause} error): {spelled(error)}", err=True)
    return _NOT_VERIFIED


def _find_records(reference: str, folder: str | None) -> list[Recorded]:
    """Find the records of a release: a folder or URL comes before a name in the history."""
    from sae_guard.history import record_at

    path = expanded(reference)
    if "://" in reference:
        return [record_at(reference)]
    if path.name == "record.json" and path.is_file():
        path = path.parent
    if (path / "record.json").is_file() or os.sep in reference:
        return [record_at(path.absolute().as_posix())]
    return records_even_retracted(read_history(open_history(folder)), reference)


def _case_or_error(
    recorded: Recorded, checkpoint: Checkpoint | SetupError, settings: _Settings
) -> Case | SaeGuardError:
    """Return the case that measures the record again, or why there is none."""
    if isinstance(checkpoint, SetupError):
        return checkpoint
    try:
        return _case(recorded, checkpoint, settings)
    except SaeGuardError as error:
        return error


def _case(recorded: Recorded, checkpoint: Checkpoint, settings: _Settings) -> Case:
    from sae_guard.gate.remeasuring import base_of, case_of
    from sae_guard.specs import load_specs

    current, model = Path.cwd(), settings.model
    root = project.root_of(current)
    specs: tuple[Spec, ...] = ()
    if settings.spec is not None:
        file = project.named_spec(settings.spec, current, project.spec_files(root))
        specs = load_specs(file, display=project.display(file, root))
    if model is not None and (current / expanded(model) / "config.json").is_file():
        model = str(current / expanded(model))
    return case_of(
        recorded, checkpoint, recorded.member, base_of(recorded, root), specs=specs, model=model
    )


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
