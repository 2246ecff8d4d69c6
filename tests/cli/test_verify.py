"""``sae-guard verify``: a record is confirmed, differs, or cannot be verified."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.demo import HELD_OUT, MODEL, SAES
from sae_guard.gate.cases import Case
from sae_guard.gate.session import GateSession
from sae_guard.history import History, Record, read_measurement, record_at
from sae_guard.history.parquet import provenance_json, to_parquet
from sae_guard.history.record import ThresholdRow
from sae_guard.history.store import file_rows
from tests.helpers.small_demo import SMALL, enter_copy, make_small, recording_in, run

V1, V2 = SAES / "v1", SAES / "v2"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a record of v2 by `sae-guard measure`, shared by all tests."""
    root = make_small(tmp_path_factory.mktemp("recorded") / "project")
    with recording_in(root):
        run("measure", V2, "--record", "v1.2")
        yield root


@pytest.fixture
def project(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project that a test can change; it is the current folder."""
    return enter_copy(recorded, tmp_path, monkeypatch)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make measuring an error."""

    def measurement(self: GateSession, case: Case) -> Measurement:
        raise AssertionError("it was measured")

    monkeypatch.setattr(GateSession, "measurement", measurement)


def record_in(project: Path) -> Path:
    (folder,) = (project / ".sae_guard" / "history" / "records").glob("*-v1.2-*")
    return folder


def certificate(project: Path) -> Path:
    """Copy the record to a folder without a hash in its name."""
    return Path(shutil.copytree(record_in(project), project / "certificate"))


def edited(folder: Path, change: Callable[[Any], None]) -> Path:
    """Replace text in the record.json of a folder."""
    file = folder / "record.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    change(record)
    file.write_text(json.dumps(record), encoding="utf-8")
    return folder


def forged(project: Path, change: Callable[[Measurement], Measurement], **claims: Any) -> str:
    """Write a record of other numbers that is consistent and whose hashes are right."""
    recorded = record_at(str(record_in(project)))
    measurement = change(read_measurement(recorded))
    record = recorded.record
    files = to_parquet(measurement)
    metrics = {}
    for name, row in record.metrics.items():
        if row.value is None:
            metrics[name] = row
            continue
        now = measurement.estimate(name)
        metrics[name] = row.model_copy(
            update={"value": now.value, "low": now.low, "high": now.high}
        )
    forged_record: Record = record.model_copy(
        update={
            "files": file_rows(measurement, files), "metrics": metrics, "thresholds": tuple(
                row if row.metric not in metrics else row.model_copy(update={
                    "value": metrics[row.metric].value,
                    "headroom": _headroom(row, metrics[row.metric].value)})
                for row in record.thresholds
            ), "provenance": provenance_json(measurement.provenance), **claims,
        }
    )  # fmt: skip
    return History(str(project / "forged")).add(forged_record, files).path


def _headroom(row: ThresholdRow, value: float | None) -> float:
    assert value is not None
    sides = [row.max - value] if row.max is not None else []
    return min([*sides, *([value - row.min] if row.min is not None else [])])


def test_a_record_is_confirmed_number_by_number(project: Path) -> None:
    folder = record_in(project)
    output = run("verify", "v1.2", "--sae", V2).output.splitlines()
    assert output[:5] == [
        f"record    {folder.name} is unchanged: its hash is the one in the name of its folder",
        "rows      8 sequences, 512 latents: unchanged, and its 19 metrics follow from them",
        "weights   cfg.json, sae_weights.safetensors: the same sha256",
        output[3],
        "measured  again; tolerance 0.0001 of a value, or what rounding makes of 0",
    ]
    assert output[3].startswith("tokens    sha256 ")
    rows = {line.split()[0]: line.split()[1:] for line in output[6:-1]}
    assert list(rows) == [
        "n_sequences", "n_tokens", "firings", *METRICS, "kl.p99", "kl@position=0..8",
        "token_kl",
    ]  # fmt: skip
    assert all(cells[-1] == "ok" for cells in rows.values())
    kl = record_at(str(folder)).record.metrics["kl"].value
    assert kl is not None
    assert rows["kl"][0] == f"{kl:.8g}"
    assert rows["dead_latents"][:2] == ["-", "-"]
    assert output[-1] == f"confirmed: all {len(rows)} numbers of {folder.name}"


def test_record_and_checkpoint_are_enough_to_verify(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without history, spec file and the old folder of the model."""
    elsewhere = tmp_path / "downloads"
    elsewhere.mkdir()
    shutil.copytree(record_in(project), elsewhere / "certificate")
    shutil.copytree(MODEL, elsewhere / "model")
    monkeypatch.chdir(elsewhere)
    shutil.rmtree(project)
    output = run("verify", "certificate", "--sae", V2, "--model", "model").output
    assert output.startswith("record    certificate is in a folder without a hash in its name")
    assert f"note      model: {MODEL} in the record, {elsewhere}/model now\n" in output
    assert "confirmed: all 25 numbers of certificate\n" in output


def test_a_record_is_an_id_hash_name_label_or_folder(project: Path, unmeasured: None) -> None:
    """All references lead to the record, whose weights differ."""
    folder = record_in(project)
    run("promote", "v1.2", "--as", "release", "--reason", "it is good")
    references: list[str | Path] = [
        "v1.2", "release", folder.name, folder.name[-12:], folder, folder / "record.json",
        folder.relative_to(project), folder.as_uri(), certificate(project),
    ]  # fmt: skip
    for reference in references:
        output = run("verify", reference, "--sae", V1, code=1).output
        assert "NOT CONFIRMED: the weights differ:\n  cfg.json: sha256 " in output
    run("verify", "v1.2", "--sae", V1, "--folder", project / ".sae_guard" / "history", code=1)


def test_a_folder_with_the_name_of_a_version_is_no_record(project: Path, unmeasured: None) -> None:
    (project / "v1.2").mkdir()
    assert "the weights differ" in run("verify", "v1.2", "--sae", V1, code=1).output


def test_another_checkpoint_is_refused_with_its_files(project: Path, unmeasured: None) -> None:
    shutil.copytree(V2, project / "mine")
    shutil.copyfile(V1 / "sae_weights.safetensors", project / "mine" / "sae_weights.safetensors")
    config = json.loads((V1 / "cfg.json").read_text())
    (project / "mine" / "cfg.json").write_text(json.dumps(config))
    output = run("verify", "v1.2", "--sae", "mine", code=1).output
    old, new = (
        sha256((release / "sae_weights.safetensors").read_bytes()).hexdigest()[:12]
        for release in (V2, V1)
    )
    assert f"sae_weights.safetensors: sha256 {old}… in the record, {new}…" in output
    assert "in the checkpoint" in output


def test_a_changed_number_breaks_the_hash_in_the_name(project: Path, unmeasured: None) -> None:
    folder = record_in(project)

    def better(record: Any) -> None:
        record["metrics"]["kl"]["value"] /= 2

    edited(folder, better)
    output = run("verify", folder, "--sae", V2, code=1).output
    assert output == (
        f"NOT CONFIRMED: {folder}/record.json was changed since it was written: its hash differs\n"
    )
    output = run("verify", "v1.2", "--sae", V2, code=2).output
    assert "record.json was changed since it was written" in output
    assert "NOT VERIFIED (infrastructure error): v1.2 cannot be read whole: " in output


def kl_value(record: Any) -> None:
    record["metrics"]["kl"]["value"] *= 1 - 1e-7


def kl_low(record: Any) -> None:
    record["metrics"]["kl"]["low"] -= 1e-6


def no_kl(record: Any) -> None:
    del record["metrics"]["kl"]


def verdict(record: Any) -> None:
    record["verdict"] = "warn"


def tokens(record: Any) -> None:
    record["n_tokens"] += 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (kl_value, "kl: value is "),
        (kl_low, "kl: low is "),
        (no_kl, "metrics is ['ce_clean'"),
        (verdict, "verdict is warn in record.json, and pass by what is beside it"),
        (tokens, "n_tokens is 497 in record.json, and 496 by what is beside it"),
    ],
)
def test_numbers_that_do_not_follow_from_the_rows_are_refused(
    project: Path, unmeasured: None, change: Callable[[Any], None], message: str
) -> None:
    folder = edited(certificate(project), change)
    output = run("verify", folder, "--sae", V2, code=1).output
    assert f"NOT CONFIRMED: the record contradicts itself:\n  {message}" in output


def test_changed_rows_are_refused(project: Path, unmeasured: None) -> None:
    folder = certificate(project)
    rows = folder / "sequences.parquet"
    rows.write_bytes(rows.read_bytes()[:-1] + b"x")
    output = run("verify", folder, "--sae", V2, code=1).output
    assert f"NOT CONFIRMED: {rows} was changed: its sha256 is another\n" in output


def halved_kl(measurement: Measurement) -> Measurement:
    return replace(measurement, sums={**measurement.sums, "kl": measurement.sums["kl"] / 2})


def other_latents(measurement: Measurement) -> Measurement:
    return replace(measurement, firings=measurement.firings[::-1].copy())


@pytest.mark.parametrize(
    ("change", "differ"),
    [(halved_kl, {"kl"}), (other_latents, {"firings"})],
)
def test_a_forged_record_differs_from_what_is_measured(
    project: Path, change: Callable[[Measurement], Measurement], differ: set[str]
) -> None:
    """A forgery that is consistent and has the right hashes is only found by measuring."""
    result = run("verify", forged(project, change), "--sae", V2, code=1)
    lines = result.output.splitlines()
    assert {line.split()[0] for line in lines if " DIFFERS" in line} == differ
    assert lines[-1].startswith(f"NOT CONFIRMED: {len(differ)} of 24 numbers of ")


def provenance(**changes: Any) -> Callable[[Measurement], Measurement]:
    return lambda measured: replace(measured, provenance=replace(measured.provenance, **changes))


def with_source(**changes: Any) -> Callable[[Measurement], Measurement]:
    """Replace keys of the data source but not the hash of the tokens; None removes a key."""

    def change(measured: Measurement) -> Measurement:
        corpus = measured.provenance.corpus
        source = {**corpus["source"], **changes}
        source = {key: value for key, value in source.items() if value is not None}
        return provenance(corpus={**corpus, "source": source})(measured)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_source(seed=1), "the tokens differ:\n  seed: 0 in the record, 1 now\n  sha256: "),
        (
            with_source(modules=["csv"], jsonl=None, source_field=None),
            "the tokens differ:\n  sha256: ",
        ),
        (with_source(special_tokens="include"), "the tokens differ:\n  excluded_ids: [0] in"),
    ],
)
def test_other_tokens_are_refused_before_measuring(
    project: Path, unmeasured: None, change: Callable[[Measurement], Measurement], message: str
) -> None:
    output = run("verify", forged(project, change), "--sae", V2, code=1).output
    assert f"NOT CONFIRMED: {message}" in output


def test_text_that_has_changed_gives_other_tokens(project: Path, unmeasured: None) -> None:
    """The spec file with the other data is given by an option."""
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines(keepends=True)
    (project / "half.jsonl").write_text("".join(lines[::2]), encoding="utf-8")
    other = SMALL.replace(str(HELD_OUT), "half.jsonl")
    (project / "other.yaml").write_text(other)
    output = run("verify", "v1.2", "--sae", V2, "--spec", "other.yaml", code=1).output
    assert "NOT CONFIRMED: the tokens differ:\n  sha256: " in output


def test_a_spec_can_say_where_model_and_data_are(project: Path) -> None:
    (project / "own.yaml").write_text(SMALL.replace("max: 0.25", "max: 9"))
    assert "confirmed: all 25" in run("verify", "v1.2", "--sae", V2, "--spec", "own.yaml").output
    (project / "own.yaml").write_text(SMALL.replace("blocks.2", "blocks.1"))
    output = run("verify", "v1.2", "--sae", V2, "--spec", "own.yaml", code=2).output
    assert "NOT VERIFIED (setup error): " in output
    assert "own.yaml has 0 specs of blocks.2.hook_resid_post" in output


def test_a_checkpoint_that_is_read_differently_is_refused(project: Path, unmeasured: None) -> None:
    def change(measured: Measurement) -> Measurement:
        checkpoint = {**measured.provenance.checkpoint, "normalize": "layer_norm"}
        return provenance(checkpoint=checkpoint)(measured)

    output = run("verify", forged(project, change), "--sae", V2, code=1).output
    assert (
        "the checkpoint is read differently:\n  normalize: layer_norm in the record, none" in output
    )


def formula(record: Any) -> None:
    record["metrics"]["kl"]["formula_version"] = 2


def source(record: Any) -> None:
    del record["provenance"]["corpus"]["source"]


def schema(record: Any) -> None:
    record["schema_version"] = 9


def nowhere(record: Any) -> None:
    record["provenance"]["model"]["name"] = "/nowhere/model"


def no_text(record: Any) -> None:
    source = record["provenance"]["corpus"]["source"]
    del source["jsonl"], source["source_field"]
    source["text"] = ["../gone.txt"]


def unknown(record: Any) -> None:
    record["provenance"]["corpus"]["source"]["sequence"] = 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (formula, "setup error): it was measured by sae_guard 0.1.0, which has other formulas:\n"
                  "  kl: 1 and 2 in the record, 1 in this sae_guard"),
        (source, "infrastructure error): {folder}: provenance.corpus.source: Field required"),
        (schema, "infrastructure error): {folder}/record.json: schema_version 9 is of a later"),
        (nowhere, "setup error): /nowhere/model is not a model folder"),
        (no_text, "setup error): no file matches '../gone.txt' (looked for {project}/thresholds/"),
        (unknown, "setup error): unknown key 'sequence' in `data`; did you mean sequences?"),
    ],
)  # fmt: skip
def test_records_that_cannot_be_compared_are_not_verified(
    project: Path, unmeasured: None, change: Callable[[Any], None], message: str
) -> None:
    folder = edited(certificate(project), change)
    output = run("verify", folder, "--sae", V2, code=2).output
    assert f"NOT VERIFIED ({message.format(folder=folder, project=project)}" in output
    assert ("--spec FILE where model and data are" in output) == (change in (nowhere, no_text))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("v1.2", "--sae", "nowhere"), "NOT VERIFIED (setup error): "),
        (("v9", "--sae", V2), "NOT VERIFIED (setup error): no record 'v9'"),
        (("~nobody-of-us/v9", "--sae", V2), "~nobody-of-us/v9/record.json: No such file or"),
        (("v1.2", "--sae", "~nobody-of-us/v2"), "NOT VERIFIED (setup error): "),
        (("v1.2", "--sae", V2, "--spec", "~nobody-of-us/x"), "is no file and no spec of this"),
        (("v1.2", "--sae", V2, "--folder", "~nobody-of-us/x"), "no record 'v1.2'"),
        (("./v9", "--sae", V2), "v9/record.json: No such file or directory"),
        (("nowhere://v9", "--sae", V2), "nowhere:"),
        (("v1.2", "--sae", SAES / "v[13]"), "names 2 checkpoints, expected one, or one that is"),
        (("v1.2",), "Missing option '--sae'"),
        (("v1.2", "--sae", V2, "--tolerance", "nan"), "nan; allowed: from 0 to below 0.1"),
        (("v1.2", "--sae", V2, "--tolerance", "-1"), "-1.0; allowed: from 0 to below 0.1"),
        (("v1.2", "--sae", V2, "--tolerance", "0.1"), "0.1; allowed: from 0 to below 0.1"),
        (("v1.2", "--sae", V2, "--spec", "none"), "'none' is no file and no spec of this project"),
    ],
)
def test_missing_files_and_wrong_options_are_not_verified(
    project: Path, unmeasured: None, arguments: tuple[str | Path, ...], message: str
) -> None:
    assert message in run("verify", *arguments, code=2).output


def test_the_newest_record_of_a_name_is_verified(project: Path, unmeasured: None) -> None:
    recorded = record_at(str(record_in(project)))
    later = recorded.record.created + timedelta(hours=1)
    record = recorded.record.model_copy(update={"created": later})
    files = {name: (Path(recorded.path) / name).read_bytes() for name in record.files}
    newest = History(str(project / ".sae_guard" / "history")).add(record, files)
    output = run("verify", "v1.2", "--sae", V1, code=1).output
    assert output.startswith(f"record    {newest.id} is unchanged")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_not_confirmed(
    project: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    measurement = read_measurement(record_at(str(record_in(project))))
    sums = {**measurement.sums, "kl": np.full(8, value)}
    monkeypatch.setattr(GateSession, "measurement", lambda *_: replace(measurement, sums=sums))
    lines = run("verify", "v1.2", "--sae", V2, code=1).output.splitlines()
    differing = {line.split()[0] for line in lines if " DIFFERS" in line}
    assert differing == {"kl", "kl.p99", "kl@position=0..8", "token_kl"}


def test_another_device_or_version_is_noted(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = read_measurement(record_at(str(record_in(project))))
    versions = {**measurement.provenance.versions, "torch": "9.9"}
    now = provenance(device="cuda:0", versions=versions)(measurement)
    monkeypatch.setattr(GateSession, "measurement", lambda *_: now)
    output = run("verify", "v1.2", "--sae", V2, code=1).output  # for want of tokens
    assert "note      device: cpu in the record, cuda:0 now\n" in output
    torch = measurement.provenance.versions["torch"]
    assert f"note      torch: {torch} in the record, 9.9 now\n" in output
