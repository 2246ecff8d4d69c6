"""Early verdicts: those of the whole set, but where chance has it otherwise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sae_guard.core.early_verdicts import Early, needs_mean, needs_spread, stands
from sae_guard.core.measurement import (
    TOKEN_COLUMNS,
    FiringSpread,
    Measurement,
    Provenance,
    TokenTable,
)
from sae_guard.core.metrics import COLUMNS, METRICS
from sae_guard.core.statistics.sequential import Rule
from sae_guard.core.targets import Slice, Target
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import Status, judge

TOTAL, TOKENS = 400, 20
RULE = Rule(alpha=1e-3)


def drawn(seed: int, total: int = TOTAL) -> Measurement:
    """A whole set of sequences that differ as real ones do."""
    generator = np.random.default_rng(seed)
    columns = {name: np.ones((total, TOKENS)) for name in (*COLUMNS, "entropy")}
    level = generator.lognormal(sigma=0.4, size=(total, 1))
    columns["kl"] = 0.1 * level * generator.gamma(2.0, 0.5, size=(total, TOKENS))
    columns["ce_clean"] = 3 + 0.3 * generator.standard_normal((total, TOKENS))
    columns["ce_patched"] = columns["ce_clean"] + columns["kl"]
    columns["ce_zero"] = columns["ce_mean"] = columns["ce_clean"] + 4 + level
    columns["l0"] = generator.poisson(20 * level**0.3, size=(total, TOKENS)).astype(float)
    columns["sq_error"], columns["sq_deviation"] = 0.2 * level + 0 * columns["kl"], 1 + level / 5
    columns["sq_deviation"] = np.broadcast_to(columns["sq_deviation"], (total, TOKENS))
    columns["cosine"] = 0.95 - 0.02 * columns["kl"]
    columns["entropy"] = 5 * generator.random((total, TOKENS))
    tokens = {name: np.asarray(columns[name], dtype=np.float32) for name in TOKEN_COLUMNS}
    sums = {
        name: np.asarray(columns[name], dtype=np.float32).sum(1, dtype=float) for name in COLUMNS
    }
    provenance = Provenance({}, {}, {"n_sequences": total}, "hook", "", {}, {}, "cpu")
    firings = np.array([0, 1, total * TOKENS // 2])
    table = TokenTable(np.ones((total, TOKENS), dtype=np.bool_), tokens)
    return Measurement(
        np.arange(total), sums, firings, provenance, table,
        whole_sq_deviation=float(sums["sq_deviation"].sum()),
    )  # fmt: skip


def first(measurement: Measurement, n: int) -> Measurement:
    """Its first rows; they are in random order."""
    table = measurement.tokens
    assert table is not None
    columns = {name: values[:n] for name, values in table.columns.items()}
    return dataclasses.replace(
        measurement,
        sequences=measurement.sequences[:n],
        sums={name: column[:n] for name, column in measurement.sums.items()},
        tokens=TokenTable(table.scored[:n], columns),
    )


def prefixes(measurement: Measurement) -> Iterator[Measurement]:
    for n in range(32, measurement.n_whole, 32):
        yield first(measurement, n)


def status_of(measurement: Measurement, threshold: Threshold) -> Status | None:
    """Of the verdict that stands, if one does, of a gate of one bound."""
    found = stands(measurement, threshold, RULE, 1)
    return found.status if found else None


TARGETS = [
    Target("kl"), Target("ce_increase"), Target("reconstruction_score"), Target("l0"),
    Target("explained_variance"), Target("fvu"), Target("cosine"), Target("kl", "p50"),
    Target("kl", "p90"), Target("kl", slice=Slice("position", 0, 5)),
    Target("kl", slice=Slice("entropy", 2)),
]  # fmt: skip


def bounded(measurement: Measurement, target: Target, margin: float, *, kept: bool) -> Threshold:
    """A threshold whose bound lies ``margin`` on this side of the value."""
    chosen = METRICS[target.metric]
    side = chosen.sides[0]
    loose = Threshold(target, **{side: 0.0})  # type: ignore[arg-type]
    estimate = judge(measurement, loose).estimate
    assert estimate is not None
    away = margin * (abs(estimate.value - chosen.tail_from) or 1)
    up = (side == "max") == kept
    return Threshold(target, **{side: estimate.value + (away if up else -away)})  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("kept", [True, False])
def test_with_a_wide_margin_it_comes_early_and_is_that_of_the_whole(
    target: Target, kept: bool
) -> None:
    for seed in range(3):
        measurement = drawn(seed)
        threshold = bounded(measurement, target, 0.6, kept=kept)
        whole = judge(measurement, threshold)
        early = Early([threshold], RULE)
        for prefix in prefixes(measurement):
            if early.look(prefix):
                break
        verdict = early.verdicts[threshold]
        assert verdict.status == whole.status == ("pass" if kept else "fail")
        progress = verdict.progress
        assert progress is not None
        assert 64 <= progress.measured < progress.total == TOTAL
        assert (progress.measured, progress.alpha) == (prefix.n_sequences, RULE.alpha)


@given(st.integers(0, 10**6), st.sampled_from(TARGETS), st.booleans())
def test_never_before_the_minimum(seed: int, target: Target, kept: bool) -> None:
    measurement = drawn(seed % 5)
    threshold = bounded(measurement, target, 5.0, kept=kept)
    n = 2 + seed % 62
    assert stands(first(measurement, n), threshold, RULE, 1) is None


def test_on_the_bound_it_never_stands_and_a_hair_away_neither() -> None:
    """TopK SAEs have the same L0 on every token: there is no spread to wait for."""
    measurement = drawn(0)
    constant = {**measurement.sums, "l0": np.full(TOTAL, 16.0 * TOKENS)}
    measurement = dataclasses.replace(measurement, sums=constant)
    soon = first(measurement, 96)
    at = {16.0: None, 16.0 * (1 - 1e-7): None, 24.0: "pass", 15.9: "fail"}
    assert {bound: status_of(soon, Threshold("l0", max=bound)) for bound in at} == at


def test_a_heavy_tail_that_may_come_holds_back_a_pass_and_no_fail() -> None:
    """Of l0 ≥ 10 it is the fail that an unseen dense sequence could undo."""
    generator = np.random.default_rng(0)
    measurement = drawn(1)
    l0 = 10.0 * TOKENS + generator.standard_normal(TOTAL)
    measurement = dataclasses.replace(measurement, sums={**measurement.sums, "l0": l0})
    soon = first(measurement, 64)
    expected: dict[Threshold, Status | None] = {
        Threshold("l0", max=9.8): "fail", Threshold("l0", max=10.2): None,
        Threshold("l0", min=9.8): "pass", Threshold("l0", min=10.2): None,
    }  # fmt: skip
    assert {threshold: status_of(soon, threshold) for threshold in expected} == expected


def test_the_deviation_of_the_whole_set_is_not_estimated() -> None:
    """A few sequences with tokens of enormous norm are nearly all of it, and come last."""
    measurement = drawn(9)
    deviation = measurement.sums["sq_deviation"].copy()
    deviation[-8:] *= 1e4
    measurement = dataclasses.replace(
        measurement,
        sums={**measurement.sums, "sq_deviation": deviation},
        whole_sq_deviation=float(deviation.sum()),
    )
    value = measurement["explained_variance"]
    assert value > 0.99
    thresholds = {
        Threshold("explained_variance", min=0.9): "pass",
        Threshold("fvu", max=(1 - value) / 2): "fail",
    }
    soon = first(measurement, 128)
    for threshold, status in thresholds.items():
        found = stands(soon, threshold, RULE, 1)
        assert found is not None
        assert found.status == status == judge(measurement, threshold).status
        assert found.estimate is not None
        assert threshold.allows(found.estimate.value) is (status == "pass")
        unknown = dataclasses.replace(soon, whole_sq_deviation=None)
        assert stands(unknown, threshold, RULE, 1) is None


def test_warnings_are_verdicts_too() -> None:
    measurement = drawn(2)
    value = measurement["kl"]
    cases: dict[Status, Threshold] = {
        "pass": Threshold("kl", max=3 * value, warn_max=2 * value),
        "warn": Threshold("kl", max=3 * value, warn_max=value / 2),
        "fail": Threshold("kl", max=value / 2, warn_max=value / 3),
    }
    for status, threshold in cases.items():
        found = stands(first(measurement, 300), threshold, RULE, 2)
        assert found is not None
        assert found.status == status == judge(measurement, threshold).status


def test_a_second_threshold_never_turns_a_fail_into_a_pass() -> None:
    measurement = drawn(3)
    bad = bounded(measurement, Target("kl"), 0.5, kept=False)
    others = [
        bounded(measurement, Target(name), 0.8, kept=True) for name in ("l0", "fvu", "cosine")
    ]
    for n in range(4):
        early = Early([bad, *others[:n]], RULE)
        for prefix in prefixes(measurement):
            early.look(prefix)
        assert early.verdicts[bad].status == "fail"


def test_what_stands_is_not_looked_at_again() -> None:
    measurement = drawn(4)
    threshold = bounded(measurement, Target("kl"), 0.8, kept=True)
    early = Early([threshold], RULE)
    assert early.look(first(measurement, 256))
    before = early.verdicts[threshold]
    worse = {**measurement.sums, "kl": measurement.sums["kl"] * 100}
    assert early.look(first(dataclasses.replace(measurement, sums=worse), 300))
    assert early.verdicts[threshold] is before


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_an_error_at_once(bad: float) -> None:
    measurement = drawn(5)
    kl = measurement.sums["kl"].copy()
    kl[1] = bad
    broken = first(dataclasses.replace(measurement, sums={**measurement.sums, "kl": kl}), 10)
    found = stands(broken, Threshold("kl", max=1.0), RULE, 1)
    assert found is not None
    assert (found.status, found.cause) == ("error", "load")
    assert stands(broken, Threshold("l0", max=1e9), RULE, 1) is None


def test_what_was_not_measured_waits_for_the_error_of_the_whole_set() -> None:
    measurement = drawn(6)
    assert status_of(first(measurement, 200), Threshold("kl_vs_random_error", max=2.0)) is None
    assert judge(measurement, Threshold("kl_vs_random_error", max=2.0)).status == "error"


def test_a_denominator_that_may_be_nothing_waits() -> None:
    measurement = drawn(6)
    generator = np.random.default_rng(0)
    zero = measurement.sums["ce_clean"] + generator.standard_normal(TOTAL)
    measurement = dataclasses.replace(measurement, sums={**measurement.sums, "ce_zero": zero})
    threshold = Threshold("reconstruction_score", min=-1e3)
    assert stands(first(measurement, 380), threshold, RULE, 1) is None


def test_a_confidence_and_a_worst_sequence_that_is_kept_wait_for_the_end() -> None:
    measurement = drawn(7)
    soon = first(measurement, 380)
    assert stands(soon, Threshold("kl", max=10.0, confidence=0.99), RULE, 1) is None
    assert stands(soon, Threshold("kl.worst_sequence", max=10.0), RULE, 1) is None
    crossed = stands(first(measurement, 3), Threshold("kl.worst_sequence", max=0.0), RULE, 1)
    assert crossed is not None
    assert crossed.status == "fail"


def latents(rates: NDArray[np.float64], n: int, total: int = TOTAL) -> Measurement:
    """The first rows of a set whose latents fire at these rates, of 1,000 tokens each."""
    generator = np.random.default_rng(0)
    c = generator.binomial(1000, rates, size=(total, len(rates)))[:n].astype(float)
    measurement = first(drawn(8), n)
    tokens = np.full(n, 1000.0)
    return dataclasses.replace(
        measurement,
        sums={**measurement.sums, "n_tokens": tokens},
        firings=c.sum(axis=0).astype(np.int64),
        spread=FiringSpread((c**2).sum(axis=0), (c * 1000).sum(axis=0)),
    )


def test_dense_latents_are_counted_as_far_as_is_sure() -> None:
    rates = np.concatenate([np.full(8, 0.2), np.full(192, 0.01)])
    at = {0.02: "fail", 0.039: "fail", 0.041: "pass", 0.5: "pass"}
    soon = latents(rates, 96)
    assert {b: status_of(soon, Threshold("dense_latents", max=b)) for b in at} == at
    near = np.concatenate([np.full(8, 0.2), np.full(192, 0.0999)])
    assert stands(latents(near, 96), Threshold("dense_latents", max=0.041), RULE, 1) is None
    unknown = dataclasses.replace(latents(rates, 96), spread=None)
    assert stands(unknown, Threshold("dense_latents", max=0.5), RULE, 1) is None


def test_dead_latents_can_only_become_fewer() -> None:
    rates = np.concatenate([np.zeros(10), np.full(90, 0.01)])
    assert stands(latents(rates, 40), Threshold("dead_latents", max=0.05), RULE, 1) is None
    kept = stands(latents(rates, 40), Threshold("dead_latents", max=0.1), RULE, 1)
    assert kept is not None
    assert kept.status == "pass"


def test_what_has_to_be_kept_for_it() -> None:
    assert not needs_mean([Threshold("kl", max=1), Threshold("reconstruction_score", min=0)])
    assert needs_mean([Threshold("fvu", max=1)])
    assert needs_mean([Threshold("reconstruction_score[mean]", min=0)])
    assert needs_spread([Threshold("dense_latents", max=0.1)])
    assert not needs_spread([Threshold("dead_latents", max=0.1), Threshold("kl", max=1)])
