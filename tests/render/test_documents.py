"""The JSON: strict, with all that was found; and what is written is what is read."""

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
from sae_guard.core.worst_tokens import worst
from sae_guard.errors import SetupError
from sae_guard.render import from_json, to_json
from sae_guard.testing import measurements, thresholds
from tests.helpers.outcomes import ROWS, SHOWN, a_change, controls, outcome

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


def test_the_worst_cases_are_in_the_json_once_for_each_checkpoint() -> None:
    rows = [
        outcome(checkpoint="v2", verdict="pass", worst=SHOWN.json),
        outcome(checkpoint="v3", worst=SHOWN.json),
        outcome(checkpoint="v3", metric="l0", worst=SHOWN.json),  # of another xdist worker
        outcome(checkpoint="v3", metric="cosine"),
    ]
    document = json.loads(to_json(rows, verdict="fail", version="0"), parse_constant=pytest.fail)
    assert [case["checkpoint"] for case in document["worst_cases"]] == ["v2", "v3"]
    case = document["worst_cases"][1]
    assert (case["spec"], case["name"]) == ("thresholds/demo.yaml", "blocks.2.hook_resid_post")
    first, second = case["tokens"]
    assert (first["kl"], first["token"], first["source"]) == (9.3121, "ed", "arxiv/1.txt")
    assert (second["kl"], second["ce_clean"], second["ce_patched"]) == (None, 2.0, None)
    assert case["sequences"][0]["n_tokens"] == 1260
    assert not any("worst" in row for row in document["outcomes"])


def test_the_json_has_the_numbers_of_the_controls() -> None:
    rows = json.loads(to_json([controls(), outcome()], verdict="pass", version="0"))["outcomes"]
    assert [row["controls"] for row in rows] == [ROWS, None]


def test_the_json_is_strict_and_keeps_a_value_that_json_cannot_say_as_null() -> None:
    text = to_json(
        [outcome(value=math.nan, verdict="error", provenance='{"hook": "h"}')],
        verdict="error",
        version="0.1.0",
    )

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(text, parse_constant=refuse)
    assert document["verdict"] == "error"
    row = document["outcomes"][0]
    assert (row["value"], row["verdict"], row["max"]) == (None, "error", 0.2)
    assert row["provenance"] == {"hook": "h"}


def test_the_json_has_both_ends_of_a_change() -> None:
    (row,) = json.loads(to_json([a_change()], verdict="fail", version="0"))["outcomes"]
    assert (row["before"], row["after"], row["change"]) == (0.1306, 0.20976, "share")
