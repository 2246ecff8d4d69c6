"""Changes since a baseline, against their definition, and the cases without one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sae_guard.core.comparison import Baseline, change
from sae_guard.core.measurement import TOKEN_COLUMNS, Measurement, TokenTable
from sae_guard.core.targets import Slice, Target, estimate
from sae_guard.errors import UndefinedMetricError
from sae_guard.testing import measurements
from tests.helpers.changed_measurements import worse
from tests.helpers.recorded import ordinary


@given(measurements(), st.floats(0.5, 2), st.booleans())
def test_the_change_is_the_difference_of_the_values(
    before: Measurement, times: float, relative: bool
) -> None:
    assume(before["kl"] > 1e-6)
    after = worse(before, times)
    target = Target("kl", change=True)
    difference, values = change(Baseline("v1", before), after, target, relative=relative)
    was, now = before["kl"], after["kl"]
    expected = now / was - 1 if relative else now - was
    assert difference.value == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert (values.before, values.after, values.baseline) == (was, now, "v1")
    one = before.n_sequences == 1
    assert (difference.low is None) == (difference.high is None) == (values.p_value is None) == one
    if difference.low is not None and difference.high is not None:
        assert difference.low <= difference.value <= difference.high
    for name in ("l0", "reconstruction_score", "explained_variance"):
        same, values = change(Baseline("v1", before), after, Target(name, change=True))
        assert (same.value, values.p_value) == (0.0, None if one else 1.0)


def with_tokens(seed: int) -> Measurement:
    rng = np.random.default_rng(seed)
    shape, base = (8, 100), ordinary()
    columns = {name: rng.uniform(0, 1, shape).astype(np.float32) for name in TOKEN_COLUMNS}
    table = TokenTable(np.ones(shape, dtype=np.bool_), columns)
    sums = {**base.sums, "kl": table.columns["kl"].sum(axis=1, dtype=np.float64)}
    return replace(base, sums=sums, tokens=table)


def test_targets_of_single_tokens_need_a_table_or_a_recorded_value() -> None:
    before, after = with_tokens(0), with_tokens(1)
    quantile = Target("kl", "p90", change=True)
    position = Target("kl", slice=Slice("position", 0, 50), change=True)
    for target in (quantile, position):
        difference, _ = change(Baseline("v1", before), after, target)
        expected = estimate(after, target.itself).value - estimate(before, target.itself).value
        assert difference.value == pytest.approx(expected, abs=1e-12)
        assert (difference.low is None) == (target == quantile)
        read = replace(before, tokens=None)
        recorded = Baseline("v1", read, {str(target.itself): 0.25})
        from_record, _ = change(recorded, after, target)
        assert from_record.value == estimate(after, target.itself).value - 0.25
        assert (from_record.low, from_record.high) == (None, None)
        with pytest.raises(UndefinedMetricError, match=f"v1 has no {target.itself}: the rows"):
            change(Baseline("v1", read), after, target)


@pytest.mark.parametrize("name", ["kl.worst_sequence", "dense_latents"])
def test_targets_that_are_no_sums_have_no_interval(name: str) -> None:
    before = replace(ordinary(n=16, of=16), firings=np.array([1000, 10, 10]))
    after = replace(worse(before, 2.0), firings=np.array([1000, 1000, 10]))
    target = replace(Target.parse(name), change=True)
    difference, values = change(Baseline("v1", before), after, target, relative=True)
    assert (difference.low, difference.high, values.p_value) == (None, None, None)
    assert difference.value == pytest.approx(values.after / values.before - 1)
    assert difference.value > 0.9


def test_undefined_changes_name_the_version() -> None:
    base = ordinary()
    with pytest.raises(
        UndefinedMetricError, match=r"ce_increase.change: at v1 it was 0; a relative change"
    ):
        change(Baseline("v1", base), base, Target("ce_increase", change=True), relative=True)
    broken = replace(base, sums={**base.sums, "kl": base.sums["kl"] * np.nan})
    with pytest.raises(UndefinedMetricError, match=r"v1 has no kl: kl = .*not finite"):
        change(Baseline("v1", broken), base, Target("kl", change=True), relative=True)
    with pytest.raises(UndefinedMetricError, match=r"kl = .*not finite"):
        change(Baseline("v1", base), broken, Target("kl", change=True), relative=True)
    with pytest.raises(ValueError, match="needs a baseline"):
        estimate(base, Target("kl", change=True))
