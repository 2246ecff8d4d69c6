"""The table of a run: a block for each checkpoint, with all that is said of it."""

from __future__ import annotations

import json

import pytest

from sae_guard.core.diagnosis import Diagnosis, Suspicion
from sae_guard.core.report import Outcome
from sae_guard.render import summary, to_json
from tests.helpers.outcomes import a_change, controls, outcome, parts


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
    assert "    try: undo it (`-x`)" in list(summary(rows, spelling=lambda _: "-x"))
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


def test_the_summary_shows_changes_with_their_sign_and_says_since_when() -> None:
    both = a_change(metric="l0.change", min=-0.05, max=0.05, bound=0.05, value=0.0, headroom=0.05)
    noted = a_change(verdict="warn", note="torch was 2.12.0 and is 2.13.0")
    lines = [line.split() for line in summary([a_change(), both, noted])]
    assert ["kl.change", "+60.61%", "2.4%", "<=", "+2%", "-58.6%", "FAIL"] in lines
    assert ["l0.change", "0%", "2.4%", "-5%..+5%", "+5%", "FAIL"] in lines
    assert any(" ".join(line).endswith("WARN (torch was 2.12.0 and is 2.13.0)") for line in lines)
    since = "  changes since v1.2 (97dbe6cef0cb), on the same sequences"
    assert list(summary([a_change(), both])).count(since) == 1
