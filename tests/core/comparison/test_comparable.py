"""Differences that refuse a comparison, and differences that are only noted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sae_guard.core.comparison import Baseline, change, differences
from sae_guard.core.targets import Target
from sae_guard.errors import UndefinedMetricError
from tests.helpers.changed_measurements import OTHERS, with_provenance
from tests.helpers.recorded import ordinary


@pytest.mark.parametrize("case", OTHERS)
def test_a_change_is_refused_where_more_than_the_sae_differs(case: str) -> None:
    parts, reason = OTHERS[case]
    after = with_provenance(ordinary(), **parts)
    with pytest.raises(UndefinedMetricError) as refused:
        change(Baseline("v1.2", ordinary()), after, Target("kl", change=True))
    assert str(refused.value).startswith("kl.change: not comparable with v1.2: ")
    assert reason in str(refused.value)


def test_another_formula_version_does_not_affect_other_metrics() -> None:
    after = with_provenance(ordinary(), **OTHERS["formula"][0])
    difference, _ = change(Baseline("v1", ordinary()), after, Target("l0", change=True))
    assert difference.value == 0


@pytest.mark.parametrize(
    ("column", "factor", "reason"),
    [
        ("ce_clean", 1.01, "the clean model differs: its cross-entropy on sequence 0 was 8 and is"),
        ("ce_clean", np.nan, "the clean model differs"),
        ("n_tokens", 0.5, "other tokens of the sequences are scored"),
    ],
)
def test_another_clean_model_and_other_scored_tokens_are_refused(
    column: str, factor: float, reason: str
) -> None:
    base = ordinary()
    after = replace(base, sums={**base.sums, column: base.sums[column] * factor})
    assert differences(base, after).refused[0].startswith(reason)
    close = replace(base, sums={**base.sums, "ce_clean": base.sums["ce_clean"] * (1 + 1e-5)})
    assert differences(base, close).refused == ()


def test_missing_rows_are_refused() -> None:
    with pytest.raises(UndefinedMetricError, match="8 sequences were measured and 4 are"):
        change(Baseline("v1", ordinary()), ordinary(n=4), Target("kl", change=True), relative=True)


def test_devices_and_versions_are_noted_and_model_names_ignored() -> None:
    after = with_provenance(
        ordinary(), device="cuda:1", versions={"torch": "2.14.0", "sae-guard": "9"},
        model={"name": "/elsewhere/gpt2", "dtype": "float32"},
    )  # fmt: skip
    result = differences(ordinary(), after)
    assert result.refused == ()
    assert result.noted == ("device was cpu and is cuda", "torch was 2.13.0 and is 2.14.0")
    _, values = change(Baseline("v1", ordinary()), after, Target("kl", change=True), relative=True)
    assert values.noted == result.noted
