"""``sae-guard verify``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from sae_guard.cli.options import about_the_machine
from sae_guard.cli.records import folder_option, opened, read_any
from sae_guard.cli.session import gate_options, read_specs, session_for
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
    from sae_guard.history import RecordFolder
    from sae_guard.history.confirmation import NumberCheck
    from sae_guard.specs import Spec

_DIFFERS, _NOT_VERIFIED = 1, 2
"""Exit codes."""


class _Differs(Exception):
    """Something is not as the record says; the message is a line for each."""


def _share(_: click.Context, __: click.Parameter, value: float) -> float:
    if not 0 <= value < 0.1:
        raise click.BadParameter(f"{value}; allowed: 0 up to, and not with, 0.1")
    return value


@click.command()
@click.argument("reference", metavar="RECORD")
@click.option("--sae", required=True, metavar="CHECKPOINT", help="What the record is to be of.")
@folder_option
@click.option(
    "--spec",
    metavar="FILE",
    help="Take model and data from this spec file, where they lie elsewhere than was recorded.",
)
@click.option("--model", metavar="NAME|FOLDER", help="The language model, if it is elsewhere.")
@click.option(
    "--tolerance",
    type=float,
    default=1e-4,
    show_default=True,
    callback=_share,
    metavar="SHARE",
    help="Of each value: what devices and versions of libraries may change.",
)
@about_the_machine
@click.option(
    "--cache",
    default="off",
    show_default=True,
    metavar="FOLDER|off",
    help="Folder in which clean runs and measurements are remembered: it is trusted.",
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

    RECORD is the folder or URL of a record, anywhere; or an id, its hash, a name or a promoted
    label in the history. Nothing else is needed: it says which model, tokens and hook point it is
    of. Paths in it start from the project's root; --spec and --model say where else they are.

    Exit code 0: confirmed; 1: the record, the weights, the tokens or a number differs; 2: it could
    not be verified.
    """
    try:
        certificate = _certificate(reference, folder)
        case = _case(certificate, sae, spec, model)
        options = gate_options(device=device, batch_size=batch_size, cache=cache)
        session = session_for(options, lambda: [case])
        rows = _checked(certificate, case, session)
        measured = session.measurement(case)
        numbers = _compared(certificate, rows, measured, tolerance)
    except _Differs as error:
        _end(_DIFFERS, f"NOT CONFIRMED: {error}")
    except SaeGuardError as error:
        _stop(error)
    name = certificate.recorded.id
    wrong = [number for number in numbers if not number.ok]
    if wrong:
        _end(_DIFFERS, f"NOT CONFIRMED: {len(wrong)} of {len(numbers)} numbers of {name} differ")
    click.echo(f"confirmed: all {len(numbers)} numbers of {name}")


def _stop(error: SaeGuardError) -> NoReturn:
    from sae_guard.history import ChangedError

    if isinstance(error, ChangedError):
        _end(_DIFFERS, f"NOT CONFIRMED: {error}")
    _end(_NOT_VERIFIED, f"NOT VERIFIED ({error.cause} error): {spelled(error)}")


def _end(code: int, line: str) -> NoReturn:
    click.echo(line, err=True)
    raise SystemExit(code)


def _certificate(reference: str, folder: str | None) -> RecordFolder:
    """The record that is meant: a folder or URL before a name in the history."""
    from sae_guard.history import RecordFolder, find_one_record

    path = expanded(reference)
    if "://" in reference:
        return RecordFolder.from_url(reference)
    if path.name == "record.json" and path.is_file():
        path = path.parent
    if (path / "record.json").is_file() or os.sep in reference:
        return RecordFolder.from_url(path.absolute().as_posix())
    records, promotions, _ = read_any(opened(folder))
    return RecordFolder.from_url(find_one_record(records, promotions, reference).path)


def _case(certificate: RecordFolder, sae: str, spec: str | None, model: str | None) -> Case:
    from sae_guard.gate.remeasuring import base_of, case_of

    here = Path.cwd()
    checkpoint = _one_checkpoint(sae, here)
    root = project.root_of(here)
    specs: tuple[Spec, ...] = ()
    if spec is not None:
        specs = read_specs(project.named_spec(spec, here, project.spec_files(root)))
    if model is not None and (here / expanded(model) / "config.json").is_file():
        model = str(here / expanded(model))
    recorded = certificate.recorded
    return case_of(
        recorded, checkpoint, recorded.record.checkpoint.label, base_of(recorded, root),
        specs=specs, model=model,
    )  # fmt: skip


def _one_checkpoint(sae: str, here: Path) -> Checkpoint:
    from sae_guard.checkpoints.reference import resolve

    found = resolve(sae, here)
    if len(found) != 1:
        raise SetupError(f"--sae {sae} names {len(found)} checkpoints, expected one")
    return found[0]


def _checked(certificate: RecordFolder, case: Case, session: GateSession) -> Measurement:
    """Say step by step what holds before anything is measured; what is kept beside the record.

    Raises:
        _Differs: Something does not.
        SaeGuardError: It cannot be known.
    """
    from sae_guard.gate.remeasuring import as_json, needed
    from sae_guard.history import verification

    recorded, told = certificate.recorded, needed(certificate.recorded)
    record = recorded.record
    vouched = "is as it was written, by the hash in its name" if certificate.has_hash else (
        "is not in a folder that is named by its hash: only its numbers vouch for it"
    )  # fmt: skip
    click.echo(f"record    {recorded.id} {vouched}")
    rows = certificate.measurement()
    certificate.report()  # as it was written, by its hash
    if other := list(verification.other_formulas(record)):
        raise SetupError(
            f"it is by sae_guard {told.versions.get('sae-guard', '?')}, whose formulas are others:"
            + _listed(other)
        )
    _refuse("the record contradicts itself", verification.inconsistencies(record, rows))
    click.echo(
        f"rows      {rows.n_sequences:,} sequences, {len(rows.firings):,} latents: unchanged, and "
        f"its {len(record.metrics)} metrics follow from them"
    )
    sae = session.sae(case)
    files = sae.source.files
    _refuse("the weights are others", verification.other_files(record, files))
    identity = as_json(sae.identity)
    parts = verification.other_parts(record.provenance["checkpoint"], identity)
    _refuse("the checkpoint is read otherwise", parts)
    click.echo(f"weights   {', '.join(files)}: the same sha256")
    corpus = _corpus(case, session)
    tokens = as_json(corpus.identity)
    _refuse("the tokens are others", verification.other_parts(record.provenance["corpus"], tokens))
    click.echo(f"tokens    sha256 {corpus.sha256[:12]}…: the same")
    return rows


def _corpus(case: Case, session: GateSession) -> Corpus:
    try:
        return session.corpus(case.spec)
    except SetupError as error:
        raise SetupError(
            f"{error}\n--model says where the model is, and --spec FILE where model and data are"
        ) from None


def _compared(
    certificate: RecordFolder, rows: Measurement, measured: Measurement, tolerance: float
) -> list[NumberCheck]:
    """Say number by number what was found."""
    from sae_guard.history.confirmation import confirm, confirm_tokens, unverified_claims
    from sae_guard.render import confirmed, differently_made

    record = certificate.recorded.record
    numbers = confirm(record, rows, measured, tolerance)
    if (tokens := certificate.token_kl()) is not None:
        numbers.append(confirm_tokens(tokens, measured.token_kl, tolerance))
    differently = differently_made(rows.provenance, measured.provenance)
    for line in (*differently, *unverified_claims(record)):
        click.echo(f"note      {line}")
    click.echo(f"measured  again; tolerance {tolerance:g} of a value, or what rounding makes of 0")
    for line in confirmed(numbers):
        click.echo(line)
    return numbers


def _refuse(what: str, lines: Iterable[str]) -> None:
    if found := list(lines):
        raise _Differs(f"{what}:{_listed(found)}")


def _listed(lines: Iterable[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)
