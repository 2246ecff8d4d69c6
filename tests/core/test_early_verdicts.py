"""Early verdicts agree with the final ones, and wait where they could not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sae_guard.core.early_verdicts import Early, early_verdict, needs_mean, needs_spread
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
    """Return the first n rows; they are in random order."""
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
    """Return the status of the early verdict in a gate of one bound; None without a verdict."""
    verdict = early_verdict(measurement, threshold, RULE, 1)
    return verdict.status if verdict else None


TARGETS = [
    Target("kl"), Target("ce_increase"), Target("reconstruction_score"), Target("l0"),
    Target("explained_variance"), Target("fvu"), Target("cosine"), Target("kl", "p50"),
    Target("kl", "p90"), Target("kl", slice=Slice("position", 0, 5)),
    Target("kl", slice=Slice("entropy", 2)),
]  # fmt: skip


def bounded(measurement: Measurement, target: Target, margin: float, *, is_kept: bool) -> Threshold:
    """Return a threshold whose bound is a relative ``margin`` away from the value."""
    definition = METRICS[target.metric]
    side = definition.sides[0]
    loose = Threshold(target, **{side: 0.0})  # type: ignore[arg-type]
    estimate = judge(measurement, loose).estimate
    assert estimate is not None
    away = margin * (abs(estimate.value - definition.tail_from) or 1)
    up = (side == "max") == is_kept
    return Threshold(target, **{side: estimate.value + (away if up else -away)})  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("is_kept", [True, False])
def test_a_wide_margin_gives_the_final_verdict_early(target: Target, is_kept: bool) -> None:
    for seed in range(3):
        measurement = drawn(seed)
        threshold = bounded(measurement, target, 0.6, is_kept=is_kept)
        final = judge(measurement, threshold)
        early = Early([threshold], RULE)
        for prefix in prefixes(measurement):
            if early.look(prefix):
                break
        verdict = early.verdicts[threshold]
        assert verdict.status == final.status == ("pass" if is_kept else "fail")
        progress = verdict.progress
        assert progress is not None
        assert 64 <= progress.measured < progress.total == TOTAL
        assert (progress.measured, progress.alpha) == (prefix.n_sequences, RULE.alpha)


@given(st.integers(0, 10**6), st.sampled_from(TARGETS), st.booleans())
def test_no_verdict_before_the_minimum_of_sequences(
    seed: int, target: Target, is_kept: bool
) -> None:
    measurement = drawn(seed % 5)
    threshold = bounded(measurement, target, 5.0, is_kept=is_kept)
    n = 2 + seed % 62
    assert early_verdict(first(measurement, n), threshold, RULE, 1) is None


def test_no_early_verdict_on_the_bound_or_within_noise_of_it() -> None:
    """TopK SAEs have the same L0 on every token: there is no spread to wait for."""
    measurement = drawn(0)
    constant = {**measurement.sums, "l0": np.full(TOTAL, 16.0 * TOKENS)}
    measurement = dataclasses.replace(measurement, sums=constant)
    soon = first(measurement, 96)
    at = {16.0: None, 16.0 * (1 - 1e-7): None, 24.0: "pass", 15.9: "fail"}
    assert {bound: status_of(soon, Threshold("l0", max=bound)) for bound in at} == at


def test_an_unseen_heavy_tail_delays_a_pass_and_not_a_fail() -> None:
    """The fail of l0 ≥ 10 is delayed instead: an unseen dense sequence could undo it."""
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


def test_the_known_deviation_of_the_whole_set_is_used() -> None:
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
        verdict = early_verdict(soon, threshold, RULE, 1)
        assert verdict is not None
        assert verdict.status == status == judge(measurement, threshold).status
        assert verdict.estimate is not None
        assert threshold.allows(verdict.estimate.value) is (status == "pass")
        unknown = dataclasses.replace(soon, whole_sq_deviation=None)
        assert early_verdict(unknown, threshold, RULE, 1) is None


def test_warn_is_an_early_verdict() -> None:
    measurement = drawn(2)
    value = measurement["kl"]
    cases: dict[Status, Threshold] = {
        "pass": Threshold("kl", max=3 * value, warn_max=2 * value),
        "warn": Threshold("kl", max=3 * value, warn_max=value / 2),
        "fail": Threshold("kl", max=value / 2, warn_max=value / 3),
    }
    for status, threshold in cases.items():
        verdict = early_verdict(first(measurement, 300), threshold, RULE, 2)
        assert verdict is not None
        assert verdict.status == status == judge(measurement, threshold).status


def test_a_second_threshold_never_turns_a_fail_into_a_pass() -> None:
    measurement = drawn(3)
    bad = bounded(measurement, Target("kl"), 0.5, is_kept=False)
    passing = [
        bounded(measurement, Target(name), 0.8, is_kept=True) for name in ("l0", "fvu", "cosine")
    ]
    for n in range(4):
        early = Early([bad, *passing[:n]], RULE)
        for prefix in prefixes(measurement):
            early.look(prefix)
        assert early.verdicts[bad].status == "fail"


def test_an_early_verdict_is_final() -> None:
    measurement = drawn(4)
    threshold = bounded(measurement, Target("kl"), 0.8, is_kept=True)
    early = Early([threshold], RULE)
    assert early.look(first(measurement, 256))
    before = early.verdicts[threshold]
    worse = {**measurement.sums, "kl": measurement.sums["kl"] * 100}
    assert early.look(first(dataclasses.replace(measurement, sums=worse), 300))
    assert early.verdicts[threshold] is before


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_sums_that_are_not_finite_are_an_error_at_once(bad: float) -> None:
    measurement = drawn(5)
    kl = measurement.sums["kl"].copy()
    kl[1] = bad
    broken = first(dataclasses.replace(measurement, sums={**measurement.sums, "kl": kl}), 10)
    verdict = early_verdict(broken, Threshold("kl", max=1.0), RULE, 1)
    assert verdict is not None
    assert (verdict.status, verdict.cause) == ("error", "load")
    assert early_verdict(broken, Threshold("l0", max=1e9), RULE, 1) is None


def test_a_missing_column_waits_for_the_final_error() -> None:
    measurement = drawn(6)
    assert status_of(first(measurement, 200), Threshold("kl_vs_random_error", max=2.0)) is None
    assert judge(measurement, Threshold("kl_vs_random_error", max=2.0)).status == "error"


def test_an_uncertain_denominator_waits() -> None:
    measurement = drawn(6)
    generator = np.random.default_rng(0)
    zero = measurement.sums["ce_clean"] + generator.standard_normal(TOTAL)
    measurement = dataclasses.replace(measurement, sums={**measurement.sums, "ce_zero": zero})
    threshold = Threshold("reconstruction_score", min=-1e3)
    assert early_verdict(first(measurement, 380), threshold, RULE, 1) is None


def test_confidence_and_a_kept_worst_sequence_wait_for_the_end() -> None:
    measurement = drawn(7)
    soon = first(measurement, 380)
    assert early_verdict(soon, Threshold("kl", max=10.0, confidence=0.99), RULE, 1) is None
    assert early_verdict(soon, Threshold("kl.worst_sequence", max=10.0), RULE, 1) is None
    crossed = early_verdict(first(measurement, 3), Threshold("kl.worst_sequence", max=0.0), RULE, 1)
    assert crossed is not None
    assert crossed.status == "fail"


def latents(rates: NDArray[np.float64], n: int, total: int = TOTAL) -> Measurement:
    """Return the first n rows, of 1,000 tokens each, of a set whose latents fire at these rates."""
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


def test_dense_latents_are_decided_by_those_that_are_certain() -> None:
    rates = np.concatenate([np.full(8, 0.2), np.full(192, 0.01)])
    at = {0.02: "fail", 0.039: "fail", 0.041: "pass", 0.5: "pass"}
    soon = latents(rates, 96)
    assert {b: status_of(soon, Threshold("dense_latents", max=b)) for b in at} == at
    ambiguous = np.concatenate([np.full(8, 0.2), np.full(192, 0.0999)])
    assert (
        early_verdict(latents(ambiguous, 96), Threshold("dense_latents", max=0.041), RULE, 1)
        is None
    )
    unknown = dataclasses.replace(latents(rates, 96), spread=None)
    assert early_verdict(unknown, Threshold("dense_latents", max=0.5), RULE, 1) is None


def test_a_share_of_dead_latents_within_the_bound_passes_early() -> None:
    rates = np.concatenate([np.zeros(10), np.full(90, 0.01)])
    assert early_verdict(latents(rates, 40), Threshold("dead_latents", max=0.05), RULE, 1) is None
    verdict = early_verdict(latents(rates, 40), Threshold("dead_latents", max=0.1), RULE, 1)
    assert verdict is not None
    assert verdict.status == "pass"


def test_thresholds_state_which_inputs_they_need() -> None:
    assert not needs_mean([Threshold("kl", max=1), Threshold("reconstruction_score", min=0)])
    assert needs_mean([Threshold("fvu", max=1)])
    assert needs_mean([Threshold("reconstruction_score[mean]", min=0)])
    assert needs_spread([Threshold("dense_latents", max=0.1)])
    assert not needs_spread([Threshold("dead_latents", max=0.1), Threshold("kl", max=1)])
