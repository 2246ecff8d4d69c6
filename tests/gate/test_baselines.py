"""Recorded versions as baselines, and as points of a Pareto comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sae_guard.core.pareto import Pareto, Point
from sae_guard.errors import SetupError, UndefinedMetricError
from sae_guard.gate.baselines import Baselines
from sae_guard.history import History, HistoryError
from tests.helpers.changed_measurements import with_provenance
from tests.helpers.recorded import (
    SPEC,
    a_case,
    bits,
    ordinary,
    promotion,
    record_one,
    retraction,
)

NEW = Point("new", 8.0, 0.05)
PARETO = Pareto("l0", "kl", "spec.yaml", 7)


def test_a_baseline_has_the_measurement_and_values_that_need_its_tokens(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    text = SPEC.replace("kl: {max: 0.1}", "kl: {max: 0.1, worst_sequence: {max: 0.1}}")
    assert record_one(history, tmp_path, ordinary(), name="v0").record.views == {}
    recorded = record_one(history, tmp_path, ordinary(), name="v1", text=text)
    history.promote(promotion(recorded, "v1.2"))
    case = a_case(tmp_path / "now", text=text)
    baseline = Baselines(history).baseline(case, "v1.2")
    assert baseline.name == f"v1.2 ({recorded.id[-12:]})"
    assert bits(baseline.measurement) == bits(ordinary())
    assert baseline.values == {"kl.worst_sequence": pytest.approx(0.05007)}
    assert not baseline.strict
    other = a_case(tmp_path / "other", text=text + "strict_env: true\n", display="x.yaml")
    assert Baselines(history).baseline(other, recorded.id).strict
    with pytest.raises(SetupError, match=r"x.yaml::tiny \[v1\] has no earlier version in v1.2"):
        Baselines(history).baseline(other, "v1.2")
    Baselines(history).check("v1.2")
    with pytest.raises(SetupError, match=r"no record 'v3'.*/h\)"):
        Baselines(history).check("v3")


def test_only_records_of_the_same_spec_tokens_and_formulas_are_points(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    other = SPEC.replace("name: tiny", "name: other")
    first = record_one(history, tmp_path, ordinary(), name="v1")
    record_one(history, tmp_path, ordinary(), name="v2", text=other)
    corpus = {"n_sequences": 8, "sha256": "4" * 64}
    record_one(history, tmp_path, with_provenance(ordinary(), corpus=corpus), name="v3")
    verdict = Baselines(history).compare_point(PARETO, first.spec, NEW, ordinary())
    (point,) = verdict.others
    metrics = first.record.metrics
    assert (point.x, point.y) == (metrics["l0"].value, metrics["kl"].value)
    assert point.name == f"v1 ({first.short})"
    (left_out,) = verdict.left_out
    assert left_out.startswith("v3 [v1] (")
    assert "sha256 of the tokens was" in left_out
    formulas = {**ordinary().provenance.formula_versions, "kl": 2}
    newer = with_provenance(ordinary(), formula_versions=formulas)
    with pytest.raises(SetupError, match=rf"no record of {first.spec} .*\(2 left out; v3 \[v1\]"):
        Baselines(history).compare_point(PARETO, first.spec, NEW, newer)
    # Only the formulas of its own two metrics count.
    assert Baselines(history).compare_point(Pareto("l0", "fvu"), first.spec, NEW, newer).others


def test_a_record_that_is_undefined_or_unreadable_is_no_point(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    sums = {**ordinary().sums, "kl_random_error": ordinary().sums["kl"]}
    first = record_one(history, tmp_path, ordinary(), name="v1")
    record_one(history, tmp_path, replace(ordinary(), sums=sums), name="v2")
    pareto = Pareto("l0", "kl_vs_random_error")
    verdict = Baselines(history).compare_point(pareto, first.spec, NEW, ordinary())
    assert len(verdict.others) == 1
    assert "kl_vs_random_error is undefined" in verdict.left_out[0]
    with pytest.raises(UndefinedMetricError, match="new is at nan"):
        Point("new", float("nan"), 1.0)
    head = Path(first.path) / "record.json"
    head.write_bytes(head.read_bytes() + b" ")
    with pytest.raises(HistoryError, match="a record cannot be read"):
        Baselines(history).compare_point(PARETO, first.spec, NEW, ordinary())


@pytest.mark.parametrize("kind", ["records", "promotions"])
def test_a_version_with_an_unreadable_record_or_promotion_is_no_baseline(
    tmp_path: Path, kind: str
) -> None:
    # Otherwise the record before it, which may be worse, would be taken for the version.
    history = History(str(tmp_path / "h"))
    first = record_one(history, tmp_path, ordinary(), name="v1")
    second = record_one(history, tmp_path, ordinary(), name="v1")
    other = record_one(history, tmp_path, ordinary(), name="other-v1")
    label = "v1.2" if kind == "promotions" else "v1"
    promoted = [history.promote(promotion(recorded, "v1.2")) for recorded in (first, second)]
    broken = {"promotions": (promoted[1], "promotion.json"), "records": (second.id, "record.json")}
    name, file = broken[kind]
    head = tmp_path / "h" / kind / name / file
    head.write_bytes(head.read_bytes() + b" ")
    case = a_case(tmp_path / "now")
    with pytest.raises(HistoryError, match=rf"{label} cannot be read: .*{name}/{file}"):
        Baselines(history).baseline(case, label)
    for reference in (first.id, first.short, "other-v1"):
        assert bits(Baselines(history).baseline(case, reference).measurement) == bits(ordinary())
    assert Baselines(history).baseline(case, other.id).name == other.id


def test_a_retracted_version_is_no_baseline(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    recorded = record_one(history, tmp_path, ordinary())
    history.promote(promotion(recorded, "v1"))
    history.promote(retraction(recorded, "v1", 1))
    case = a_case(tmp_path / "now")
    baselines, sentence = Baselines(history), "v1 was retracted on 2026-11-26 by someone: it is bro"
    with pytest.raises(SetupError, match=sentence):
        baselines.baseline(case, "v1")
    with pytest.raises(SetupError, match=sentence):
        baselines.check("v1")
    assert baselines.baseline(case, recorded.id).name == recorded.id


def test_a_record_whose_provenance_has_an_unknown_key_is_an_error(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    first = record_one(history, tmp_path, ordinary(), name="v1")
    later = {**first.record.provenance, "later": 1}
    files = {name: (Path(first.path) / name).read_bytes() for name in first.record.files}
    history.add(first.record.model_copy(update={"name": "v2", "provenance": later}), files)
    with pytest.raises(HistoryError, match=r"v2-[0-9a-f]{12}: provenance: .*'later'"):
        Baselines(history).compare_point(PARETO, first.spec, NEW, ordinary())
