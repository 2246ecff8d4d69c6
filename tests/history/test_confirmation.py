"""A number is confirmed within its tolerance, and nothing that could not be compared is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_guard.core.measurement import Measurement, TokenKL, TokenTable
from sae_guard.core.metrics import METRICS
from sae_guard.history import History, Record
from sae_guard.history.confirmation import NumberCheck, confirm, confirm_tokens, unverified_claims
from sae_guard.history.record import ParetoRow, ThresholdRow
from sae_guard.testing import measurements
from tests.helpers.recorded import SPEC, ordinary, record_one, with_tokens

N = len(METRICS)


def record_of(folder: Path, measurement: Measurement, text: str = SPEC) -> Record:
    return record_one(History(str(folder / "h")), folder, measurement, text=text).record


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return record_of(tmp_path, ordinary())


def scaled(measurement: Measurement, column: str, by: float) -> Measurement:
    sums = {**measurement.sums, column: measurement.sums[column] * by}
    return replace(measurement, sums=sums)


def wrong(numbers: list[NumberCheck]) -> dict[str, NumberCheck]:
    return {each.name: each for each in numbers if not each.ok}


@settings(max_examples=30)
@given(measurements())
def test_the_same_measurement_confirms_every_number_without_any_tolerance(
    tmp_path_factory: pytest.TempPathFactory, measurement: Measurement
) -> None:
    record = record_of(tmp_path_factory.mktemp("h"), measurement)
    numbers = confirm(record, measurement, measurement, tolerance=0)
    assert wrong(numbers) == {}
    assert [each.name for each in numbers] == ["n_sequences", "n_tokens", "firings", *METRICS]


@given(measurements(), st.floats(1e-3, 0.5), st.sampled_from([-1, 1]))
@settings(max_examples=50)
def test_a_change_beyond_the_tolerance_is_never_confirmed(
    tmp_path_factory: pytest.TempPathFactory, measurement: Measurement, by: float, sign: int
) -> None:
    record = record_of(tmp_path_factory.mktemp("h"), measurement)
    for column, name in (("ce_clean", "ce_clean"), ("l1", "l1"), ("sq_error", "mse")):
        now = scaled(measurement, column, 1 + sign * by)
        value = measurement[name]
        found = wrong(confirm(record, measurement, now))
        # By definition: a ten-thousandth, or a millionth of the variance.
        floor = measurement["mse"] / measurement["fvu"] if name == "mse" and value else 0
        if value * by > 1.001 * max(1e-4 * value, 1e-6 * floor, 1e-6 if "ce" in name else 0):
            assert name in found
        elif name in found:
            # Of two sequences an end of the interval moves by several times as much.
            assert found[name].why.startswith("its interval ended at ")


@pytest.mark.parametrize("tolerance", [1e-3, 1e-4, 1e-5])
def test_the_tolerance_is_a_share_of_the_value(record: Record, tolerance: float) -> None:
    for by, ok in ((0.99, True), (1.01, False)):
        for sign in (-1, 1):
            now = scaled(ordinary(), "l1", 1 + sign * by * tolerance)
            assert ("l1" not in wrong(confirm(record, ordinary(), now, tolerance))) == ok


@pytest.mark.parametrize(("kl", "ok"), [(0.9e-6, True), (1.1e-6, False), (1e-3, False)])
def test_near_zero_the_floor_is_a_millionth_of_a_nat(tmp_path: Path, kl: float, ok: bool) -> None:
    nothing = scaled(ordinary(), "kl", 0.0)
    record = record_of(tmp_path, nothing)
    now = replace(nothing, sums={**nothing.sums, "kl": np.full(8, 100 * kl)})
    assert ("kl" not in wrong(confirm(record, nothing, now))) == ok


def test_a_small_error_of_small_activations_is_no_zero(tmp_path: Path) -> None:
    small = {name: values * 1e-12 for name, values in ordinary().sums.items() if "sq_" in name}
    rows = replace(ordinary(), sums={**ordinary().sums, **small})
    record = record_of(tmp_path, rows)
    assert "mse" in wrong(confirm(record, rows, scaled(rows, "sq_error", 1.001)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_confirmed(record: Record, value: float) -> None:
    kl = ordinary().sums["kl"].copy()
    kl[3] = value
    now = replace(ordinary(), sums={**ordinary().sums, "kl": kl})
    found = wrong(confirm(record, ordinary(), now))
    assert "it is undefined now: " in found["kl"].why
    assert set(found) == {"kl"}
    assert not NumberCheck("kl", value, value, 1.0).ok
    assert not NumberCheck("kl", 1.0, 1.0, math.nan).ok


def test_what_was_undefined_has_to_be_undefined_again(tmp_path: Path, record: Record) -> None:
    pairs = dict.fromkeys(("kl_random_error", "kl_vs_random_error"))
    more = {**ordinary().sums, "kl_random_error": np.full(8, 80.0)}
    asked = replace(ordinary(), sums=more)
    found = wrong(confirm(record, ordinary(), asked))
    assert {name: each.why for name, each in found.items()} == dict.fromkeys(
        pairs, "it was undefined"
    )
    found = wrong(confirm(record_of(tmp_path / "b", asked), asked, ordinary()))
    assert set(found) == set(pairs)
    assert all("it is undefined now: " in each.why for each in found.values())


def test_rows_that_are_missing_confirm_nothing(record: Record) -> None:
    found = wrong(confirm(record, ordinary(), ordinary(n=7)))
    defined = {name for name, row in record.metrics.items() if row.value is not None}
    assert set(found) >= {"n_sequences", "n_tokens", "kl", *(defined - {"dead_latents"})}


def test_other_sequences_of_the_same_number_are_others(record: Record) -> None:
    now = replace(ordinary(), sequences=np.arange(8) + 1)
    assert wrong(confirm(record, ordinary(), now))["n_sequences"].why == "of other sequences"
    tokens = ordinary().sums["n_tokens"].copy()
    tokens[0], tokens[1] = 101, 99
    now = replace(ordinary(), sums={**ordinary().sums, "n_tokens": tokens})
    assert wrong(confirm(record, ordinary(), now))["n_tokens"].why == "of other sequences"


def test_an_interval_of_other_rows_is_not_confirmed(record: Record) -> None:
    kl = ordinary().sums["kl"].copy()
    kl[0], kl[1] = kl[0] + 1, kl[1] - 1
    now = replace(ordinary(), sums={**ordinary().sums, "kl": kl})
    assert ordinary()["kl"] == now["kl"]
    assert "its interval ended at " in wrong(confirm(record, ordinary(), now))["kl"].why


@pytest.mark.parametrize(
    ("firings", "told"),
    [
        ([0, 1, 2, 3, 4], None),
        ([1, 0, 2, 3, 4], None),  # one went over to another
        ([2, 1, 2, 3, 4], None),
        ([0, 1, 2, 3, 7], "3 of them differ"),
        ([0, 1, 2, 2, 2], "3 of them differ"),
        ([2, 3, 2, 3, 0], "8 of them differ"),
        ([0, 1, 2, 3, 4, 0], "of 5 latents, and now of 6"),
    ],
)
def test_firing_counts_are_those_of_each_latent(
    record: Record, firings: list[int], told: str | None
) -> None:
    now = replace(ordinary(), firings=np.array(firings))
    found = wrong(confirm(record, ordinary(), now))
    assert (found["firings"].why if "firings" in found else None) == told


def changed_threshold(record: Record, **changes: object) -> Record:
    first, *others = record.thresholds
    changed = first.model_copy(update=changes)
    return record.model_copy(update={"thresholds": (changed, *others)})


def test_a_verdict_that_does_not_follow_is_not_confirmed(record: Record) -> None:
    for changes, why in (
        ({"verdict": "fail"}, "the verdict was fail, and is pass"),
        ({"max": 0.01, "headroom": 0.01 - 0.050035}, "the verdict was pass, and is fail"),
        ({"value": 0.04}, "it was judged by another value than the metric's"),
        ({"headroom": 3.0}, "its headroom is said to be 3.0"),
        ({"metric": "kl.p0"}, "no such target is known"),
        ({"metric": "kl@colour=1..2"}, "no such target is known"),
    ):
        told = changed_threshold(record, **changes)
        found = wrong(confirm(told, ordinary(), ordinary()))
        assert [each.why for each in found.values()] == [why]


def test_a_value_at_its_bound_may_be_on_the_other_side(record: Record) -> None:
    value = record.metrics["kl"].value
    assert value is not None
    at = changed_threshold(record, max=value, headroom=0.0)
    assert wrong(confirm(at, ordinary(), scaled(ordinary(), "kl", 1 + 1e-5))) == {}
    assert wrong(confirm(at, ordinary(), scaled(ordinary(), "kl", 1.01)))


def test_the_end_of_an_interval_at_its_bound_may_be_on_the_other_side(tmp_path: Path) -> None:
    kl = np.linspace(0.0, 100 * 0.1, 8)
    rows = replace(ordinary(), sums={**ordinary().sums, "kl": kl})
    end = rows.estimate("kl", confidence=0.99).high
    assert end is not None
    for bound, ok in ((end * (1 + 1e-6), True), (end * (1 + 1e-2), False)):
        text = SPEC.replace("kl: {max: 0.1}", f"kl: {{max: {bound:.17g}, confidence: 0.99}}")
        record = record_of(tmp_path / str(ok), rows, text)
        assert record.thresholds[0].verdict == "pass"
        told = changed_threshold(record, verdict="undecided")
        assert (wrong(confirm(told, rows, rows)) == {}) == ok


SLICES = """
slices:
  - position: 2..5
    thresholds: {kl: {max: 9}}
  - entropy: 1.5..
    thresholds: {kl: {p90: {max: 9}}}
  - source: "t*"
    thresholds: {kl: {max: 9}}
"""


def test_other_targets_are_confirmed_by_their_tokens(tmp_path: Path) -> None:
    text = SPEC.replace("kl: {max: 0.1}", "kl: {max: 0.1, p99: {max: 9}, worst_sequence: {max: 9}}")
    measured = with_tokens(ordinary())
    record = record_of(tmp_path, measured, text + SLICES)
    targets = [
        "kl.p99",
        "kl.worst_sequence",
        "kl@position=2..5",
        "kl.p90@entropy=1.5..",
        "kl@source=t*",
    ]
    numbers = confirm(record, ordinary(), measured)
    assert [each.name for each in numbers[3 + N :]] == targets
    assert wrong(numbers) == {}
    # Without tokens they cannot be compared, and so are not confirmed.
    assert set(wrong(confirm(record, ordinary(), ordinary()))) >= {
        targets[0],
        targets[2],
        targets[3],
    }
    assert measured.tokens is not None
    columns = {**measured.tokens.columns, "kl": measured.tokens.columns["kl"] * np.float32(1.01)}
    now = replace(measured, tokens=TokenTable(measured.tokens.scored, columns))
    assert set(wrong(confirm(record, ordinary(), now))) == {targets[0], targets[2], targets[3]}


def test_a_threshold_of_no_value_is_not_confirmed(record: Record) -> None:
    row: ThresholdRow = record.thresholds[0].model_copy(update={"value": None})
    told = record.model_copy(update={"thresholds": (row,)})
    assert wrong(confirm(told, ordinary(), ordinary()))["kl"].why == "it had no value"


def test_the_value_of_a_target_is_confirmed_with_its_interval(tmp_path: Path) -> None:
    measured = with_tokens(ordinary())
    record = record_of(tmp_path, measured, SPEC + SLICES)
    row = record.views["kl@position=2..5"]
    assert row.value is not None
    assert row.low is not None
    for changes in ({"value": row.value * 1.01}, {"low": row.low * 0.9}, {"undefined": "so it is",
                    "value": None}):  # fmt: skip
        views = {**record.views, "kl@position=2..5": row.model_copy(update=changes)}
        told = record.model_copy(update={"views": views})
        assert "kl@position=2..5" in wrong(confirm(told, ordinary(), measured))
    for name in ("kl.median", "kl@colour=1..2", "kl.change"):
        odd = record.model_copy(update={"views": {name: row}})
        assert wrong(confirm(odd, ordinary(), measured))[name].why == "no such target is known"


def changed_since(record: Record, **says: object) -> Record:
    """With one threshold, on a change."""
    value = record.metrics["kl"].value
    assert value is not None
    row = {
        "metric": "kl.change", "change": "difference", "max": 0.02, "where": "s.yaml:6",
        "verdict": "pass", "baseline": "v0 (abc)", "before": 0.04, "value": value - 0.04, **says,
    }  # fmt: skip
    return record.model_copy(update={"thresholds": (ThresholdRow.model_validate(row),)})


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ({}, None),
        ({"change": "share", "value": (0.050035 - 0.04) / 0.04, "max": 0.3}, None),
        ({"verdict": "undecided", "confidence": 0.99}, None),
        ({"value": 0.005}, ""),
        ({"before": 0.05}, ""),
        ({"verdict": "fail"}, "the verdict fail does not follow from it"),
        ({"max": 0.001}, "the verdict pass does not follow from it"),
        ({"before": None}, "from where is not said"),
        ({"change": "share", "before": 0.0}, "it is a share of 0"),
        ({"metric": "kl.p0.change"}, "no such target is known"),
    ],
)
def test_a_change_is_from_what_the_record_says_to_what_is_measured(
    record: Record, says: dict[str, object], why: str | None
) -> None:
    told = changed_since(record, **says)
    found = wrong(confirm(told, ordinary(), ordinary()))
    assert [each.why for each in found.values()] == ([] if why is None else [why])
    moved = wrong(confirm(told, ordinary(), scaled(ordinary(), "kl", 1.01)))
    assert set(moved) == {"kl", told.thresholds[0].metric}


def test_what_is_not_measured_again_is_said(record: Record) -> None:
    assert list(unverified_claims(record)) == []
    pareto = ParetoRow(x="l0", y="kl", where="s.yaml:9", verdict="pass", records=3)
    told = changed_since(record).model_copy(update={"pareto": pareto})
    assert list(unverified_claims(told)) == [
        "changes since v0 (abc) are by what the record says of it",
        "pareto: pass beside 3 other records",
    ]


KL = [0.0, 0.5, 3.0, 1e-5, float("nan"), float("inf")]


def tokens(kl: list[float], *, first: int = 0) -> TokenKL:
    n = len(kl)
    return TokenKL(
        np.arange(n) // 2 + first, (np.arange(n) % 2).astype(np.int32), np.array(kl, np.float32)
    )


def test_the_same_tokens_are_confirmed_without_any_tolerance() -> None:
    found = confirm_tokens(tokens(KL), tokens(KL), 0)
    assert (found.ok, found.recorded, found.measured) == (True, 6, 6)


@given(st.integers(0, 3), st.floats(1e-6, 1), st.sampled_from([-1, 1]))
def test_one_token_beyond_the_tolerance_is_named(at: int, by: float, sign: int) -> None:
    moved = [*KL]
    moved[at] += sign * by
    apart = abs(float(np.float32(moved[at])) - float(np.float32(KL[at])))
    allowed = max(1e-4 * KL[at], 1e-4)
    if abs(apart - allowed) < 1e-7:
        return
    found = confirm_tokens(tokens(KL), tokens(moved))
    assert found.ok == (apart <= allowed)
    if not found.ok:
        assert found.why.startswith(f"1 differ; at sequence {at // 2}, position {at % 2} it was ")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_confirmed_by_the_same_only(bad: float) -> None:
    for was, now in (([0.5], [bad]), ([bad], [0.5])):
        assert not confirm_tokens(tokens(was), tokens(now), 1.0).ok
    assert confirm_tokens(tokens([bad]), tokens([bad]), 0).ok


def test_other_tokens_and_none_are_not_confirmed() -> None:
    assert confirm_tokens(tokens(KL), tokens(KL, first=1)).why == "of other tokens"
    assert confirm_tokens(tokens(KL), tokens(KL[:-1])).why == "of other tokens"
    assert not confirm_tokens(tokens(KL), None).ok
