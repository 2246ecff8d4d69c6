"""``sae-guard measure``."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sae_guard
from sae_guard.core.diagnosis import Diagnosis
from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.demo import HELD_OUT, MODEL, SAES
from sae_guard.errors import InfrastructureError, SaeGuardError
from sae_guard.gate.cases import Case
from sae_guard.gate.early import Watch
from sae_guard.gate.session import GateSession
from sae_guard.history import History
from tests.helpers.recorded import ordinary, with_tokens
from tests.helpers.small_demo import SMALL, make_small, run

V1, V2 = SAES / "v1", SAES / "v2"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in the current folder, without a cache."""
    monkeypatch.setenv("SAE_GUARD_CACHE", "off")
    monkeypatch.delenv("SAE_GUARD_HISTORY", raising=False)
    root = make_small(tmp_path / "project")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """Cases that would be measured; measurements are canned, and "broken" is an error."""
    cases: list[Case] = []

    def measure(self: GateSession, case: Case, watch: Watch | None) -> Measurement | SaeGuardError:
        cases.append(case)
        if case.member == "broken":
            return InfrastructureError("out of memory", options=("batch_size", "cache"))
        measurement = with_tokens(ordinary(0.3 if case.member == "worse" else 0.05))
        if case.member == "nan":
            measurement.sums["kl"][:] = math.nan
        return measurement

    monkeypatch.setattr(GateSession, "_measure", measure)
    monkeypatch.setattr(GateSession, "diagnosis", lambda *_: Diagnosis())
    return cases


def copies(root: Path, *names: str) -> list[str]:
    """Write checkpoints of these names."""
    for name in names:
        shutil.copytree(V2, root / name)
    return list(names)


def rows_of(output: str) -> dict[str, list[str]]:
    """Return the cells of the last table, by metric."""
    lines = [line.split() for line in output.splitlines() if line.startswith("  ")]
    return {cells[0]: cells[1:] for cells in lines}


def test_every_metric_is_printed_and_exported_as_measured(project: Path) -> None:
    result = run("measure", V2, "--export", "out.json")
    first, *_ = result.output.splitlines()
    assert first == "thresholds/small.yaml::small [v2]  496 tokens in 8 sequences"
    rows = rows_of(result.output)
    assert [name for name in rows if name in METRICS] == list(METRICS)
    measured = sae_guard.measure(
        model=MODEL, sae=V2, hook="blocks.2.hook_resid_post",
        corpus={"jsonl": str(HELD_OUT), "context": 64, "sequences": 8, "prepend_bos": True},
    )  # fmt: skip
    exported = {row["metric"]: row for row in json.loads((project / "out.json").read_text())}
    assert list(exported) == [*METRICS, "kl.p99", "kl@position=0..8"]
    for name, row in exported.items():
        if name not in METRICS or "random_error" in name or name.endswith("latents"):
            continue
        estimate = measured.estimate(name)
        assert estimate.low is not None
        assert estimate.high is not None
        assert row["value"] == pytest.approx(estimate.value, rel=1e-6)
        assert [row["low"], row["high"]] == pytest.approx([estimate.low, estimate.high], rel=1e-6)
        assert rows[name][:2] == [
            f"{row['value']:.4g}",
            f"{(estimate.high - estimate.low) / 2:.2g}",
        ]
        assert (row["unit"], row["n_tokens"], row["n_sequences"]) == (
            METRICS[name].unit, 496, 8
        )  # fmt: skip
    assert " ".join(rows["kl"][2:]) == "nats <= 0.25 pass"
    assert rows["mse"][2:] == []
    assert " ".join(rows["kl.p99"][-4:]) == "nats <= 9 pass"
    assert " ".join(rows["dead_latents"]) == (
        "- share needs 10,000 scored tokens, 496 were measured"
    )
    assert " ".join(rows["kl_random_error"]) == "- nats was not measured"
    assert exported["dead_latents"]["value"] is None
    assert "raise `sequences`" in exported["dead_latents"]["message"]


@pytest.mark.usefixtures("canned")
def test_a_crossed_threshold_is_printed_and_is_no_error(project: Path) -> None:
    rows = rows_of(run("measure", *copies(project, "worse")).output)
    assert " ".join(rows["kl"][-4:]) == "nats <= 0.25 FAIL"
    assert " ".join(rows["l0"][-2:]) == "8..24 pass"


@pytest.mark.usefixtures("canned")
def test_a_record_has_the_measured_values(project: Path) -> None:
    subfolder = project / "below"
    subfolder.mkdir()
    result = run("measure", *copies(project, "good", "worse"), "--record", "v1.2")
    records, unreadable = History(str(project / ".sae_guard" / "history")).records()
    assert unreadable == ()
    assert [line for line in result.output.splitlines() if line.startswith("recorded: ")] == [
        f"recorded: .sae_guard/history/records/{recorded.id}" for recorded in records
    ]
    assert [recorded.record.verdict for recorded in records] == ["pass", "fail"]
    assert len({recorded.record.run for recorded in records}) == 1
    for recorded in records:
        assert (recorded.record.name, recorded.record.spec.file) == (
            "v1.2",
            "thresholds/small.yaml",
        )


@pytest.mark.usefixtures("canned")
def test_the_root_folder_is_the_one_that_pytest_finds(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copies(project, "good")
    subfolder = project / "below"
    subfolder.mkdir()
    monkeypatch.chdir(subfolder)
    assert run("measure", "../good", "--record", "a").output.startswith("thresholds/small.yaml::")
    (recorded,), _ = History(str(project / ".sae_guard" / "history")).records()
    assert recorded.record.spec.file == "thresholds/small.yaml"
    run("measure", "../good", "--record", "a", "--folder", "here")
    assert len(History(str(subfolder / "here")).records()[0]) == 1
    monkeypatch.setenv("SAE_GUARD_HISTORY", str(tmp_path / "there"))
    run("measure", "../good", "--record", "a")
    assert len(History(str(tmp_path / "there")).records()[0]) == 1


def test_every_checkpoint_is_tried_and_errors_come_last(project: Path, canned: list[Case]) -> None:
    names = copies(project, "broken", "good", "nan")
    result = run("measure", *names, "--record", "v1", code=1)
    assert [case.member for case in canned] == names
    records, _ = History(str(project / ".sae_guard" / "history")).records()
    assert [recorded.record.checkpoint.label for recorded in records] == ["good"]
    output = result.output[result.output.index("Error: ") :].splitlines()
    assert output == [
        "Error: thresholds/small.yaml::small [broken]: infrastructure error: out of memory "
        "(--batch-size, --cache)",
        "NOT RECORDED: thresholds/small.yaml::small [nan]: kl = "
        f"{METRICS['kl'].formula}: the sums are not finite: nan / 800.0",
    ]
    kl = " ".join(rows_of(result.output)["kl"])
    assert kl == "- nats <= 0.25 ERROR: the sums are not finite: nan / 800.0"


def test_a_checkpoint_that_breaks_the_contract_is_not_measured(project: Path) -> None:
    (name,) = copies(project, "cut")
    weights = project / name / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    output = run("measure", name, code=1).output
    assert output.startswith("Error: thresholds/small.yaml::small [cut]: load error: ")
    assert "sae_weights.safetensors" in output


def test_specs_are_measured_one_by_one(project: Path, canned: list[Case]) -> None:
    other = SMALL.replace("name: small", "name: other")
    (project / "thresholds" / "other.yaml").write_text(other)
    names = copies(project, "a", "b")
    output = run("measure", *names).output
    heads = [line for line in output.splitlines() if line.startswith("thresholds/")]
    assert [head.partition("  ")[0] for head in heads] == [
        "thresholds/other.yaml::other [a]", "thresholds/other.yaml::other [b]",
        "thresholds/small.yaml::small [a]", "thresholds/small.yaml::small [b]",
    ]  # fmt: skip
    assert [case.member for case in canned] == names  # both specs are of the same measurement
    canned.clear()
    for spec in ("small", "small.yaml", "thresholds/small.yaml"):
        run("measure", "a", "--spec", spec)
    assert [case.spec.name for case in canned] == ["small"] * 3


@pytest.mark.parametrize("ending", [".csv", ".json", ".parquet"])
@pytest.mark.usefixtures("canned")
def test_rows_are_exported_as_csv_json_and_parquet(project: Path, ending: str) -> None:
    names = copies(project, "good", "worse")
    result = run("measure", *names, "--export", f"out{ending}")
    n = 2 * (len(METRICS) + 2)
    assert result.output.endswith(f"{n} rows in out{ending}\n")
    path = project / f"out{ending}"
    if ending == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{**row, "value": float(row["value"] or "nan")} for row in csv.DictReader(file)]
    else:
        read = pd.read_json if ending == ".json" else pd.read_parquet
        rows = read(path).to_dict("records")
    assert len(rows) == n
    assert [(row["checkpoint"], row["value"]) for row in rows if row["metric"] == "kl"] == [
        ("good", pytest.approx(ordinary()["kl"])), ("worse", pytest.approx(ordinary(0.3)["kl"])),
    ]  # fmt: skip
    assert [row["verdict"] for row in rows if row["metric"] == "kl"] == ["pass", "fail"]
    undefined = [row["value"] for row in rows if row["metric"] == "dead_latents"]
    assert len(undefined) == 2
    assert all(np.isnan(value) for value in undefined)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Missing argument 'CHECKPOINT...'"),
        (("nowhere",), 1, "nowhere"),
        (("good", "--spec", "smal"), 1, "'smal' is no file and no spec of this project; "
         "did you mean small? allowed: small (--spec)"),
        (("good", "--hook", "blocks.1.hook_resid_post"), 1, "declares hook point blocks.2."
         "hook_resid_post, but the options name blocks.1.hook_resid_post (--hook)"),
        (("good", "--arch", "relu"), 2, "'relu' is not one of 'standard'"),
        (("good", "--scale", "-1"), 1, "scale -1.0; allowed: a number above 0, folded, stored"),
        (("good", "--device", "tpu"), 2, "'tpu'; allowed: auto, cpu, mps, cuda, cuda:N"),
        (("good", "--batch-size", "0"), 2, "0 is not in the range x>=1"),
        (("good", "--record", "a b"), 1, "'a b' is no name of a version"),
        (("good", "--baseline", "v9"), 1, "no record 'v9': give an id, its hash, or a name; there "
         "are no records"),
        (("good", "--export", "out.txt"), 1, "--export out.txt: allowed: .csv, .json, .parquet"),
        (("good", "--record", "v1", "--folder", "nowhere://h"), 1, "nowhere://h/records: Prot"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_before_measuring(
    project: Path, canned: list[Case], arguments: tuple[str, ...], code: int, message: str
) -> None:
    copies(project, "good")
    assert message in run("measure", *arguments, code=code).output
    assert canned == []


def test_a_checkpoint_without_a_spec_is_an_error(project: Path, canned: list[Case]) -> None:
    copies(project, "good")
    spec = project / "thresholds" / "small.yaml"
    spec.write_text(SMALL.replace("blocks.2", "blocks.1"))
    output = run("measure", "good", code=1).output
    assert f"no spec gates {project}/good:" in output
    assert "its hook point is blocks.2.hook_resid_post" in output
    spec.write_text(SMALL.replace("max: 24", "max: x"))
    assert "thresholds/small.yaml:7: " in run("measure", "good", code=1).output
    spec.unlink()
    output = run("measure", "good", code=1).output
    assert f"no file in {project} matches thresholds/*.yaml, thresholds/*.yml" in output
    assert "(--spec)" in output
    assert canned == []


def test_a_named_spec_that_gates_nothing_is_an_error(project: Path, canned: list[Case]) -> None:
    copies(project, "good")
    other = project / "other.yaml"
    other.write_text(SMALL.replace("blocks.2", "blocks.1"))
    output = run("measure", "good", "--spec", "small", "--spec", "other.yaml", code=1).output
    assert "other.yaml gates nothing:\n  good: its hook point is blocks.2.hook_resid_post" in output
    assert canned == []


CHANGE = SMALL.replace("max: 0.25,", "max: 0.25, max_increase: 2%,")


@pytest.mark.usefixtures("canned")
def test_thresholds_on_changes_compare_with_a_version(project: Path) -> None:
    names = copies(project, "good", "worse")
    (project / "thresholds" / "small.yaml").write_text(CHANGE)
    output = run("measure", "good").output
    assert "ERROR: needs a baseline (thresholds/small.yaml:6): name a version, or set" in output
    assert "NOT RECORDED" in run("measure", "good", "--record", "v1", code=1).output
    first = run("measure", "good", "--record", "v1", "--baseline", "none").output
    assert "kl.change" not in first
    rows = rows_of(run("measure", names[1], "--baseline", "v1", "--record", "v2").output)
    value = f"+{100 * (ordinary(0.3)['kl'] / ordinary()['kl'] - 1):.4g}%"
    assert " ".join(rows["kl.change"]).startswith(f"{value} ")
    assert " ".join(rows["kl.change"][2:]) == "<= +2% FAIL"
    assert rows["kl.change"][1].endswith("%")
    run("measure", names[1], "--baseline", "v1", "--export", "out.json")
    units = {row["metric"]: row["unit"] for row in json.loads(Path("out.json").read_bytes())}
    assert (units["kl"], units["kl.change"]) == ("nats", "share")
    records, _ = History(str(project / ".sae_guard" / "history")).records()
    assert [row.metric for row in records[1].record.thresholds if row.change] == ["kl.change"]


@pytest.mark.usefixtures("canned")
def test_metrics_are_printed_without_any_baseline(project: Path) -> None:
    copies(project, "good")
    spec = SMALL.partition("thresholds:")[0] + "thresholds: {kl: {max_increase: 2%}}\n"
    (project / "thresholds" / "small.yaml").write_text(spec)
    rows = rows_of(run("measure", "good").output)
    assert rows["kl"][0] == f"{ordinary()['kl']:.4g}"
    assert " ".join(rows["kl.change"]).startswith("- <= +2% ERROR: needs a baseline")


@pytest.mark.usefixtures("canned")
def test_the_pareto_verdict_is_printed_and_recorded(project: Path) -> None:
    names = copies(project, "good", "worse")
    spec = project / "thresholds" / "small.yaml"
    spec.write_text(SMALL.replace("thresholds:\n", "thresholds:\n  pareto: {x: l0, y: kl}\n", 1))
    output = run("measure", "good", "--record", "v1", code=1).output
    assert (
        "  ERROR: pareto: no verdict (setup error): thresholds/small.yaml:6: pareto: no " in output
    )
    assert (
        "NOT RECORDED: thresholds/small.yaml::small [good]: thresholds/small.yaml:6: par" in output
    )
    run("measure", "good", "--record", "v1", "--baseline", "none")
    output = run("measure", names[1], "--record", "v2").output
    assert "  FAIL: pareto: dominated in l0 and kl by v1 [good] " in output
    assert "not compared" not in output
    history = History(str(project / ".sae_guard" / "history"))
    records, _ = history.records()
    assert records[1].record.pareto is not None
    assert records[1].record.pareto.verdict == "fail"
    other = {**records[0].record.provenance, "corpus": {"sha256": "0" * 64}}
    files = {name: (Path(records[0].path) / name).read_bytes() for name in records[0].record.files}
    history.add(records[0].record.model_copy(update={"name": "v0", "provenance": other}), files)
    output = run("measure", "good").output
    assert "; 2 records)\n    not compared: v0 [good] (" in output
