"""What users read: headlines, failure texts, the summary table and the JSON."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.diagnosis import Diagnosis, Suspicion
from sae_guard.core.report import Outcome
from sae_guard.core.worst import Worst, WorstSequence, WorstToken
from sae_guard.errors import Contract
from sae_guard.render import COLUMNS, failure, headline, number, summary, to_json, worst_lines


def outcome(**changes: object) -> Outcome:
    fields = {
        "spec": "thresholds/demo.yaml", "name": "blocks.2.hook_resid_post", "checkpoint": "v3",
        "metric": "kl", "verdict": "fail", "unit": "nats", "value": 0.41239, "low": 0.39,
        "high": 0.43478, "max": 0.2, "side": "max", "bound": 0.2, "headroom": -0.21239,
        "n_tokens": 16256, "n_sequences": 128, "where": "thresholds/demo.yaml:14",
    }  # fmt: skip
    return Outcome(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_headline_gives_metric_value_bound_interval_and_tokens() -> None:
    assert headline(outcome()) == (
        "kl 0.4124 > 0.2 nats (95 % interval 0.39 to 0.4348, 16,256 tokens in 128 sequences)"
    )


def test_the_headline_of_an_error_gives_cause_and_reason() -> None:
    error = outcome(verdict="error", value=None, bound=None, cause="load", message="NaN weights")
    assert headline(error) == "kl: no verdict (load error): NaN weights"


@pytest.mark.parametrize(
    ("side", "verdict", "sign"),
    [("max", "fail", ">"), ("max", "pass", "<="), ("min", "fail", "<"), ("min", "warn", ">=")],
)
def test_the_headline_states_a_true_relation(side: str, verdict: str, sign: str) -> None:
    assert f" {sign} 0.2" in headline(outcome(side=side, verdict=verdict))


def test_the_headline_of_an_undecided_threshold_says_why() -> None:
    undecided = outcome(verdict="undecided", value=0.19, message="the 0.99 interval … 900 would do")
    assert headline(undecided) == (
        "kl 0.19 against max 0.2 nats is undecided: the 0.99 interval … 900 would do"
    )


def test_a_marginal_verdict_says_so() -> None:
    near = outcome(verdict="pass", value=0.19, marginal="inside the 95% interval")
    assert headline(near).endswith("128 sequences; marginal: the bound is inside the 95% interval)")
    assert next(line for line in summary([near]) if "kl" in line).endswith("pass (marginal)")
    failing = [outcome(marginal="within numeric noise")]
    assert next(line for line in summary(failing) if "kl" in line).endswith("FAIL (marginal)")


def test_a_metric_without_an_interval_says_so() -> None:
    assert "(no interval, 16,256 tokens" in headline(outcome(low=None, high=None))


def test_a_failure_names_the_line_of_the_threshold_and_what_to_try() -> None:
    off = Suspicion("scale", "‖x̂‖/‖x‖ = 11.3: off", "check `sae: {normalize: …}`")
    text = failure(outcome(), Diagnosis((off,)))
    assert text.splitlines()[1:] == [
        "thresholds/demo.yaml:14: kl: max 0.2",
        "",
        "probable cause: scale: ‖x̂‖/‖x‖ = 11.3: off",
        "  try: check `sae: {normalize: …}`",
    ]


SHOWN = Worst(
    (
        WorstToken(
            17, 83, 9.3121, 0.021, 9.70611, 0.5, "arxiv/1.txt", "\n  for key in sort", "ed", "\t(x)"
        ),
        WorstToken(3, 1, math.nan, 2.0, math.inf, 1.25),
    ),
    (WorstSequence(42, 1260, 0.81234, 3.1, 3.9, "", 'def f():\r\n    """\x1b[31m\\d'),),
)


def test_the_worst_follow_what_is_probably_wrong() -> None:
    text = failure(outcome(), Diagnosis(), SHOWN)
    assert text.splitlines()[2:] == [
        "",
        "the largest KL of single tokens, in nats:",
        "  9.312  CE 0.021 → 9.706, entropy 0.5 (sequence 17, position 83, arxiv/1.txt)",
        "    \\n  for key in sort«ed» → «\\t(x)»",
        "  nan  CE 2 → inf, entropy 1.25 (sequence 3, position 1)",
        "",
        "the largest mean KL of sequences, in nats:",
        "  0.8123  CE 3.1 → 3.9, 1,260 tokens (sequence 42)",
        '    def f():\\r\\n    """\\x1b[31m\\\\d',
    ]
    assert failure(outcome(), Diagnosis(), Worst((), ())) == failure(outcome(), Diagnosis())


texts = st.text(max_size=150) | st.text("ab \n\\\x1b\u202e日", max_size=150)
numbers = st.floats(allow_nan=True)
indices = st.integers(0, 10**6)


@given(
    st.builds(
        WorstToken, indices, indices, *[numbers] * 4, texts, texts, texts, texts.filter(bool)
    ),
    st.builds(WorstSequence, indices, indices, *[numbers] * 3, texts, texts),
)
def test_no_text_leaves_its_line(token: WorstToken, sequence: WorstSequence) -> None:
    for line in worst_lines(Worst((token,), (sequence,))):
        assert len(line) <= COLUMNS
        assert line.isprintable()


def test_what_is_too_long_loses_what_tells_least() -> None:
    token = WorstToken(0, 20, 1.0, 1.0, 2.0, 0.5, "x/" * 60 + "b.txt", "y" * 99, "t" * 99, "n" * 99)
    _, _, place, text = worst_lines(Worst((token,), ()))
    assert place.startswith("  1  CE 1 → 2, entropy 0.5 (sequence 0, position 20, …")
    assert place.endswith("x/b.txt)")
    assert text == f"    …{'y' * 40}«{'t' * 23}…» → «{'n' * 23}…»"
    assert len(place) == len(text) == COLUMNS


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


def test_the_summary_warns_of_what_passes_and_is_suspected() -> None:
    off = Diagnosis((Suspicion("scale", "the best factor is 0.9", "undo it"),), ("tried", "none"))
    rows = [outcome(verdict="pass", diagnosis=off.json), outcome(metric="l0", verdict="warn")]
    assert list(summary(rows))[4:] == [
        "  WARNING: scale: the best factor is 0.9",
        "    try: undo it",
        "  tried",
        "  none",
        "",
    ]
    failing = [outcome(diagnosis=off.json), outcome(verdict="pass")]
    assert "WARNING" not in "\n".join(summary(failing))  # the failure says it
    (row, _) = json.loads(to_json(rows, verdict="pass", version="0"))["outcomes"]
    assert row["diagnosis"]["suspicions"][0]["name"] == "scale"


def test_the_summary_has_a_block_per_checkpoint_that_fits_80_columns() -> None:
    rows = [
        outcome(checkpoint="v2", verdict="pass", value=0.1, low=0.09, high=0.11, headroom=0.1),
        outcome(),
        outcome(
            metric="reconstruction_score[mean]", value=0.71, low=None, high=None, min=0.9,
            max=None, unit="", headroom=-0.19,
        ),
        outcome(metric="l0", verdict="warn", value=33.3, min=10, max=60, headroom=26.7),
        outcome(metric="cosine", verdict="error", value=None, bound=None, headroom=None,
                n_tokens=None, min=0.5, max=None),
    ]  # fmt: skip
    lines = list(summary(rows, ["not gated: thresholds/gpt2.yaml::x: why"]))
    assert lines == [
        "thresholds/demo.yaml::blocks.2.hook_resid_post [v2]  16,256 tokens in 128 sequences",
        "  metric  value  ± 95 %   bound  headroom  verdict",
        "  kl        0.1    0.01  <= 0.2      +0.1  pass",
        "",
        "thresholds/demo.yaml::blocks.2.hook_resid_post [v3]  16,256 tokens in 128 sequences",
        "  metric                       value  ± 95 %   bound  headroom  verdict",
        "  kl                          0.4124   0.022  <= 0.2    -0.212  FAIL",
        "  reconstruction_score[mean]    0.71          >= 0.9     -0.19  FAIL",
        "  l0                            33.3   0.022  10..60     +26.7  WARN",
        "  cosine                           -   0.022  >= 0.5         -  ERROR",
        "",
        "not gated: thresholds/gpt2.yaml::x: why",
    ]
    assert max(map(len, lines[1:4])) <= 80


def parts(*verdicts: str, cause: str = "load") -> list[Outcome]:
    """The first parts of the load contract."""
    bare = {f.name: f.default for f in fields(Outcome) if f.default is not MISSING}
    return [
        outcome(**{
            **bare, "kind": "contract", "metric": f"load.{name}", "verdict": verdict,
            "cause": None if verdict == "pass" else cause,
        })
        for name, verdict in zip(get_args(Contract), verdicts, strict=False)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (parts(*["pass"] * 10), "load contract: 10 of 10 kept"),
        (
            parts("pass", "error", "undecided", "undecided"),
            "load contract BROKEN: load.keys; 1 kept, 2 not checked",
        ),
        (
            parts("pass", "error", "error"),
            "load contract BROKEN: load.keys, load.shapes; 1 kept, 0 not checked",
        ),
        (
            parts("pass", "pass", "error", cause="setup"),
            "load contract: 2 of 3 kept, 1 not checked",
        ),
    ],
)
def test_the_load_contract_is_one_line_above_the_table(rows: list[Outcome], line: str) -> None:
    title = "thresholds/demo.yaml::blocks.2.hook_resid_post [v3]"
    assert list(summary(rows)) == [title, f"  {line}", ""]
    both = list(summary([*rows, outcome()]))
    assert both[:2] == [f"{title}  16,256 tokens in 128 sequences", f"  {line}"]
    assert both[3].split() == ["kl", "0.4124", "0.022", "<=", "0.2", "-0.212", "FAIL"]
    assert "load." not in "".join(both[2:])


ROWS = {
    "checkpoint": {"kl": 0.41239, "reconstruction_score": 0.9, "l0": 16.0},
    "random error": {"kl": 0.25, "reconstruction_score": None, "l0": None},
    "permuted decoder": {"kl": 5.2751, "reconstruction_score": -0.1, "l0": 16.0},
}


def controls(**changes: object) -> Outcome:
    """The outcome of the controls."""
    bare = {f.name: f.default for f in fields(Outcome) if f.default is not MISSING}
    own = {"kind": "controls", "metric": "controls", "controls": json.dumps(ROWS)}
    return outcome(**{**bare, "verdict": "pass", **own, **changes})


def test_controls_are_a_table_below_that_of_the_thresholds() -> None:
    lines = list(summary([*parts("pass"), outcome(), controls()]))
    assert lines[4:] == [
        "  controls              kl  reconstruction_score  l0",
        "  v3                0.4124                   0.9  16",
        "  random error        0.25                     -   -",
        "  permuted decoder   5.275                  -0.1  16",
        "",
    ]
    assert lines[1:3] == ["  load contract: 1 of 1 kept", lines[2]]
    assert lines[3].split()[0] == "kl"


def test_what_is_no_better_than_a_baseline_is_said_below_the_table() -> None:
    lines = list(summary([controls(verdict="warn", message="KL 2 is not below 1")]))
    assert lines[-2:] == ["  WARNING: KL 2 is not below 1", ""]
    error = controls(verdict="error", controls="", cause="setup", message="no such hook")
    assert list(summary([error]))[1:] == [
        "  controls: no numbers (setup error): no such hook", "",
    ]  # fmt: skip


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


@given(
    st.floats(-1e6, 1e6).filter(lambda v: v != 0.1),
    st.sampled_from([0.1, 0.25, 60.0]),
)
def test_a_value_is_never_rounded_onto_a_bound_that_it_is_not(value: float, bound: float) -> None:
    assert (float(number(value, beside=bound)) == bound) == (value == bound)


def test_a_value_just_past_its_bound_looks_past_it() -> None:
    text = headline(outcome(value=0.20000001, bound=0.2))
    assert text.startswith("kl 0.20000001 > 0.2 nats")


def test_an_early_verdict_is_marked_everywhere() -> None:
    early = outcome(seen_sequences=64, of_sequences=256, alpha=0.001)
    assert headline(early).startswith("kl ~0.4124")
    assert " of 256 sequences)" in headline(early)
    (row,) = [line for line in summary([early]) if line.startswith("  kl ")]
    assert " ~0.4124" in row
    assert row.endswith("FAIL (after 64)")
    assert any("those on all 256 but for a chance of 0.001" in line for line in summary([early]))
    held = outcome(verdict="pass", audit="pass after 64 of 256 sequences, held")
    assert "(early: pass after 64 of 256 sequences, held)" in "\n".join(summary([held]))
    unknown = outcome(verdict="undecided", value=None, on_undecided="warn", message="why")
    assert headline(unknown) == "kl is undecided: why"
    assert "  kl is undecided: why" in list(summary([unknown]))


def changed(**changes: object) -> Outcome:
    fields = {
        "metric": "kl.change", "change": "share", "value": 0.60611, "low": 0.5818, "high": 0.6304,
        "max": 0.02, "bound": 0.02, "headroom": -0.58611, "before": 0.1306, "after": 0.20976,
        "p_value": 1e-120, "baseline": "v1.2 (97dbe6cef0cb)",
    }  # fmt: skip
    return outcome(**{**fields, **changes})


def test_a_change_says_from_where_to_where() -> None:
    assert headline(changed()) == (
        "kl.change +60.61% > +2% (0.1306 nats at v1.2 (97dbe6cef0cb), 0.2098 now; p < 1e-99, "
        "paired 95 % interval +58.18% to +63.04%, 16,256 tokens in 128 sequences)"
    )
    fell = changed(
        metric="reconstruction_score.change", unit="", change="difference", value=-0.01296,
        low=-0.0144, high=-0.0116, max=None, min=-0.001, bound=-0.001, side="min",
        headroom=-0.01196, before=0.9817, after=0.96874, p_value=0.00025,
    )  # fmt: skip
    assert headline(fell) == (
        "reconstruction_score.change -0.01296 < -0.001 (0.9817 at v1.2 (97dbe6cef0cb), 0.9687 now; "
        "p = 0.00025, paired 95 % interval -0.0144 to -0.0116, 16,256 tokens in 128 sequences)"
    )
    assert failure(changed(), Diagnosis()).endswith("thresholds/demo.yaml:14: kl: max_increase 2%")
    assert "reconstruction_score: max_decrease 0.001" in failure(fell, Diagnosis())
    alone = changed(low=None, high=None, p_value=None)
    assert "0.2098 now; no interval, 16,256 tokens" in headline(alone)


def test_the_summary_shows_changes_with_their_sign_and_says_since_when() -> None:
    both = changed(metric="l0.change", min=-0.05, max=0.05, bound=0.05, value=0.0, headroom=0.05)
    noted = changed(verdict="warn", note="torch was 2.12.0 and is 2.13.0")
    lines = [line.split() for line in summary([changed(), both, noted])]
    assert ["kl.change", "+60.61%", "2.4%", "<=", "+2%", "-58.6%", "FAIL"] in lines
    assert ["l0.change", "0%", "2.4%", "-5%..+5%", "+5%", "FAIL"] in lines
    assert any(" ".join(line).endswith("WARN (torch was 2.12.0 and is 2.13.0)") for line in lines)
    since = "  changes since v1.2 (97dbe6cef0cb), on the same sequences"
    assert list(summary([changed(), both])).count(since) == 1


def test_the_json_has_both_ends_of_a_change() -> None:
    (row,) = json.loads(to_json([changed()], verdict="fail", version="0"))["outcomes"]
    assert (row["before"], row["after"], row["change"]) == (0.1306, 0.20976, "share")
