"""Two versions on the same tokens: every number against its definition, and what is refused."""

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
def test_every_metric_is_compared_by_its_own_ratio_or_has_a_reason(
    before: Measurement, other: Measurement
) -> None:
    n = min(before.n_sequences, other.n_sequences)
    before, other = first(before, n), first(other, n)
    # The same tokens and clean model, and of the SAE whatever the other has.
    shared = {name: before.sums[name] for name in ("n_tokens", "ce_clean")}
    after = replace(other, sums={**other.sums, **shared})
    found = compare(before, after, confidence=0.9)
    assert {each.metric for each in found.metrics} | found.undefined.keys() == METRICS.keys()
    for each in found.metrics:
        was, now = before.estimate(each.metric), after.estimate(each.metric)
        assert (each.before.value, each.after.value) == (was.value, now.value)
        assert each.difference == now.value - was.value
        if METRICS[each.metric].firing_above is not None:
            assert (each.low, each.high, each.p_value, each.outcome) == (None,) * 4
            continue
        target = Target(each.metric)
        rows = [Sums(*terms(m, target), v.value) for m, v in ((before, was), (after, now))]
        moved = move(*rows, confidence=0.9)
        assert (each.low, each.high, each.p_value) == (moved.low, moved.high, moved.p_value)
    for name in found.undefined:
        with pytest.raises(UndefinedMetricError):
            _ = before.estimate(name), after.estimate(name)
    assert (found.verdict is None) == bool(found.no_verdict)


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
def test_the_verdict_is_of_kl_and_l0(factors: dict[str, float], verdict: str) -> None:
    assert compare(ordinary(), scaled(ordinary(), **factors)).verdict == verdict


def test_another_quality_and_the_margin_change_the_verdict() -> None:
    before, after = ordinary(), scaled(ordinary(), ce_patched=1.1, kl=0.9)
    assert compare(before, after).verdict == "dominates"
    found = compare(before, after, quality="reconstruction_score")
    assert (found.verdict, found.quality) == ("dominated", "reconstruction_score")
    assert compare(before, after, margin=0.2).verdict == "same"
    # p of a move of 10 % that is uneven by 1 % is far below any alpha but this.
    assert compare(before, after, alpha=1e-12).verdict == "same"


def test_on_one_sequence_there_is_no_verdict_but_that_nothing_moved() -> None:
    one = ordinary(n=1, of=1)
    more = replace(one, sums={**one.sums, "kl": one.sums["kl"] * 2})
    found = compare(one, more)
    assert found.verdict is None
    assert found.no_verdict == "kl cannot be tested: one sequence has no variance"
    assert (found["kl"].p_value, found["kl"].low, found["kl"].variance_ratio) == (None, None, None)
    assert compare(one, one).verdict == "same"


def test_versions_have_names_and_measurements_are_before_and_after() -> None:
    found = compare(Version("v1", ordinary()), Version("v2", ordinary()))
    assert (found.before, found.after) == ("v1", "v2")
    plain = sae_guard.compare(ordinary(), ordinary())
    assert isinstance(plain, Comparison)
    assert (plain.before, plain.after) == ("before", "after")
    assert (plain.n_tokens, plain.n_sequences, plain.tokens_sha256) == (800, 8, "2" * 64)
    with pytest.raises(KeyError):
        _ = plain["none"]


def test_single_tokens_come_from_the_measurement_or_from_beside_it() -> None:
    a, b = tokenwise(ordinary()), tokenwise(ordinary(), 1)
    whole = compare(a, b).tokens
    assert (len(whole.worse), len(whole.better)) == (5, 5)
    read = [Version(n, replace(m, tokens=None), m.token_kl) for n, m in (("v1", a), ("v2", b))]
    assert compare(*read).tokens == whole
    without = compare(Version("v1", replace(a, tokens=None)), b)
    assert without.no_tokens == "no values of single tokens are known of v1"
    assert (without.tokens.worse, without.tokens.better) == ((), ())
    assert without.sequences == compare(a, b).sequences
    assert compare(replace(a, tokens=None), b, tokens=0).no_tokens == ""


def test_a_number_that_is_undefined_in_one_says_of_which_version() -> None:
    broken = replace(ordinary(), sums={**ordinary().sums, "sq_error": np.full(8, np.nan)})
    found = compare(Version("v1", ordinary()), Version("v2", broken))
    assert found.undefined["mse"].startswith("v2: mse = E_tokens")
    assert found.verdict == "same"
    both = compare(Version("v1", broken), Version("v1", broken))
    assert both.undefined["mse"].startswith("mse = E_tokens")
    assert both.undefined["kl_vs_random_error"].startswith("kl_vs_random_error was not measured")


@pytest.mark.parametrize("name", ["kl", "l0"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nothing_is_said_of_a_verdict_on_what_is_not_finite(name: str, value: float) -> None:
    broken = replace(ordinary(), sums={**ordinary().sums, name: np.full(8, value)})
    for pair in ((ordinary(), broken), (broken, ordinary()), (broken, broken)):
        found = compare(*pair)
        assert found.verdict is None
        assert found.no_verdict.startswith(f"{name} cannot be compared: ")
        assert name in found.undefined
        if name == "kl":
            assert (found.sequences.worse, found.sequences.better) == ((), ())
            assert found.no_tokens == found.no_verdict


@pytest.mark.parametrize("case", sorted(OTHERS.keys() - {"formula"}))
def test_what_is_of_other_things_is_refused_as_a_whole(case: str) -> None:
    parts, said = OTHERS[case]
    with pytest.raises(NotComparableError, match="v2 is not comparable with v1: ") as refused:
        compare(Version("v1", ordinary()), Version("v2", with_provenance(ordinary(), **parts)))
    assert any(reason.startswith(said) for reason in refused.value.reasons)


def test_all_reasons_are_listed() -> None:
    other = with_provenance(ordinary(), hook="blocks.9.hook_resid_post", **OTHERS["tokens"][0])
    with pytest.raises(NotComparableError) as refused:
        compare(ordinary(), other)
    assert [reason.split()[0] for reason in refused.value.reasons] == ["hook", "sha256"]


def test_tokens_without_a_hash_another_clean_model_and_missing_rows_are_refused() -> None:
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
    found = compare(ordinary(n=4), ordinary(n=4))
    assert found.no_verdict.startswith("kl cannot be compared: kl: 4 of the 8 sequences were")
    assert found.metrics == ()


@pytest.mark.parametrize(("name", "told"), [("kl", True), ("l0", True), ("cosine", False)])
def test_another_formula_refuses_that_metric_and_the_verdict_only_on_it(
    name: str, told: bool
) -> None:
    versions = {**dict.fromkeys(METRICS, 1), name: 2}
    after = with_provenance(scaled(ordinary(), kl=2), formula_versions=versions)
    found = compare(ordinary(), after)
    assert found.refused == {name: f"the formula version of {name} was 1 and is 2"}
    assert name not in {each.metric for each in found.metrics}
    assert (found.verdict is None) == told
    assert (found.sequences.worse == ()) == (name == "kl")


def test_what_may_move_numbers_a_little_is_noted() -> None:
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
def test_wrong_numbers_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        compare(ordinary(), ordinary(), **wrong)
