"""Outcomes cross processes as builtins and come back equal."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import execnet
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.core.report import Outcome
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import judge
from sae_guard.core.worst_tokens import worst
from sae_guard.testing import measurements, thresholds

PLACE: dict[str, Any] = {"spec": "thresholds/a.yaml", "name": "a", "checkpoint": "v1"}


@given(measurements(), st.sampled_from(sorted(METRICS)), st.data())
def test_every_outcome_survives_the_way_between_processes(
    m: Measurement, name: str, data: st.DataObject
) -> None:
    verdict = judge(m, data.draw(thresholds(name)))
    outcome = Outcome.of(verdict, **PLACE, provenance="{}", worst=worst(m).json)
    carried = execnet.loads(execnet.dumps(outcome.to_properties()))
    assert Outcome.from_properties(carried) == outcome


@given(measurements(), st.sampled_from([math.inf, -math.inf]))
def test_values_that_are_not_finite_survive_too(m: Measurement, bad: float) -> None:
    outcome = dataclasses.replace(
        Outcome.of(judge(m, Threshold("kl", max=1.0)), **PLACE), value=bad, headroom=bad
    )
    assert Outcome.from_properties(outcome.to_properties()) == outcome


def test_numpy_scalars_become_builtins() -> None:
    value = np.float64(0.5)
    outcome = Outcome(**PLACE, metric="kl", verdict="pass", value=value)
    assert {type(v) for _, v in outcome.to_properties()} <= {str, int, float}


def test_what_is_no_builtin_is_refused_here_and_not_by_the_channel() -> None:
    outcome = Outcome(**PLACE, metric="kl", verdict="pass", value=object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot cross processes"):
        outcome.to_properties()


@pytest.mark.parametrize("verdict", ["pass", "undecided", "error"])
def test_what_the_load_contract_found_survives_too(verdict: str) -> None:
    cause, message = (None, "") if verdict == "pass" else ("load", "W_dec is missing")
    outcome = Outcome(
        **PLACE, kind="contract", metric="load.keys", verdict=verdict, cause=cause, message=message
    )
    carried = execnet.loads(execnet.dumps(outcome.to_properties()))
    assert Outcome.from_properties(carried) == outcome


@pytest.mark.parametrize("lost", ["sae_guard.verdict", "sae_guard.metric", "sae_guard.spec"])
def test_half_an_outcome_is_none(lost: str) -> None:
    properties = Outcome(**PLACE, metric="kl", verdict="pass").to_properties()
    assert Outcome.from_properties(p for p in properties if p[0] != lost) is None
    assert Outcome.from_properties([*properties, ("sae_guard.new_field", 1)]) is None
    assert Outcome.from_properties([("user_property", 1)]) is None


def test_controls_survive_too() -> None:
    rows = json.dumps({"v1": {"kl": 0.1, "l0": None}, "permuted decoder": {"kl": 2.0, "l0": None}})
    outcome = Outcome(**PLACE, kind="controls", metric="controls", verdict="warn", controls=rows)
    carried = execnet.loads(execnet.dumps(outcome.to_properties()))
    assert Outcome.from_properties(carried) == outcome
