"""``sae-guard tighten --to``: from the records of a version to the spec."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from sae_guard.checkpoints.reference import Checkpoint
from sae_guard.cli import main
from sae_guard.core.measurement import TOKEN_COLUMNS, Measurement, TokenTable
from sae_guard.core.targets import Target, estimate
from sae_guard.gate.cases import Case
from sae_guard.history import History, Promotion, Recorded
from sae_guard.history.record import SCHEMA_VERSION
from sae_guard.specs import load_specs
from tests.helpers.recorded import RUN_INFO, built, ordinary

SPEC = """\
name: tiny
model: gpt2
hook: blocks.1.hook_resid_post
data: {text: text.txt, prepend_bos: true, sequences: 8}
thresholds:
  kl: {max: 0.1, warn: 0.09}  # of the release
  l0: {max: 90, min: 2}
---
name: other
model: gpt2
hook: blocks.1.hook_resid_post
data: {text: text.txt, prepend_bos: true, sequences: 8}
thresholds: {mse: {max: 50}}
"""
SOURCE = {
    "text": ["text.txt"], "context": 128, "sequences": 8, "prepend_bos": True,
    "special_tokens": "exclude", "seed": 0,
}  # fmt: skip


def measured(kl: float, **provenance: Any) -> Measurement:
    measurement = ordinary(kl)
    about = {
        "model": {"name": "gpt2", "processing": "raw", "dtype": "float32"},
        "corpus": {**measurement.provenance.corpus, "source": SOURCE},
        **provenance,
    }
    return replace(measurement, provenance=replace(measurement.provenance, **about))


class RecordsProject:
    """A spec and a history of its records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = folder / "thresholds" / "tiny.yaml"
        self.spec.parent.mkdir()
        self.spec.write_text(SPEC)
        self.history = History(str(folder / ".sae_guard" / "history"))

    def record(
        self, measurement: Measurement, name: str = "v1", label: str = "first", document: int = 0,
        file: str = "thresholds/tiny.yaml", *, changes: bool = True,
    ) -> Recorded:  # fmt: skip
        """Record a measurement by the present spec, without thresholds on changes."""
        spec = load_specs(self.spec, display=file)[document]
        thresholds = tuple(t for t in spec.thresholds if changes or not t.change)
        case = Case(spec, label, Checkpoint(self.folder / label), thresholds)
        run_info = replace(RUN_INFO, name=name)
        return self.history.add(*built(case, measurement, run_info=run_info))

    def promote(self, recorded: Recorded, label: str) -> None:
        now = datetime.now(UTC)
        self.history.promote(
            Promotion(schema_version=SCHEMA_VERSION, label=label, records=(recorded.promoted,),
                      created=now, by="someone", reason="good")
        )  # fmt: skip

    def tighten(self, *options: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["tighten", "thresholds/tiny.yaml", *options])
        return result.exit_code, result.output


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordsProject:
    monkeypatch.chdir(tmp_path)
    return RecordsProject(tmp_path)


def words(text: str) -> str:
    return " ".join(text.split())


def test_bounds_move_to_the_values_of_the_promoted_version(project: RecordsProject) -> None:
    good = project.record(measured(0.05))
    project.record(measured(0.08), "v1.2")  # the name of another record, which is not meant
    project.promote(good, "v1.2")
    code, output = project.tighten("--to", "v1.2", "--margin", "10%")
    assert code == 0
    assert output == (
        "thresholds/tiny.yaml::tiny  margin 10%\n"
        "  bound        measured   old  new\n"
        "  kl max        0.05003   0.1  0.0551\n"
        "  kl warn max            0.09  0.0526\n"
        "  l0 min          8.035     2  7.23\n"
        "  l0 max          8.035    90  8.84\n"
        "\n"
        "thresholds/tiny.yaml::other  kept: not measured\n"
        "\n"
        "thresholds/tiny.yaml: 4 bounds tightened\n"
    )
    new = SPEC.replace("{max: 0.1, warn: 0.09}", "{max: 0.0551, warn: 0.0526}")
    assert project.spec.read_text() == new.replace("{max: 90, min: 2}", "{max: 8.84, min: 7.23}")


@pytest.mark.parametrize("kind", ["id", "hash", "name"])
def test_a_version_is_a_label_id_hash_or_name(
    project: RecordsProject, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = project.record(measured(0.05))
    project.record(measured(0.08), "v2")
    to = {"id": recorded.id, "hash": recorded.id[-12:-4], "name": "v1"}[kind]
    code, output = project.tighten("--to", to, "--dry-run")
    assert code == 0
    assert "kl max 0.05003 0.1 0.0526" in words(output)
    assert project.spec.read_text() == SPEC
    monkeypatch.chdir(project.folder.parent)
    path = f"{project.folder.name}/thresholds/tiny.yaml"
    arguments = ["tighten", path, "--to", to, "--dry-run"]
    assert "no records in" in CliRunner().invoke(main, arguments).output
    result = CliRunner().invoke(main, [*arguments, "--folder", project.history.url])
    assert "kl max 0.05003 0.1 0.0526" in words(result.output)


def test_new_thresholds_are_judged_from_the_rows_of_the_record(
    project: RecordsProject,
) -> None:
    measurement = measured(0.05)
    project.record(measurement)
    text = SPEC.replace("l0: {max: 90, min: 2}", "mse: {max: 90, worst_sequence: {max: 99}}")
    text = text.replace("{max: 0.1, warn: 0.09}", "{max: 0.1, confidence: 0.99}")
    project.spec.write_text(text)
    code, output = project.tighten("--to", "v1", "--margin", "0%")
    assert code == 0
    assert "mse.worst_sequence max 8.07 99 8.07" in words(output)
    (kl, *_) = load_specs(project.spec)[0].thresholds
    high = estimate(measurement, Target("kl"), confidence=0.99).high
    assert kl.max is not None
    assert high is not None
    assert high <= kl.max <= high * 1.002


def test_quantiles_have_the_recorded_value(project: RecordsProject) -> None:
    quantiles = "{max: 0.1, p50: {max: 9}, p99: {max: 9, confidence: 0.9}}"
    early = "slices: [{position: ..8, thresholds: {kl: {max: 8, confidence: 0.99}}}]\n"
    text = SPEC.replace("{max: 0.1, warn: 0.09}", quantiles).replace("---\n", f"{early}---\n")
    project.spec.write_text(text)
    recorded = project.record(with_tokens(measured(0.05)))
    rows = {row.metric: row for row in recorded.record.thresholds}
    assert rows["kl@position=0..8"].high is not None
    project.spec.write_text(text.replace("p50:", "p10: {max: 9}, p50:"))
    code, output = project.tighten("--to", "v1", "--margin", "0%")
    assert code == 0
    thresholds = {
        str(threshold.target): threshold for threshold in load_specs(project.spec)[0].thresholds
    }
    for name, needed in (("kl.p50", rows["kl.p50"].value), ("kl.p99", rows["kl.p99"].high)):
        new = thresholds[name].max
        assert needed is not None
        assert new is not None
        assert needed <= new <= needed * 1.01
    assert "kl.p10 max 9 kept: not measured" in words(output)
    assert "kl@position=0..8 max" in output
    assert "8 kept: no interval of confidence 0.99 is known" in words(output)


def test_thresholds_on_changes_do_not_move(project: RecordsProject) -> None:
    new_spec = SPEC.replace(
        "{max: 0.1, warn: 0.09}", "{max: 0.1, max_increase: 2%, p99: {max_increase: 5%}}"
    )
    project.spec.write_text(new_spec)
    recorded = project.record(with_tokens(measured(0.05)), changes=False)
    p99 = recorded.record.views["kl.p99"].value
    project.spec.write_text(new_spec.replace("p99: {", "p99: {max: 9, "))
    code, output = project.tighten("--to", "v1", "--margin", "0%")
    assert code == 0
    assert "change" not in output
    new = next(t.max for t in load_specs(project.spec)[0].thresholds if str(t.target) == "kl.p99")
    assert p99 is not None
    assert new is not None
    assert p99 <= new <= p99 * 1.01
    assert "max_increase: 2%, p99: {max: 0.0" in project.spec.read_text()


def with_tokens(measurement: Measurement) -> Measurement:
    """Add values of single tokens, evenly from 0 to 0.1; they need not agree with the sums."""
    spread = np.random.default_rng(0).permutation(np.linspace(0, 0.1, 800)).astype(np.float32)
    columns = dict.fromkeys(TOKEN_COLUMNS, spread.reshape(8, 100))
    return replace(measurement, tokens=TokenTable(np.ones((8, 100), dtype=np.bool_), columns))


def test_bounds_hold_for_all_checkpoints_of_a_version_or_one(
    project: RecordsProject,
) -> None:
    project.record(measured(0.05), label="small")
    project.record(measured(0.07), label="large")
    project.record(measured(0.01), "v0")
    code, output = project.tighten("--to", "v1", "--dry-run")
    assert code == 0
    assert "kl max large 0.07004 0.1 0.0736" in words(output)
    code, output = project.tighten("--to", "v1", "--dry-run", "--checkpoint", "small")
    assert "kl max 0.05003 0.1 0.0526" in words(output)
    code, output = project.tighten("--to", "v1", "--checkpoint", "medium")
    assert (code, output) == (1, "Error: v1 has no checkpoint 'medium'; allowed: large, small\n")


def test_the_newest_record_of_a_checkpoint_counts(project: RecordsProject) -> None:
    project.record(measured(0.05))
    project.record(measured(0.07))
    code, output = project.tighten("--to", "v1", "--dry-run")
    assert code == 0
    assert "kl max 0.07004 0.1 0.0736" in words(output)


def test_each_document_has_its_own_record(project: RecordsProject) -> None:
    project.record(measured(0.05))
    project.record(measured(0.05), document=1)
    code, output = project.tighten("--to", "v1", "--dry-run")
    assert code == 0
    assert "mse max 8.035 50 8.44" in words(output)
    code, output = project.tighten("--to", "v1", "--document", "other")
    assert "tiny.yaml: 1 bound tightened" in words(output)
    project.spec.write_text(SPEC.replace("name: other", "name: another"))
    assert "another kept: not measured" in words(project.tighten("--to", "v1")[1])


def test_a_version_that_crosses_the_bounds_is_refused(
    project: RecordsProject,
) -> None:
    recorded = project.record(measured(0.2))
    assert recorded.record.verdict == "fail"
    code, output = project.tighten("--to", "v1")
    assert code == 1
    assert "tiny.yaml:6: kl of first is 0.200035, which crosses max 0.1\nbounds are tight" in output
    assert project.spec.read_text() == SPEC
    code, output = project.tighten("--to", "v1", "--allow-loosen", "--reason", "wider")
    assert code == 0
    assert "kl max 0.2 0.1 0.211" in words(output)
    assert output.endswith("loosened because: wider\n")
    project.spec.write_text(SPEC.replace("max: 0.1, warn: 0.09", "max: 0.3"))
    assert "kl max 0.2 0.3 0.211" in words(project.tighten("--to", "v1")[1])


MODEL = {"name": "gpt2", "processing": "raw", "dtype": "float32"}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"model": {**MODEL, "name": "gpt2-xl"}}, 'model was "gpt2-xl" and is "gpt2"'),
        ({"model": {**MODEL, "dtype": "float16"}}, 'model.dtype was "float16" and is "float32"'),
        ({"hook": "blocks.9.hook_resid_pre"}, 'hook was "blocks.9.hook_resid_pre" and is'),
        ({"corpus": {"n_sequences": 8, "source": {**SOURCE, "seed": 1}}}, "data.seed was 1 and is"),
        ({"formula_versions": {"kl": 0}}, "version of the formula of kl was 0 and is 1"),
    ],
)
def test_records_with_other_settings_are_refused(
    project: RecordsProject, other: dict[str, Any], message: str
) -> None:
    project.record(measured(0.05, **other))
    code, output = project.tighten("--to", "v1")
    assert code == 1
    assert output.startswith("Error: v1: thresholds/tiny.yaml::tiny [first] was measured with")
    assert message in output
    assert project.spec.read_text() == SPEC


def test_unknown_versions_are_refused(project: RecordsProject) -> None:
    assert "no records in" in project.tighten("--to", "v1")[1]
    recorded = project.record(measured(0.05))
    other = project.record(measured(0.05), "v2", file="specs/tiny.yaml")
    result = project.tighten("--to", "v3")
    assert result == (
        1, "Error: no record 'v3': give an id, its hash, or a name; allowed: v1, v2\n"
    )  # fmt: skip
    assert project.tighten("--to", "v2")[1] == (
        "Error: v2 has no verdicts by thresholds/tiny.yaml; it has those by specs/tiny.yaml\n"
    )
    project.promote(other, "v1.2")
    assert "v1.2 has no verdicts by" in project.tighten("--to", "v1.2")[1]
    rows = Path(recorded.path) / "sequences.parquet"
    rows.write_bytes(rows.read_bytes()[:-1])
    assert project.tighten("--to", "v1")[1].endswith("parquet was changed: its sha256 is another\n")
    (Path(recorded.path) / "record.json").write_text("{")
    code, output = project.tighten("--to", "v1")
    assert code == 1
    assert "was changed since it was written" in output
    assert "v1 cannot be read whole: " in output
    assert project.spec.read_text() == SPEC


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give one of --from FILE and --to VERSION"),
        (("--to", "v1", "--from", "thresholds/tiny.yaml"), "give one of --from FILE and --to"),
        (("--from", "thresholds/tiny.yaml", "--folder", "."), "--folder goes with --to"),
    ],
)
def test_exactly_one_source_is_needed(
    project: RecordsProject, options: tuple[str, ...], message: str
) -> None:
    code, output = project.tighten(*options)
    assert code == 2
    assert message in output
