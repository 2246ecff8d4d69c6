"""Lines and JSON of a comparison."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.comparison import Comparison, Version, compare
from sae_guard.core.measurement import Around, Excerpts, Measurement
from sae_guard.render.comparison import (
    ComparisonResult,
    comparison_json,
    comparison_lines,
    percent,
    probability,
    signed,
    verdict_line,
)
from sae_guard.testing import measurements
from tests.helpers.changed_measurements import scaled, with_provenance
from tests.helpers.recorded import ordinary, tokenwise


def compared(after: Measurement, before: Measurement | None = None, **how: Any) -> Comparison:
    return compare(Version("v1", before or ordinary()), Version("v2", after), **how)


@pytest.mark.parametrize(
    ("factors", "start"),
    [
        ({"kl": 1.5, "l0": 1.5}, "v2 is dominated by v1: kl +0.025"),
        ({"kl": 0.5}, "v2 dominates v1: kl -0.025"),
        ({"kl": 0.5, "l0": 2.0}, "v2 is a trade-off against v1: kl -0.025"),
        ({}, "no difference of v2 from v1 was found at alpha 0.01: kl 0 (0 %); l0 0 (0 %)"),
    ],
)
def test_the_first_line_is_the_verdict_in_words(factors: dict[str, float], start: str) -> None:
    comparison = compared(scaled(ordinary(), **factors))
    assert verdict_line(comparison).startswith(start)
    assert next(comparison_lines(comparison)) == verdict_line(comparison)


def test_a_change_that_counts_as_the_same_has_the_reason() -> None:
    sure = replace(ordinary(), sums={**ordinary().sums, "kl": ordinary().sums["kl"] * 1.005})
    line = verdict_line(compared(sure))
    assert line.startswith("v2 is no further from v1 than the 1 % margin: kl +0.0002")
    assert line.endswith("(+0.5 %), within the 1 % margin; l0 0 (0 %)")
    noise = replace(ordinary(), sums={**ordinary().sums, "kl": ordinary().sums["kl"] * (1 + 1e-7)})
    assert "(+1e-05 %), numeric noise; l0 0 (0 %)" in verdict_line(compared(noise))
    wide = np.linspace(-1, 1, 8) + 0.3
    unsure = replace(ordinary(), sums={**ordinary().sums, "kl": ordinary().sums["kl"] + wide})
    comparison = compared(unsure)
    low, high = comparison["kl"].low, comparison["kl"].high
    assert comparison["kl"].p_value is not None
    assert low is not None
    assert high is not None
    assert low < 0 < high  # how large a difference could be that was not found
    ends = f"[{signed(low)}, {signed(high)}], p = {comparison['kl'].p_value:.2g}"
    assert f"kl +0.003 (+6 %) {ends}; l0 0 (0 %)" in verdict_line(comparison)


def test_without_a_verdict_the_first_line_has_the_reason() -> None:
    broken = replace(ordinary(), sums={**ordinary().sums, "kl": np.full(8, np.nan)})
    assert verdict_line(compared(broken)).startswith(
        "no verdict on v2 against v1: kl cannot be compared: v2: kl = "
    )


def test_the_table_has_changed_metrics_and_names_the_others() -> None:
    comparison = compared(scaled(ordinary(), kl=1.5, l2_ratio=0.5))
    lines = list(comparison_lines(comparison, title="tiny"))
    assert lines[1] == "tiny, blocks.1.hook_resid_post, 800 tokens in 8 sequences"
    titles = ["metric", "v1", "v2", "change", "95", "%", "interval", "p"]
    assert lines[2].split() == titles
    rows = {line.split()[0]: line.split() for line in lines[3:6]}
    assert list(rows) == ["kl", "l0", "l2_ratio"]
    kl = comparison["kl"]
    assert kl.low is not None
    assert kl.high is not None
    assert kl.p_value is not None
    assert rows["kl"] == [
        "kl", "0.05003", "0.07505", "+0.02502", signed(kl.low), "to", signed(kl.high), "+50", "%",
        f"{kl.p_value:.2g}", "worse",
    ]  # fmt: skip
    assert lines[6].startswith("  the same in both: ce_increase, reconstruction_score, l1, ")
    ratio = kl.variance_ratio
    assert ratio is not None
    pairing = [line for line in lines if line.startswith("  pairing: ")]
    assert pairing == [
        f"  pairing: on different texts the interval of kl would be {ratio**0.5:.2g} times as wide "
        f"(variance ratio {ratio:.2g})"
    ]


def test_metrics_that_are_not_compared_and_notes_are_listed() -> None:
    formulas = {**dict.fromkeys(ordinary().provenance.formula_versions, 1), "cosine": 2}
    other = with_provenance(ordinary(), device="cuda", formula_versions=formulas)
    lines = list(comparison_lines(compared(other)))
    assert "  not compared: the formula version of cosine was 1 and is 2" in lines
    assert "  note: device was cpu and is cuda" in lines
    assert lines[-1] == "no values of single tokens are known of v1 and v2"
    broken = replace(ordinary(), sums={**ordinary().sums, "cosine": np.full(8, np.nan)})
    reasons = [line for line in comparison_lines(compared(broken)) if "not compared" in line]
    assert reasons[0].startswith(
        "  not compared: v2: cosine = E_tokens cos(x, x̂): the sums are not"
    )
    assert reasons[1].startswith(
        "  not compared: kl_vs_random_error, kl_random_error was not measured"
    )
    assert len(reasons) == 5  # and a reason of each share of latents, and of mean ablation


def test_tokens_and_sequences_that_changed_most_have_their_text() -> None:
    a, b = tokenwise(ordinary()), tokenwise(ordinary(), 1)
    worst = compared(b, a, tokens=1, sequences=1)
    token, sequence = worst.tokens.worse[0], worst.sequences.better[0]
    excerpts = Excerpts(
        {(token.sequence, token.position): Around("x\n" * 80, "def", "(")},
        {sequence.sequence: "class A:\n" * 20},
    )
    with_text = replace(b, excerpts=excerpts, sources=tuple(f"{row}.py" for row in range(8)))
    lines = list(comparison_lines(compared(with_text, a, tokens=1, sequences=1)))
    at = lines.index("tokens whose KL rose most, in nats:")
    assert lines[at + 1].startswith(f'  KL {signed(token.after - token.before, digits=3)} after "…')
    assert lines[at + 1].endswith(r"""x\nx\ndef", next "(":""")
    assert lines[at + 2] == (
        f"    {token.before:.3g} in v1, {token.after:.3g} in v2 "
        f"({token.sequence}.py, sequence {token.sequence}, position {token.position})"
    )
    at = lines.index("sequences whose mean KL fell most, in nats:")
    change = signed(sequence.after - sequence.before, digits=3)
    start = rf'  mean KL {change} over 100 tokens of "class A:\nclass A:\n'
    assert lines[at + 1].startswith(start)
    assert lines[at + 2].endswith(f" in v2 ({sequence.sequence}.py, sequence {sequence.sequence})")
    assert max(map(len, lines[1:])) <= 100


@given(measurements(), st.floats(0, 10), st.text(max_size=30))
def test_lines_have_at_most_100_columns_for_any_measurement(
    before: Measurement, times: float, text: str
) -> None:
    n = before.n_sequences
    excerpts = Excerpts(sequences=dict.fromkeys(range(n), text))
    after = replace(
        before,
        sums={**before.sums, "kl": before.sums["kl"] * times},
        sources=(text * 9,) * n,
        excerpts=excerpts,
    )
    comparison = compare(Version("a" * 24, before), Version("é", after))
    lines = list(comparison_lines(comparison))
    assert all(line.isprintable() for line in lines)
    lists = lines[lines.index("") :] if "" in lines else []
    assert all(len(line) <= 100 for line in lists)
    plain = json.loads(
        comparison_json([ComparisonResult("s", {}, {}, comparison)]), parse_constant=refuse
    )
    assert plain["comparisons"][0]["verdict"] == comparison.verdict


def refuse(constant: str) -> None:
    raise ValueError(constant)


def test_the_json_is_strict_and_has_every_number() -> None:
    a, b = tokenwise(ordinary()), tokenwise(ordinary(), 1)
    comparison = compared(b, a, tokens=2, sequences=2)
    refused = ComparisonResult(
        "other", {"name": "v1"}, {"name": "v2"}, None, ("hook was a and is b",)
    )
    result = ComparisonResult(
        "tiny", {"name": "v1", "record": "1"}, {"name": "v2", "record": "2"}, comparison
    )
    document = json.loads(comparison_json([result, refused]), parse_constant=refuse)
    one, two = document["comparisons"]
    assert document["schema_version"] == 1
    assert two == {
        "spec": "other", "before": {"name": "v1"}, "after": {"name": "v2"}, "verdict": None,
        "not_comparable": ["hook was a and is b"],
    }  # fmt: skip
    assert (one["before"], one["verdict"]) == ({"name": "v1", "record": "1"}, comparison.verdict)
    for move in comparison.metrics:
        row = one["metrics"][move.metric]
        assert (row["before"], row["after"]) == (move.before.value, move.after.value)
        assert (row["after_low"], row["after_high"]) == (move.after.low, move.after.high)
        assert (row["low"], row["high"], row["p"]) == (move.low, move.high, move.p_value)
        assert (row["share"], row["outcome"]) == (move.share, move.outcome)
    assert set(one["undefined"]) == set(comparison.undefined)
    assert [t["position"] for t in one["tokens"]["worse"]] == [
        t.position for t in comparison.tokens.worse
    ]
    assert [s["after"] for s in one["sequences"]["better"]] == [
        s.after for s in comparison.sequences.better
    ]
    without = json.loads(comparison_json([ComparisonResult("tiny", {}, {}, compared(ordinary()))]))
    assert without["comparisons"][0]["tokens"] is None
    assert without["comparisons"][0]["no_tokens"].startswith("no values of single tokens")


def test_the_keys_of_the_json_are_documented() -> None:
    a, b = tokenwise(ordinary()), tokenwise(ordinary(), 1)
    refused = ComparisonResult("other", {}, {}, None, ("hook was a and is b",))
    document = json.loads(
        comparison_json([ComparisonResult("tiny", {}, {}, compared(b, a)), refused])
    )
    one, two = document["comparisons"]
    reference = Path(__file__).parents[2] / "docs" / "reference"
    page = (reference / "report-json.md").read_text(encoding="utf-8")
    section = page.partition("## The export of a comparison")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| (`[^|]*) \| (.*) \|$", section, re.MULTILINE))
    keys = {key for cell in rows for key in re.findall(r"`(\w+)`", cell)}
    assert keys == one.keys() | two.keys()
    assert re.findall(r"`(\w+)`", rows["`metrics`"]) == list(one["metrics"]["kl"])


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (1.834, "+183 %"), (-0.00896, "-0.9 %"), (0.0995, "+10 %"), (12.345, "+1,234 %"),
     (-1.0, "-100 %"), (1e-7, "+1e-05 %")],
)  # fmt: skip
def test_shares_are_percentages_with_a_sign(share: float, text: str) -> None:
    assert percent(share) == text


def test_tiny_probabilities_are_not_written_as_zero() -> None:
    assert probability(0.0) == "< 1e-300"
    assert probability(1.1168e-184) == "1.1e-184"
    assert probability(1.0) == "1"
