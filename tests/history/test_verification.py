"""A record has to follow from its own rows, and be of these files and these formulas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import COLUMNS, METRICS
from sae_guard.history import History, Record
from sae_guard.history.record import ParetoRow, worst
from sae_guard.history.verification import (
    inconsistencies,
    other_files,
    other_formulas,
    other_parts,
)
from sae_guard.testing import measurements
from tests.helpers.recorded import ordinary, record_one


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return record_one(History(str(tmp_path / "h")), tmp_path, ordinary()).record


def with_metric(record: Record, name: str, **changes: Any) -> Record:
    """The record, of which one metric says otherwise."""
    changed = record.metrics[name].model_copy(update=changes)
    return record.model_copy(update={"metrics": {**record.metrics, name: changed}})


def with_rows(measurement: Measurement, column: str, by: float) -> Measurement:
    """The rows, of which the first has another sum."""
    sums = {name: values.copy() for name, values in measurement.sums.items()}
    sums[column][0] += by
    return replace(measurement, sums=sums)


@settings(max_examples=30)
@given(measurements())
def test_whatever_was_recorded_is_consistent(
    tmp_path_factory: pytest.TempPathFactory, measurement: Measurement
) -> None:
    folder = tmp_path_factory.mktemp("h")
    record = record_one(History(str(folder / "h")), folder, measurement).record
    assert list(inconsistencies(record, measurement)) == []
    assert list(other_formulas(record)) == []


def test_a_record_of_an_ordinary_measurement_is_consistent(record: Record) -> None:
    assert record.metrics["kl"].value is not None
    assert record.metrics["dead_latents"].undefined
    assert list(inconsistencies(record, ordinary())) == []


@pytest.mark.parametrize("part", ["value", "low", "high"])
@pytest.mark.parametrize("name", [name for name in METRICS if "random" not in name])
def test_a_changed_number_is_seen(record: Record, name: str, part: str) -> None:
    was = getattr(record.metrics[name], part)
    changed = with_metric(record, name, **{part: 0.125 if was is None else was + 1e-6})
    (told,) = inconsistencies(changed, ordinary())
    assert told.startswith(f"{name}: {part} is ")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"value": None, "low": None, "high": None}, "kl: value is None in record.json"),
        ({"confidence": 0.9}, "kl: confidence is 0.9 in record.json, and 0.95 by its rows"),
        ({"unit": "bits"}, "kl: its unit is 'bits' in record.json, not 'nats'"),
        ({"value": float("nan")}, "kl: value is nan in record.json"),
    ],
)
def test_a_metric_that_says_otherwise_is_seen(
    record: Record, changes: dict[str, Any], told: str
) -> None:
    found = list(inconsistencies(with_metric(record, "kl", **changes), ordinary()))
    assert found[0].startswith(told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n_tokens": 801}, "n_tokens is 801 in record.json, and 800 by"),
        ({"n_sequences": 9}, "n_sequences is 9 in record.json, and 8 by"),
        ({"hook": "blocks.2.hook_resid_post"}, "hook is blocks.2.hook_resid_post in"),
        ({"hook_out": "blocks.2.hook_mlp_out"}, "hook_out is blocks.2.hook_mlp_out in"),
        ({"verdict": "fail"}, "verdict is fail in record.json, and pass by"),
        ({"thresholds": ()}, "verdict is pass in record.json, and none by"),
    ],
)
def test_a_record_that_says_otherwise_is_seen(
    record: Record, changes: dict[str, Any], told: str
) -> None:
    (found,) = inconsistencies(record.model_copy(update=changes), ordinary())
    assert found.startswith(told)


def test_a_record_is_no_better_than_what_is_said_beside_others(record: Record) -> None:
    pareto = ParetoRow(x="l0", y="kl", where="", verdict="fail", records=1, dominated_by=("v0",))
    (told,) = inconsistencies(record.model_copy(update={"pareto": pareto}), ordinary())
    assert told.startswith("verdict is pass in record.json, and fail by")


def test_a_metric_that_was_taken_out_is_seen(record: Record) -> None:
    less = {name: row for name, row in record.metrics.items() if name != "kl"}
    (told,) = inconsistencies(record.model_copy(update={"metrics": less}), ordinary())
    assert told.startswith("metrics is [")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_changed_row_is_seen(record: Record, column: str) -> None:
    found = list(inconsistencies(record, with_rows(ordinary(), column, 1.0)))
    assert any("by its rows" in told for told in found)
    assert list(inconsistencies(record, with_rows(ordinary(), column, np.nan)))


def test_missing_rows_are_seen(record: Record) -> None:
    found = list(inconsistencies(record, ordinary(n=7)))
    assert "n_sequences of the token set is 8 in record.json, and 7 by what is beside it" in found
    assert any(told.startswith("kl: value is ") for told in found)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([("pass", "fail"), ("warn", "fail")], "warn"),
        ([("undecided", "warn"), ("pass", "fail")], "warn"),
        ([("undecided", "fail"), ("warn", "fail")], "undecided"),
        ([("fail", "warn"), ("undecided", "fail")], "fail"),
        ([("error", "warn"), ("fail", "fail")], "error"),
    ],
)
def test_the_verdict_of_a_record_is_the_worst(verdicts: Any, expected: str) -> None:
    assert worst(verdicts) == expected


def test_other_formulas_are_named(record: Record) -> None:
    assert list(other_formulas(record)) == []
    assert list(other_formulas(with_metric(record, "kl", formula_version=2))) == [
        "kl: 1 and 2 in the record, 1 in this sae_guard"
    ]
    versions = {**record.provenance["formula_versions"], "kl": 7}
    provenance = {**record.provenance, "formula_versions": versions}
    assert list(other_formulas(record.model_copy(update={"provenance": provenance}))) == [
        "kl: 1 and 7 in the record, 1 in this sae_guard"
    ]
    views = {"kl.p99": record.metrics["kl"].model_copy(update={"formula_version": 3})}
    assert list(other_formulas(record.model_copy(update={"views": views}))) == [
        "kl.p99: 1 and 3 in the record, 1 in this sae_guard"
    ]
    unknown = {**record.metrics, "klx": record.metrics["kl"]}
    (told,) = other_formulas(record.model_copy(update={"metrics": unknown}))
    assert told == "klx: 1 and none in the record, none in this sae_guard"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"sae.safetensors": "1" * 64}, []),
        ({"called-otherwise.safetensors": "1" * 64}, []),
        ({"sae.safetensors": "4" * 64}, ["sae.safetensors: sha256 111111111111… in the record, "
          "444444444444… in the checkpoint"]),
        ({"sae.safetensors": "1" * 64, "cfg.json": "5" * 64}, ["cfg.json: sha256 none in the "
          "record, 555555555555… in the checkpoint"]),
        ({}, ["sae.safetensors: sha256 111111111111… in the record, none in the checkpoint",
              "the checkpoint has no files"]),
    ],
)  # fmt: skip
def test_other_weights_are_named(record: Record, files: dict[str, str], told: list[str]) -> None:
    assert list(other_files(record, files)) == told


def test_a_record_of_no_files_is_of_no_checkpoint(record: Record) -> None:
    provenance = {**record.provenance, "checkpoint": {"files": {}}}
    none = record.model_copy(update={"provenance": provenance})
    assert list(other_files(none, {})) == ["the checkpoint has no files"]


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 1)))
def test_what_both_say_has_to_be_the_same(found: dict[str, int]) -> None:
    recorded = {"a": 0, "b": 0, "path": "here"}
    expected = sorted(key for key in "ab" if found.get(key, 0) != 0)
    told = list(other_parts(recorded, {**found, "path": "there"}))
    assert told == [f"{key}: 0 in the record, 1 now" for key in expected]
