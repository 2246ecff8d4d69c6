"""Quantiles, worst sequences and slices, by loops over single tokens."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from sae_guard.core.measurement import TOKEN_COLUMNS, Measurement, Provenance, TokenTable
from sae_guard.core.metrics import COLUMNS, METRICS
from sae_guard.core.statistics import quantile_interval
from sae_guard.core.targets import QUANTILE, WORST, Slice, Target, estimate, level
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import judge
from sae_guard.errors import SetupError, UndefinedMetricError


def measured(table: TokenTable) -> Measurement:
    n = len(table.scored)
    sums = {name: np.ones(n) for name in COLUMNS}
    sums |= table.sums(np.ones_like(table.scored))
    provenance = Provenance(
        model={}, checkpoint={}, corpus={"n_sequences": n}, hook="h", mean_sha256="",
        formula_versions={}, versions={}, device="cpu",
    )  # fmt: skip
    firings, sources = np.zeros(4, dtype=np.int64), tuple(SOURCES[row % 3] for row in range(n))
    return Measurement(np.arange(n), sums, firings, provenance, table, sources)


SOURCES = ("arxiv/1.txt", "arxiv/2.txt", "books.txt")
"""Sources of the sequences, in turn."""


@st.composite
def tables(draw: st.DrawFn) -> TokenTable:
    """Each sequence has a scored token."""
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 6)))
    scored = draw(npst.arrays(np.bool_, shape))
    scored[:, 0] = True
    values = st.floats(0.0, 8.0, width=32)
    columns = {
        name: np.where(scored, draw(npst.arrays(np.float32, shape, elements=values)), 0)
        for name in TOKEN_COLUMNS
    }
    columns["ce_zero"] = columns["ce_zero"] + np.float32(20)
    return TokenTable(scored, {k: v.astype(np.float32) for k, v in columns.items()})


def tokens_in(table: TokenTable, part: Slice | None) -> list[tuple[int, int]]:
    """(sequence, position) of the scored tokens of a slice."""
    places = []
    for row, position in zip(*table.scored.nonzero(), strict=True):
        by = position
        if part is not None and part.by == "entropy":
            by = table.columns["entropy"][row, position]
        if part is not None and part.by == "source":
            by = 1.0 if fnmatchcase(SOURCES[row % 3], part.glob) else math.nan
        if part is None or part.low <= by < part.high:
            places.append((int(row), int(position)))
    return places


slices = (
    st.none()
    | st.builds(
        Slice,
        by=st.sampled_from(["position", "entropy"]),
        low=st.sampled_from([0.0, 1.0, 2.0]),
        high=st.sampled_from([3.0, 5.0, math.inf]),
    )
    | st.builds(Slice, by=st.just("source"), glob=st.sampled_from(["arxiv*", "*[12].txt", "b*"]))
)


@given(tables(), slices, st.sampled_from(["kl", "ce_increase", "cosine", "l0", "mse"]),
       st.sampled_from(["p50", "p1", "p99", "p99.9"]))  # fmt: skip
def test_a_quantile_is_the_inverse_empirical_distribution(
    table: TokenTable, part: Slice | None, name: str, statistic: str
) -> None:
    places, share = tokens_in(table, part), level(statistic)
    assert share is not None
    values = sorted(
        sum(f * float(table.columns[c][at]) for c, f in METRICS[name].numerator.items())
        for at in places
    )
    target = Target(name, statistic, part)
    if not values:
        why = "no (token of the slice is scored|sequence comes from this source)"
        with pytest.raises(UndefinedMetricError, match=why):
            estimate(measured(table), target)
        return
    result = estimate(measured(table), target)
    enough = [v for v in values if sum(w <= v for w in values) >= share * len(values) - 1e-9]
    assert result.value == pytest.approx(enough[0], abs=1e-12)
    assert result.n_tokens == len(values)
    if result.low is not None and result.high is not None:
        assert result.low <= result.value <= result.high


@given(tables(), slices, st.sampled_from(["kl", "ce_increase", "l0", "cosine"]))
def test_the_mean_of_a_slice_is_over_its_tokens(
    table: TokenTable, part: Slice | None, name: str
) -> None:
    places = tokens_in(table, part)
    if not places:
        return
    values = [
        sum(f * float(table.columns[c][at]) for c, f in METRICS[name].numerator.items())
        for at in places
    ]
    result = estimate(measured(table), Target(name, slice=part))
    assert result.value == pytest.approx(float(np.mean(values)), abs=1e-6)
    assert result.n_sequences == len({row for row, _ in places})


@given(tables(), st.sampled_from(["fvu", "explained_variance", "reconstruction_score", "kl"]))
def test_a_slice_by_source_equals_a_measurement_of_its_sequences(
    table: TokenTable, name: str
) -> None:
    """The mean activation stays that of all: the deviations from it are those of the sequences."""
    full, part = measured(table), Slice("source", glob="arxiv*")
    rows = np.array([row % 3 < 2 for row in range(full.n_sequences)])
    subset = replace(
        full, sequences=np.arange(rows.sum()), tokens=None, sources=(),
        sums={column: values[rows] for column, values in full.sums.items()},
        provenance=replace(full.provenance, corpus={"n_sequences": int(rows.sum())}),
    )  # fmt: skip
    bare = replace(full, tokens=None)  # which it does without
    assert estimate(bare, Target(name, slice=part)) == subset.estimate(name)
    assert (
        estimate(bare, Target(name, WORST, part)).value
        == estimate(subset, Target(name, WORST)).value
    )


def test_an_unmatched_source_is_an_error_that_lists_the_sources() -> None:
    table = TokenTable(
        np.ones((4, 2), dtype=np.bool_),
        {name: np.ones((4, 2), dtype=np.float32) for name in TOKEN_COLUMNS},
    )
    full = measured(table)
    for name in ("kl", "kl.p50", "kl.worst_sequence"):
        verdict = judge(full, Threshold(f"{name}@source=arxiv", max=9.0))
        assert (verdict.status, verdict.cause) == ("error", "setup")
        assert verdict.message == (
            "source=arxiv: no sequence comes from this source; "
            "did you mean arxiv/2.txt or arxiv/1.txt? allowed: arxiv/1.txt, arxiv/2.txt, books.txt"
        )
    nameless = replace(full, sources=())
    verdict = judge(nameless, Threshold("kl@source=*", max=9.0))
    assert verdict.message == "source=*: the sources of the sequences are unknown"


@given(tables())
def test_disjoint_slices_add_up_to_the_mean(table: TokenTable) -> None:
    full = measured(table)
    parts = [Slice("position", 0, 2), Slice("position", 2, 3), Slice("position", 3)]
    total = tokens = 0.0
    for part in parts:
        if not tokens_in(table, part):
            continue
        result = estimate(full, Target("kl", slice=part))
        total += result.value * result.n_tokens
        tokens += result.n_tokens
    assert tokens == full.n_tokens
    assert total / tokens == pytest.approx(full["kl"], abs=1e-6)


@given(tables())
def test_the_worst_sequence_is_the_extreme_ratio(table: TokenTable) -> None:
    full = measured(table)
    means = full.sums["kl"] / full.sums["n_tokens"]
    assert estimate(full, Target("kl", WORST)).value == means.max()
    scores = (full.sums["ce_zero"] - full.sums["ce_patched"]) / (
        full.sums["ce_zero"] - full.sums["ce_clean"]
    )
    assert estimate(full, Target("reconstruction_score", WORST)).value == scores.min()
    assert estimate(full, Target("kl", WORST)).low is None


@given(tables(), st.sampled_from(["p50", WORST, "mean"]), st.sampled_from([math.nan, math.inf]))
def test_a_target_that_is_not_finite_is_undefined(
    table: TokenTable, statistic: str, bad: float
) -> None:
    kl = table.columns["kl"].copy()
    kl[0, 0] = bad
    broken = measured(TokenTable(table.scored, {**table.columns, "kl": kl}))
    target = Target("kl", statistic, Slice("position", 0, 1))
    for variant in (target, replace(target, slice=None)):
        assert judge(broken, Threshold(variant, max=1e9)).status == "error"


def test_without_a_token_table_a_quantile_is_undefined() -> None:
    table = TokenTable(
        np.ones((2, 3), dtype=np.bool_),
        {name: np.ones((2, 3), dtype=np.float32) for name in TOKEN_COLUMNS},
    )
    bare = replace(measured(table), tokens=None)
    for target in (Target("kl", "p99"), Target("kl", slice=Slice("position", 0, 2))):
        with pytest.raises(UndefinedMetricError, match="values of single tokens were not kept"):
            estimate(bare, target)
    assert estimate(bare, Target("kl", WORST)).value == 1.0
    missing = replace(
        measured(table), sequences=np.arange(1), tokens=None, sources=(),
        sums={name: column[:1] for name, column in measured(table).sums.items()},
    )  # fmt: skip
    with pytest.raises(UndefinedMetricError, match="1 of the 2 sequences"):
        estimate(missing, Target("kl", WORST))


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (Target("kl", "p100"), "no statistic 'p100'; allowed: mean, p50, p99 and such, worst_seq"),
        (Target("kl", "p0"), "no statistic"),
        (Target("kl", "median"), "no statistic"),
        (Target("reconstruction_score", "p99"), "has no value for a single token"),
        (Target("explained_variance", slice=Slice("position", 0, 2)), "needs the mean activation"),
        (
            Target("explained_variance", "p50", Slice("source", glob="a")),
            "has no value for a single token",
        ),
        (Target("dead_latents", slice=Slice("source", glob="a")), "counts latents over all tokens"),
        (Target("dead_latents", WORST), "counts latents over all tokens"),
        (Target("l0", WORST), "bounded on both sides"),
    ],
)
def test_impossible_targets_have_a_problem(target: Target, why: str) -> None:
    assert why in (target.problem() or "")


@pytest.mark.parametrize(
    "target",
    [
        Target("kl"), Target("kl", "p99"), Target("kl", "p99.9", Slice("entropy", 1)),
        Target("explained_variance", WORST), Target("reconstruction_score", WORST),
        Target("reconstruction_score", slice=Slice("position", 0, 8)), Target("dead_latents"),
        Target("fvu", slice=Slice("source", glob="a")), Target("fvu", change=True),
        Target("kl", "p50", Slice("source", glob="a")), Target("kl", "p50", change=True),
        Target("fvu", WORST, Slice("source", glob="a")),
    ],
)  # fmt: skip
def test_possible_targets_have_no_problem(target: Target) -> None:
    assert target.problem() is None


def test_an_unknown_metric_suggests_a_near_name() -> None:
    with pytest.raises(SetupError, match="did you mean kl"):
        Target("kll", "p99").problem()


def test_names_of_targets() -> None:
    assert str(Target("kl")) == "kl"
    assert str(Target("kl", "p99", Slice("position", 0, 8))) == "kl.p99@position=0..8"
    assert str(Target("kl", slice=Slice("entropy", 2.5))) == "kl@entropy=2.5.."
    assert str(Target("kl", slice=Slice("source", glob="arxiv*"))) == "kl@source=arxiv*"
    assert Target.parse("kl.p99.9") == Target("kl", "p99.9")


def clustered(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Token values of sequences that are alike within."""
    values: NDArray[np.float64] = rng.lognormal(rng.normal(0, 0.5, (n, 1)), 1.0, (n, 32))
    return values


def test_the_interval_of_a_quantile_has_its_coverage() -> None:
    rng = np.random.default_rng(0)
    truth = float(np.quantile(clustered(rng, 40_000), 0.9))
    hits, runs = 0, 400
    for _ in range(runs):
        values = clustered(rng, 100)
        value = np.quantile(values, 0.9, method="inverted_cdf")
        counts: Any = (values <= value).sum(axis=1).astype(float)
        low, high = quantile_interval(values.ravel(), 0.9, counts, np.full(100, 32.0)) or (1, 0)
        hits += low <= truth <= high
    assert 0.91 <= hits / runs <= 0.98


bounds = st.sampled_from([0.0, 8.0, 1e6, 12_345_678.0, 2.0**53, 1e16, 1e300]) | st.floats(
    0, allow_infinity=False
)
globs = st.sampled_from(["arxiv/*=@.txt", "a.change", "b@source=c", "position=0..8"]) | st.text()
any_slices = st.builds(Slice, st.just("source"), glob=globs) | st.builds(
    Slice, st.sampled_from(["position", "entropy"]), bounds, bounds | st.just(math.inf)
)
any_targets = st.builds(
    Target,
    st.sampled_from(sorted(METRICS)),
    st.sampled_from(["mean", WORST, "p1", "p99", "p99.9"])
    | st.from_regex(QUANTILE, fullmatch=True),
    st.none() | any_slices,
    st.booleans(),
)


@given(any_targets)
@example(Target("kl", "p99", Slice("position", 0, 8), change=True))
@example(Target("ce_increase", WORST, Slice("source", glob="arxiv/*=@.txt")))
def test_a_target_is_read_back_from_its_text(target: Target) -> None:
    assert Target.parse(str(target)) == target


@given(st.sets(any_targets, min_size=2))
def test_different_targets_have_different_texts(targets: set[Target]) -> None:
    assert len(set(map(str, targets))) == len(targets)


@given(bounds.filter(lambda bound: bound < 1e300), st.sampled_from(["position", "entropy"]))
@example(2.5, "entropy")
@example(1_234_567.0, "position")
def test_bounds_that_are_a_hair_apart_have_different_texts(bound: float, by: Any) -> None:
    adjacent = math.nextafter(bound, math.inf)
    assert str(Slice(by, bound)) != str(Slice(by, adjacent))
    assert str(Slice(by, 0.0, bound)) != str(Slice(by, 0.0, adjacent))


@given(any_slices)
def test_the_float_type_of_a_slice_bound_does_not_change_its_text(part: Slice) -> None:
    assert str(replace(part, low=np.float64(part.low), high=np.float64(part.high))) == str(part)
    if part.low.is_integer():
        assert str(replace(part, low=int(part.low))) == str(part)


@pytest.mark.parametrize("target", [Target(name) for name in METRICS], ids=str)
def test_the_name_of_a_metric_is_the_text_of_its_mean(target: Target) -> None:
    assert str(target) == target.metric
    assert target.whole
    assert Target.parse(str(target)) == Target.parse(f"{target.metric}.mean") == target


@pytest.mark.parametrize("text", ["kl.p0", "kl.median", "l0.worst", "kl.p0.change", "kl.p99.9.9"])
def test_an_unknown_statistic_is_parsed_and_has_a_problem(text: str) -> None:
    target = Target.parse(text)
    assert str(target) == text
    assert "no statistic" in (target.problem() or "")


@pytest.mark.parametrize("text", ["kl@colour=1..2", "kl@position=a..b", "kl@entropy", "kl@8..9"])
def test_a_malformed_slice_is_not_parsed(text: str) -> None:
    with pytest.raises(ValueError, match=r"slice|convert"):
        Target.parse(text)


def test_an_unknown_metric_is_parsed_and_has_no_definition() -> None:
    target = Target.parse("kll.p99.change@position=0..8")
    assert target == Target("kll", "p99", Slice("position", 0, 8), change=True)
    with pytest.raises(SetupError, match="unknown metric 'kll'"):
        target.problem()


def test_itself_is_the_target_without_the_change() -> None:
    changed = Target.parse("kl.p99.change@entropy=2.5..")
    assert changed.itself == Target("kl", "p99", Slice("entropy", 2.5))
    assert changed.itself.itself == changed.itself
    assert changed.problem() is None
    assert not Target("kl", change=True).whole


def test_pydantic_models_hold_a_target_as_text() -> None:
    adapter, target = TypeAdapter(Target), Target("kl", "p99", Slice("position", 0, 8), change=True)
    assert adapter.dump_json(target) == b'"kl.p99.change@position=0..8"'
    assert (
        adapter.validate_json(adapter.dump_json(target))
        == adapter.validate_python(target)
        == target
    )
    assert adapter.json_schema() == {"type": "string"}
    with pytest.raises(ValidationError, match="no slice"):
        adapter.validate_python("kl@colour=1..2")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (3, "3 is not a text"),
        (None, "None is not a text"),
        (["kl"], "is not a text"),
        ("kll", "unknown metric 'kll'; did you mean kl"),
        ("kl.median", "kl.median: no statistic 'median'"),
        ("kl@position=a..b", "could not convert"),
    ],
)
def test_pydantic_models_refuse_an_impossible_target(value: object, why: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(why)):
        TypeAdapter(Target).validate_python(value)
