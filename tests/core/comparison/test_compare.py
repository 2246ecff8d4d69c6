"""Comparisons of two versions: every number against its definition, and the refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import sae_guard
from sae_guard.core.comparison import Comparison, NotComparableError, Version, compare
from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.core.statistics.paired import Sums, move
from sae_guard.core.targets import Target, terms
from sae_guard.errors import SetupError, UndefinedMetricError
from sae_guard.testing import measurements
from tests.helpers.changed_measurements import OTHERS, scaled, with_provenance
from tests.helpers.recorded import ordinary, tokenwise


def first(measurement: Measurement, n: int) -> Measurement:
    """The first sequences, as if they were all."""
    return replace(
        measurement,
        sequences=measurement.sequences[:n],
        sums={name: column[:n] for name, column in measurement.sums.items()},
        provenance=replace(
            measurement.provenance, corpus={"sha256": "0" * 64, "n_sequences": n}
        ),
    )  # fmt: skip


@given(measurements(), measurements())
def test_every_metric_is_compared_as_a_ratio_or_has_a_reason(
    before: Measurement, other: Measurement
) -> None:
    n = min(before.n_sequences, other.n_sequences)
    before, other = first(before, n), first(other, n)
    # The same tokens and clean model, and of the SAE whatever the other has.
    shared = {name: before.sums[name] for name in ("n_tokens", "ce_clean")}
    after = replace(other, sums={**other.sums, **shared})
    comparison = compare(before, after, confidence=0.9)
    assert {
        result.metric for result in comparison.metrics
    } | comparison.undefined.keys() == METRICS.keys()
    for result in comparison.metrics:
        was, now = before.estimate(result.metric), after.estimate(result.metric)
        assert (result.before.value, result.after.value) == (was.value, now.value)
        assert result.difference == now.value - was.value
        if METRICS[result.metric].firing_above is not None:
            assert (result.low, result.high, result.p_value, result.outcome) == (None,) * 4
            continue
        target = Target(result.metric)
        rows = [Sums(*terms(m, target), v.value) for m, v in ((before, was), (after, now))]
        expected = move(*rows, confidence=0.9)
        assert (result.low, result.high, result.p_value) == (
            expected.low,
            expected.high,
            expected.p_value,
        )
    for name in comparison.undefined:
        with pytest.raises(UndefinedMetricError):
            _ = before.estimate(name), after.estimate(name)
    assert (comparison.verdict is None) == bool(comparison.no_verdict)


@pytest.mark.parametrize(
    ("factors", "verdict"),
    [
        ({}, "same"),
        ({"kl": 1.3}, "dominated"),
        ({"kl": 0.7}, "dominates"),
        ({"l0": 0.7}, "dominates"),
        ({"l0": 1.3}, "dominated"),
        ({"kl": 0.7, "l0": 1.3}, "trade-off"),
        ({"kl": 1.3, "l0": 0.7}, "trade-off"),
        ({"kl": 1.3, "l0": 1.3}, "dominated"),
        ({"kl": 0.7, "l0": 0.7}, "dominates"),
    ],
)
def test_the_verdict_combines_kl_and_l0(factors: dict[str, float], verdict: str) -> None:
    assert compare(ordinary(), scaled(ordinary(), **factors)).verdict == verdict


def test_quality_margin_and_alpha_change_the_verdict() -> None:
    before, after = ordinary(), scaled(ordinary(), ce_patched=1.1, kl=0.9)
    assert compare(before, after).verdict == "dominates"
    comparison = compare(before, after, quality="reconstruction_score")
    assert (comparison.verdict, comparison.quality) == ("dominated", "reconstruction_score")
    assert compare(before, after, margin=0.2).verdict == "same"
    # p of a move of 10 % that is uneven by 1 % is far below any alpha but this.
    assert compare(before, after, alpha=1e-12).verdict == "same"


def test_one_sequence_gives_no_verdict_unless_nothing_changed() -> None:
    one = ordinary(n=1, of=1)
    more = replace(one, sums={**one.sums, "kl": one.sums["kl"] * 2})
    comparison = compare(one, more)
    assert comparison.verdict is None
    assert comparison.no_verdict == "kl cannot be tested: one sequence has no variance"
    assert (comparison["kl"].p_value, comparison["kl"].low, comparison["kl"].variance_ratio) == (
        None,
        None,
        None,
    )
    assert compare(one, one).verdict == "same"


def test_bare_measurements_are_named_before_and_after() -> None:
    comparison = compare(Version("v1", ordinary()), Version("v2", ordinary()))
    assert (comparison.before, comparison.after) == ("v1", "v2")
    plain = sae_guard.compare(ordinary(), ordinary())
    assert isinstance(plain, Comparison)
    assert (plain.before, plain.after) == ("before", "after")
    assert (plain.n_tokens, plain.n_sequences, plain.tokens_sha256) == (800, 8, "2" * 64)
    with pytest.raises(KeyError):
        _ = plain["none"]


def test_single_tokens_come_from_the_measurement_or_the_version() -> None:
    a, b = tokenwise(ordinary()), tokenwise(ordinary(), 1)
    expected = compare(a, b).tokens
    assert (len(expected.worse), len(expected.better)) == (5, 5)
    read = [Version(n, replace(m, tokens=None), m.token_kl) for n, m in (("v1", a), ("v2", b))]
    assert compare(*read).tokens == expected
    without = compare(Version("v1", replace(a, tokens=None)), b)
    assert without.no_tokens == "no values of single tokens are known of v1"
    assert (without.tokens.worse, without.tokens.better) == ((), ())
    assert without.sequences == compare(a, b).sequences
    assert compare(replace(a, tokens=None), b, tokens=0).no_tokens == ""


def test_a_metric_undefined_in_one_version_names_the_version() -> None:
    broken = replace(ordinary(), sums={**ordinary().sums, "sq_error": np.full(8, np.nan)})
    comparison = compare(Version("v1", ordinary()), Version("v2", broken))
    assert comparison.undefined["mse"].startswith("v2: mse = E_tokens")
    assert comparison.verdict == "same"
    both = compare(Version("v1", broken), Version("v1", broken))
    assert both.undefined["mse"].startswith("mse = E_tokens")
    assert both.undefined["kl_vs_random_error"].startswith("kl_vs_random_error was not measured")


@pytest.mark.parametrize("name", ["kl", "l0"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_give_no_verdict(name: str, value: float) -> None:
    broken = replace(ordinary(), sums={**ordinary().sums, name: np.full(8, value)})
    for pair in ((ordinary(), broken), (broken, ordinary()), (broken, broken)):
        comparison = compare(*pair)
        assert comparison.verdict is None
        assert comparison.no_verdict.startswith(f"{name} cannot be compared: ")
        assert name in comparison.undefined
        if name == "kl":
            assert (comparison.sequences.worse, comparison.sequences.better) == ((), ())
            assert comparison.no_tokens == comparison.no_verdict


@pytest.mark.parametrize("case", sorted(OTHERS.keys() - {"formula"}))
def test_other_differences_refuse_the_whole_comparison(case: str) -> None:
    parts, expected = OTHERS[case]
    with pytest.raises(NotComparableError, match="v2 is not comparable with v1: ") as refused:
        compare(Version("v1", ordinary()), Version("v2", with_provenance(ordinary(), **parts)))
    assert any(reason.startswith(expected) for reason in refused.value.reasons)


def test_all_reasons_for_a_refusal_are_listed() -> None:
    other = with_provenance(ordinary(), hook="blocks.9.hook_resid_post", **OTHERS["tokens"][0])
    with pytest.raises(NotComparableError) as refused:
        compare(ordinary(), other)
    assert [reason.split()[0] for reason in refused.value.reasons] == ["hook", "sha256"]


def test_unhashed_tokens_other_models_and_missing_rows_are_refused() -> None:
    base = ordinary()
    unknown = with_provenance(base, corpus={"n_sequences": 8})
    with pytest.raises(NotComparableError, match="tokens without a sha256"):
        compare(unknown, unknown)
    revised = replace(base, sums={**base.sums, "ce_clean": base.sums["ce_clean"] * 1.01})
    with pytest.raises(NotComparableError, match="the clean model differs"):
        compare(base, revised)
    endless = replace(base, sums={**base.sums, "ce_clean": np.full(8, np.inf)})
    with pytest.raises(NotComparableError, match="the clean model differs"):
        compare(endless, endless)
    with pytest.raises(NotComparableError, match="8 sequences were measured and 4 are"):
        compare(base, ordinary(n=4))
    # Of the same rows of a larger set nothing is a metric.
    comparison = compare(ordinary(n=4), ordinary(n=4))
    assert comparison.no_verdict.startswith("kl cannot be compared: kl: 4 of the 8 sequences were")
    assert comparison.metrics == ()


@pytest.mark.parametrize(("name", "decisive"), [("kl", True), ("l0", True), ("cosine", False)])
def test_another_formula_version_refuses_only_its_metric(name: str, decisive: bool) -> None:
    versions = {**dict.fromkeys(METRICS, 1), name: 2}
    after = with_provenance(scaled(ordinary(), kl=2), formula_versions=versions)
    comparison = compare(ordinary(), after)
    assert comparison.refused == {name: f"the formula version of {name} was 1 and is 2"}
    assert name not in {result.metric for result in comparison.metrics}
    assert (comparison.verdict is None) == decisive
    assert (comparison.sequences.worse == ()) == (name == "kl")


def test_another_device_and_equal_checkpoints_are_noted() -> None:
    noted = compare(ordinary(), with_provenance(ordinary(), device="cuda:1")).noted
    assert noted == ("both are the same files of a checkpoint", "device was cpu and is cuda")
    other = {"files": {"sae.safetensors": "9" * 64}}
    assert compare(ordinary(), with_provenance(ordinary(), checkpoint=other)).noted == ()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"quality": "l0"}, "quality is 'l0'"),
        ({"quality": "dead_latents"}, "quality is 'dead_latents'"),
        ({"quality": "cosin"}, "did you mean cosine"),
        ({"alpha": 0.0}, "alpha is 0.0, allowed: above 0 and below 0.5"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"confidence": 95}, "confidence is 95, allowed: above 0.5 and below 1"),
        ({"margin": 1.0}, "margin is 1.0, allowed: from 0 and below 1"),
        ({"margin": float("nan")}, "margin is nan"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        compare(ordinary(), ordinary(), **wrong)
