"""The table of sums: metrics by slow definitions, what none may depend on, texts by place."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae_guard.core.measurement import Around, Excerpts, Measurement
from sae_guard.core.metrics import COLUMNS, METRICS
from sae_guard.errors import InfrastructureError, SetupError, UndefinedMetricError
from sae_guard.gate.measurement_file import load, save
from sae_guard.testing import measurements

RATIOS = [name for name, metric in METRICS.items() if metric.firing_above is None]


def changed(m: Measurement, **columns: object) -> Measurement:
    """The measurement with some columns replaced."""
    sums = {k: np.asarray(columns.get(k, v), dtype=np.float64) for k, v in m.sums.items()}
    return dataclasses.replace(m, sums=sums)


def rows(m: Measurement, chosen: list[int]) -> Measurement:
    """Some rows of the measurement, as a worker would have measured them."""
    index = np.array(chosen, dtype=np.int64)
    return dataclasses.replace(
        m,
        sequences=m.sequences[index],
        sums={name: column[index] for name, column in m.sums.items()},
        firings=m.firings if 0 in chosen else np.zeros_like(m.firings),
    )


def slow_value(m: Measurement, name: str) -> float:
    """DESIGN §4, written out a second time over Python floats."""
    s = {column: math.fsum(values.tolist()) for column, values in m.sums.items()}
    n = s["n_tokens"]
    return {
        "kl": s["kl"] / n,
        "kl_random_error": s["kl_random_error"] / n,
        "kl_vs_random_error": s["kl"] / s["kl_random_error"],
        "ce_clean": s["ce_clean"] / n,
        "ce_patched": s["ce_patched"] / n,
        "ce_zero": s["ce_zero"] / n,
        "ce_mean": s["ce_mean"] / n,
        "ce_increase": s["ce_patched"] / n - s["ce_clean"] / n,
        "reconstruction_score": (s["ce_zero"] - s["ce_patched"]) / (s["ce_zero"] - s["ce_clean"]),
        "reconstruction_score[mean]": (s["ce_mean"] - s["ce_patched"])
        / (s["ce_mean"] - s["ce_clean"]),
        "l0": s["l0"] / n,
        "l1": s["l1"] / n,
        "mse": s["sq_error"] / n,
        "fvu": s["sq_error"] / s["sq_deviation"],
        "explained_variance": 1 - s["sq_error"] / s["sq_deviation"],
        "cosine": s["cosine"] / n,
        "l2_ratio": s["l2_ratio"] / n,
    }[name]


@given(measurements(), st.sampled_from(RATIOS))
def test_every_ratio_metric_equals_its_slow_definition(m: Measurement, name: str) -> None:
    assert m[name] == pytest.approx(slow_value(m, name), rel=1e-9, abs=1e-9)


@given(measurements(min_sequences=2), st.sampled_from(RATIOS), st.randoms())
def test_no_metric_depends_on_row_order(m: Measurement, name: str, random: Random) -> None:
    order = list(range(m.n_sequences))
    random.shuffle(order)
    shuffled = changed(m, **{column: values[order] for column, values in m.sums.items()})
    assert shuffled[name] == pytest.approx(m[name], rel=1e-9, abs=1e-9)


@given(measurements())
def test_score_is_one_without_harm_and_zero_when_as_bad_as_the_ablation(m: Measurement) -> None:
    for name, ablated in (
        ("reconstruction_score", "ce_zero"),
        ("reconstruction_score[mean]", "ce_mean"),
    ):
        assert changed(m, ce_patched=m.sums["ce_clean"])[name] == 1
        assert changed(m, ce_patched=m.sums[ablated])[name] == 0


@given(measurements(), st.floats(-50, 50))
def test_score_does_not_see_a_constant_added_to_all_losses(m: Measurement, constant: float) -> None:
    moved = {
        name: m.sums[name] + constant * m.sums["n_tokens"]
        for name in ("ce_clean", "ce_patched", "ce_zero", "ce_mean")
    }
    assert changed(m, **moved)["reconstruction_score"] == pytest.approx(
        m["reconstruction_score"], rel=1e-6, abs=1e-6
    )


@given(measurements(), st.floats(-1, 1e-3))
def test_score_is_undefined_where_the_ablation_does_no_harm(m: Measurement, harm: float) -> None:
    harmless = changed(m, ce_zero=m.sums["ce_clean"] + harm * 0.99 * m.sums["n_tokens"])
    with pytest.raises(UndefinedMetricError, match=r"reconstruction_score .* denominator is"):
        harmless["reconstruction_score"]


@given(measurements())
def test_explained_variance_is_zero_for_the_mean_and_one_for_the_identity(m: Measurement) -> None:
    assert changed(m, sq_error=m.sums["sq_deviation"])["explained_variance"] == 0
    assert changed(m, sq_error=np.zeros(m.n_sequences))["explained_variance"] == 1


@given(measurements(), st.floats(1e-3, 1e3))
def test_explained_variance_does_not_see_the_scale(m: Measurement, scale: float) -> None:
    scaled = changed(
        m,
        sq_error=m.sums["sq_error"] * scale**2,
        sq_deviation=m.sums["sq_deviation"] * scale**2,
    )
    assert scaled["explained_variance"] == pytest.approx(m["explained_variance"], abs=1e-9)


@given(measurements())
def test_raw_loss_increase_is_not_kl(m: Measurement) -> None:
    """The two columns are independent: one may be zero while the other is not."""
    same_loss = changed(m, ce_patched=m.sums["ce_clean"], kl=m.sums["n_tokens"])
    assert same_loss["ce_increase"] == 0
    assert same_loss["kl"] == 1


@given(measurements(), st.sampled_from(RATIOS), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_one_number_that_is_not_finite_makes_the_metric_undefined(
    m: Measurement, name: str, bad: float
) -> None:
    metric = METRICS[name]
    for column in {*metric.numerator, *metric.denominator}:
        broken = m.sums[column].copy()
        broken[-1] = bad
        with pytest.raises(UndefinedMetricError):
            changed(m, **{column: broken})[name]


@given(measurements(min_sequences=2), st.sampled_from(sorted(METRICS)))
def test_a_missing_row_makes_every_metric_undefined(m: Measurement, name: str) -> None:
    partial = rows(m, list(range(m.n_sequences - 1)))
    with pytest.raises(UndefinedMetricError, match=r"of the \d+ sequences were measured"):
        partial[name]


@given(measurements(), st.sampled_from(sorted(METRICS)))
def test_no_scored_token_makes_every_metric_undefined(m: Measurement, name: str) -> None:
    with pytest.raises(UndefinedMetricError):
        changed(m, **{column: np.zeros(m.n_sequences) for column in m.sums})[name]


def many_tokens(m: Measurement, tokens: int) -> Measurement:
    n = np.full(m.n_sequences, tokens / m.n_sequences)
    return changed(m, n_tokens=n)


@given(measurements())
def test_dead_and_dense_shares_count_latents_by_how_often_they_fire(m: Measurement) -> None:
    tokens = 10_000 * m.n_sequences
    m = dataclasses.replace(
        many_tokens(m, tokens),
        firings=np.array([0, 1, tokens // 10, tokens // 10 + 1, tokens], dtype=np.int64),
    )
    assert m["dead_latents"] == 0.2
    assert m["dense_latents"] == 0.4  # exactly 10 % is not more than 10 %


@given(measurements())
def test_dead_share_is_refused_below_its_token_budget(m: Measurement) -> None:
    with pytest.raises(UndefinedMetricError, match="needs 10,000 scored tokens, 9,600 were"):
        many_tokens(m, 9_600)["dead_latents"]


@given(measurements())
def test_latent_shares_of_latents_that_are_not_finite_are_undefined(m: Measurement) -> None:
    broken = changed(many_tokens(m, 60_000), l1=np.full(m.n_sequences, math.nan))
    with pytest.raises(UndefinedMetricError, match="latents are not finite"):
        broken["dead_latents"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(measurements())
def test_saving_and_loading_is_the_identity_bit_for_bit(tmp_path: Path, m: Measurement) -> None:
    m = changed(m, kl=np.where(np.arange(m.n_sequences) == 0, np.nan, m.sums["kl"]))
    save(m, tmp_path / "m.npz")
    again = load(tmp_path / "m.npz")
    assert again.provenance == m.provenance
    assert again.sequences.tobytes() == m.sequences.tobytes()
    assert again.firings.tobytes() == m.firings.tobytes()
    assert {k: v.tobytes() for k, v in again.sums.items()} == {
        k: v.tobytes() for k, v in m.sums.items()
    }
    assert [p.name for p in tmp_path.iterdir()] == ["m.npz"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(measurements(min_sequences=2))
def test_columns_on_request_may_be_absent_from_all_rows(tmp_path: Path, m: Measurement) -> None:
    bare = dataclasses.replace(m, sums={name: m.sums[name] for name in COLUMNS})
    save(bare, tmp_path / "m.npz")
    assert load(tmp_path / "m.npz").sums.keys() == set(COLUMNS)
    assert bare["kl"] == m["kl"]
    for name in ("kl_random_error", "kl_vs_random_error"):
        with pytest.raises(UndefinedMetricError, match=f"{name} was not measured: bound it in"):
            bare[name]
    for name in COLUMNS:
        with pytest.raises(ValueError, match="columns are"):
            dataclasses.replace(m, sums={k: v for k, v in m.sums.items() if k != name})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(measurements(), st.data())
def test_sources_and_texts_are_saved(tmp_path: Path, m: Measurement, data: st.DataObject) -> None:
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    around = st.builds(Around, texts, texts, texts)
    places = st.tuples(st.integers(0, 9), st.integers(0, 9))
    m = dataclasses.replace(
        m,
        sources=tuple(data.draw(texts) for _ in range(m.n_sequences)),
        excerpts=Excerpts(
            data.draw(st.dictionaries(places, around, max_size=3)),
            data.draw(st.dictionaries(st.integers(0, 9), texts, max_size=3)),
        ),
    )
    save(m, tmp_path / "m.npz")
    again = load(tmp_path / "m.npz")
    assert (again.sources, again.excerpts) == (m.sources, m.excerpts)


@given(measurements())
def test_as_many_sources_as_rows(m: Measurement) -> None:
    with pytest.raises(ValueError, match=f"{m.n_sequences + 1} sources of {m.n_sequences} seq"):
        dataclasses.replace(m, sources=("a",) * (m.n_sequences + 1))


@pytest.mark.parametrize("schema", [2, 4])
def test_another_schema_is_refused_by_its_number(tmp_path: Path, schema: int) -> None:
    np.savez(tmp_path / "m.npz", schema=np.array(schema))
    with pytest.raises(InfrastructureError, match=f"schema {schema}; this version reads 3"):
        load(tmp_path / "m.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip"])
def test_an_unreadable_measurement_is_an_infrastructure_error(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(InfrastructureError, match=r"m\.npz"):
        load(tmp_path / "m.npz")


@given(measurements(min_sequences=2))
def test_a_sequence_has_one_row(m: Measurement) -> None:
    with pytest.raises(ValueError, match="not strictly ascending"):
        dataclasses.replace(m, sequences=np.zeros_like(m.sequences))


@given(measurements())
def test_a_metric_that_does_not_exist_is_refused_by_its_nearest_name(m: Measurement) -> None:
    with pytest.raises(SetupError, match=r"unknown metric 'reconstruction_scor'; did you mean rec"):
        m["reconstruction_scor"]


places = st.tuples(st.integers(0, 99), st.integers(0, 99))
excerpts = st.builds(
    Excerpts,
    st.dictionaries(places, st.builds(Around, st.text(), st.text(), st.text()), max_size=4),
    st.dictionaries(st.integers(0, 99), st.text(), max_size=4),
)


@given(excerpts)
def test_plain_values_say_all_of_it(texts: Excerpts) -> None:
    assert Excerpts.of(json.loads(json.dumps(texts.plain))) == texts
