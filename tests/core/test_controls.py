"""Metrics of controls, and the message on a checkpoint that is no better than one."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.controls import CONTROL_METRICS, not_beaten, row, row_of_random_error
from sae_guard.core.measurement import Measurement
from sae_guard.errors import UndefinedMetricError
from sae_guard.testing import measurements


@given(measurements())
def test_a_row_has_the_metrics_compared_with_controls(m: Measurement) -> None:
    assert row(m) == {name: m[name] for name in CONTROL_METRICS}


@given(measurements())
def test_random_error_row_has_the_sae_error_length_and_no_latents(m: Measurement) -> None:
    metrics = row_of_random_error(m)
    assert metrics["kl"] == m["kl_random_error"]
    assert m["kl_random_error"] * m["kl_vs_random_error"] == pytest.approx(m["kl"])
    assert metrics["explained_variance"] == m["explained_variance"]
    assert metrics["l0"] is metrics["reconstruction_score"] is None
    assert metrics.keys() == row(m).keys()


@given(measurements())
def test_an_undefined_metric_is_none(m: Measurement) -> None:
    harmless = dataclasses.replace(m, sums={**m.sums, "ce_zero": m.sums["ce_clean"]})
    assert row(harmless)["reconstruction_score"] is None
    for column, rows in (("kl", row), ("kl_random_error", row_of_random_error)):
        broken = np.full(m.n_sequences, math.nan)
        with pytest.raises(UndefinedMetricError):
            rows(dataclasses.replace(m, sums={**m.sums, column: broken}))


@pytest.mark.parametrize(
    ("own", "theirs", "messages"),
    [
        (0.1, 0.2, []),
        (0.2, math.nextafter(0.2, 1), []),
        (0.2, 0.2, ["KL 0.2 is not below that of the null, 0.2"]),
        (0.3, 0.2, ["KL 0.3 is not below that of the null, 0.2"]),
        (math.nan, 0.2, ["KL nan is not below that of the null, 0.2"]),
        (0.1, math.nan, ["KL 0.1 is not below that of the null, nan"]),
        (None, 0.2, ["KL unknown is not below that of the null, 0.2"]),
        (0.1, None, ["KL 0.1 is not below that of the null, unknown"]),
    ],
)
def test_a_baseline_with_a_lower_or_equal_kl_is_reported(
    own: float | None, theirs: float | None, messages: list[str]
) -> None:
    assert list(not_beaten({"kl": own}, {"null": {"kl": theirs}})) == messages


@given(st.floats(0, 1), st.lists(st.floats(0, 1), max_size=3))
def test_every_baseline_is_compared(own: float, kls: list[float]) -> None:
    baselines = {f"b{at}": {"kl": kl} for at, kl in enumerate(kls)}
    assert len(list(not_beaten({"kl": own}, baselines))) == sum(kl <= own for kl in kls)
