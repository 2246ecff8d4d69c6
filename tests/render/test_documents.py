"""What is written is what is read."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.core.report import Outcome
from sae_guard.core.verdicts import judge
from sae_guard.core.worst import worst
from sae_guard.errors import SetupError
from sae_guard.render import from_json, to_json
from sae_guard.testing import measurements, thresholds

PLACE: dict[str, Any] = {"spec": "thresholds/a.yaml", "name": "ä", "checkpoint": "v1"}


@given(st.lists(measurements(), max_size=2), st.sampled_from(sorted(METRICS)), st.data())
def test_outcomes_come_back_but_for_what_is_not_finite_and_the_worst(
    measured: list[Measurement], name: str, data: st.DataObject
) -> None:
    outcomes = [
        Outcome.of(
            judge(m, data.draw(thresholds(name))), **PLACE, provenance='{"a": [1, null]}',
            worst=worst(m).json,
        )
        for m in measured
    ]  # fmt: skip
    outcomes.append(Outcome(**PLACE, metric="controls", verdict="warn", kind="controls"))
    read = from_json(to_json(outcomes, verdict="pass", version="0"), file="out.json")
    assert read == [dataclasses.replace(finite(outcome), worst="") for outcome in outcomes]


def finite(outcome: Outcome) -> Outcome:
    values = dataclasses.asdict(outcome)
    bad = {k: None for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)}
    return dataclasses.replace(outcome, **bad)  # type: ignore[arg-type]


GOOD = json.loads(
    to_json([Outcome(**PLACE, metric="kl", verdict="pass", value=0.1)], verdict="pass", version="0")
)


def changed(row: Any = None, **document: Any) -> str:
    rows = GOOD["outcomes"] if row is None else [row]
    return json.dumps({**GOOD, "outcomes": rows, **document})


ROW = GOOD["outcomes"][0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"outcomes": [Infinity]}', "not JSON: Infinity is no number of JSON"),
        ("[]", "not written by `pytest --sae-json`: it has no `outcomes`"),
        ("{}", "not written by `pytest --sae-json`: it has no `outcomes`"),
        (changed(schema_version=2), "`schema_version` is 2, allowed: 1"),
        (changed(schema_version=None), "`schema_version` is None, allowed: 1"),
        (changed([]), "`outcomes.0` is [], expected a mapping"),
        (changed({**ROW, "value": "0.1"}), "`outcomes.0.value` is '0.1', expected another kind"),
        (changed({**ROW, "value": True}), "`outcomes.0.value` is True, expected another kind"),
        (changed({**ROW, "metric": None}), "`outcomes.0.metric` is None, expected another kind"),
        (changed({**ROW, "seen_sequences": 1.5}), "`outcomes.0.seen_sequences` is 1.5, expected"),
        (changed({k: v for k, v in ROW.items() if k != "kind"}), "`outcomes.0.kind` is missing"),
    ],
)
def test_what_is_no_such_file_is_refused(text: str, told: str) -> None:
    with pytest.raises(SetupError) as caught:
        from_json(text, file="out.json")
    assert str(caught.value).startswith(f"out.json: {told}")


def test_unknown_keys_are_left_out() -> None:
    (read,) = from_json(changed({**ROW, "new": 1}, more=2), file="out.json")
    assert read == Outcome(**PLACE, metric="kl", verdict="pass", value=0.1)
