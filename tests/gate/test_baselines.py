"""What earlier versions got: baselines and the points of records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sae_guard.core.pareto import Pareto, Point
from sae_guard.errors import SetupError, UndefinedMetricError
from sae_guard.gate.baselines import Baselines
from sae_guard.history import History, HistoryError
from tests.helpers.changed_measurements import with_provenance
from tests.helpers.recorded import SPEC, bits, ordinary, promotion, record_one

NEW = Point("new", 8.0, 0.05)
PARETO = Pareto("l0", "kl", "spec.yaml", 7)


def test_a_baseline_is_the_measurement_and_what_its_rows_do_not_tell(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    text = SPEC.replace("kl: {max: 0.1}", "kl: {max: 0.1, worst_sequence: {max: 0.1}}")
    assert record_one(history, tmp_path, ordinary(), name="v0").record.views == {}
    recorded = record_one(history, tmp_path, ordinary(), name="v1", text=text)
    history.promote(promotion(recorded, "v1.2"))
    found = Baselines(history).baseline("v1.2", recorded.spec)
    assert found.name == f"v1.2 ({recorded.id[-12:]})"
    assert bits(found.measurement) == bits(ordinary())
    assert found.values == {"kl.worst_sequence": pytest.approx(0.05007)}
    assert not found.strict
    assert Baselines(history).baseline(recorded.id, "x::y", strict=True).strict
    with pytest.raises(SetupError, match=r"baseline in .*'v1.2' has no record by x::y, but by"):
        Baselines(history).baseline("v1.2", "x::y")
    Baselines(history).check("v1.2")
    with pytest.raises(SetupError, match=r"no record 'v3'.*/h\)"):
        Baselines(history).check("v3")


def test_points_are_of_the_same_spec_tokens_and_formulas(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    other = SPEC.replace("name: tiny", "name: other")
    first = record_one(history, tmp_path, ordinary(), name="v1")
    record_one(history, tmp_path, ordinary(), name="v2", text=other)
    corpus = {"n_sequences": 8, "sha256": "4" * 64}
    record_one(history, tmp_path, with_provenance(ordinary(), corpus=corpus), name="v3")
    found = Baselines(history).beside(PARETO, first.spec, NEW, ordinary())
    (point,) = found.others
    metrics = first.record.metrics
    assert (point.x, point.y) == (metrics["l0"].value, metrics["kl"].value)
    assert point.name == f"v1 ({first.short})"
    (left,) = found.left_out
    assert left.startswith("v3 [v1] (")
    assert "sha256 of the tokens was" in left
    formulas = {**ordinary().provenance.formula_versions, "kl": 2}
    newer = with_provenance(ordinary(), formula_versions=formulas)
    with pytest.raises(SetupError, match="of other things: v3"):
        Baselines(history).beside(PARETO, first.spec, NEW, newer)
    # Each is told apart by the formulas that it is about.
    assert Baselines(history).beside(Pareto("l0", "fvu"), first.spec, NEW, newer).others


def test_what_is_undefined_or_unreadable_is_no_point(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    sums = {**ordinary().sums, "kl_random_error": ordinary().sums["kl"]}
    first = record_one(history, tmp_path, ordinary(), name="v1")
    record_one(history, tmp_path, replace(ordinary(), sums=sums), name="v2")
    asked = Pareto("l0", "kl_vs_random_error")
    found = Baselines(history).beside(asked, first.spec, NEW, ordinary())
    assert len(found.others) == 1
    assert "kl_vs_random_error is undefined" in found.left_out[0]
    with pytest.raises(UndefinedMetricError, match="new is at nan"):
        Point("new", float("nan"), 1.0)
    head = Path(first.path) / "record.json"
    head.write_bytes(head.read_bytes() + b" ")
    with pytest.raises(HistoryError, match="a record cannot be read"):
        Baselines(history).beside(PARETO, first.spec, NEW, ordinary())


@pytest.mark.parametrize("kind", ["records", "promotions"])
def test_a_version_of_which_something_is_unreadable_is_no_baseline(
    tmp_path: Path, kind: str
) -> None:
    # Else the one before it would be taken for the version, which may be worse.
    history = History(str(tmp_path / "h"))
    first = record_one(history, tmp_path, ordinary(), name="v1")
    second = record_one(history, tmp_path, ordinary(), name="v1")
    other = record_one(history, tmp_path, ordinary(), name="other-v1")
    label = "v1.2" if kind == "promotions" else "v1"
    promoted = [history.promote(promotion(each, "v1.2")) for each in (first, second)]
    broken = {"promotions": (promoted[1], "promotion.json"), "records": (second.id, "record.json")}
    name, file = broken[kind]
    head = tmp_path / "h" / kind / name / file
    head.write_bytes(head.read_bytes() + b" ")
    with pytest.raises(HistoryError, match=rf"baseline: {label} cannot be read: .*{name}/{file}"):
        Baselines(history).baseline(label, first.spec)
    for reference in (first.id, first.short, "other-v1"):
        assert bits(Baselines(history).baseline(reference, first.spec).measurement) == bits(
            ordinary()
        )
    assert Baselines(history).baseline(other.id, first.spec).name == other.id


def test_a_record_of_another_provenance_is_no_point(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    first = record_one(history, tmp_path, ordinary(), name="v1")
    later = {**first.record.provenance, "later": 1}
    files = {name: (Path(first.path) / name).read_bytes() for name in first.record.files}
    history.add(first.record.model_copy(update={"name": "v2", "provenance": later}), files)
    with pytest.raises(HistoryError, match=r"v2-[0-9a-f]{12}: provenance: .*'later'"):
        Baselines(history).beside(PARETO, first.spec, NEW, ordinary())
