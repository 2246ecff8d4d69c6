"""The words for one verdict: headlines and failure texts."""

from __future__ import annotations

import pytest

from sae_guard.core.diagnosis import Diagnosis, Suspicion
from sae_guard.core.report import Sample
from sae_guard.core.verdicts import Progress, Status, Verdict
from sae_guard.core.worst_tokens import Worst
from sae_guard.render.terminal_summary import summary
from sae_guard.render.words import failure, headline, sample_words
from tests.helpers.reports import WORST, a_change, case_report, run_report, verdict


def lines(one: Verdict) -> list[str]:
    """Return the summary of a run with this verdict."""
    return list(summary(run_report(case_report(one))))


def test_the_headline_gives_metric_value_bound_interval_and_tokens() -> None:
    assert headline(verdict()) == (
        "kl 0.4124 > 0.2 nats (95 % interval 0.39 to 0.4348, 16,256 tokens in 128 sequences)"
    )


def test_the_headline_of_an_error_gives_cause_and_reason() -> None:
    error = verdict("error", value=None, cause="load", message="NaN weights")
    assert headline(error) == "kl: no verdict (load error): NaN weights"


@pytest.mark.parametrize(
    ("side", "status", "sign"),
    [("max", "fail", ">"), ("max", "pass", "<="), ("min", "fail", "<"), ("min", "warn", ">=")],
)
def test_the_headline_states_a_true_relation(side: str, status: Status, sign: str) -> None:
    assert f" {sign} 0.2" in headline(verdict(status, bounds={side: 0.2}))


def test_the_headline_of_an_undecided_threshold_says_why() -> None:
    undecided = verdict("undecided", value=0.19, message="the 0.99 interval … 900 would do")
    assert headline(undecided) == (
        "kl 0.19 against max 0.2 nats is undecided: the 0.99 interval … 900 would do"
    )


def test_a_marginal_verdict_says_so() -> None:
    marginal_pass = verdict("pass", value=0.19, marginal="inside the 95% interval")
    assert headline(marginal_pass).endswith(
        "128 sequences; marginal: the bound is inside the 95% interval)"
    )
    assert next(line for line in lines(marginal_pass) if "kl" in line).endswith("pass (marginal)")
    failing = verdict(marginal="within numeric noise")
    assert next(line for line in lines(failing) if "kl" in line).endswith("FAIL (marginal)")


def test_a_metric_without_an_interval_says_so() -> None:
    assert "(no interval, 16,256 tokens" in headline(verdict(interval=None))


def test_a_failure_names_the_line_of_the_threshold_and_what_to_try() -> None:
    off = Suspicion("scale", "‖x̂‖/‖x‖ = 11.3: off", "check `sae: {normalize: …}`")
    text = failure(verdict(), Diagnosis((off,)))
    assert text.splitlines()[1:] == [
        "thresholds/demo.yaml:14: kl: max 0.2",
        "",
        "probable cause: scale: ‖x̂‖/‖x‖ = 11.3: off",
        "  try: check `sae: {normalize: …}`",
    ]


def test_a_failure_names_options_as_the_shell_spells_them() -> None:
    off = Suspicion("k", "L0 is off", "`sae: {k: 3}`", (("k", "3"),))
    text = failure(verdict(), Diagnosis((off,)), spelling=lambda _: "-k 3")
    assert text.endswith("\n  try: `sae: {k: 3}` (`-k 3`)")


def test_worst_tokens_and_sequences_follow_the_diagnosis() -> None:
    text = failure(verdict(), Diagnosis(), WORST)
    assert text.splitlines()[2:] == [
        "",
        "the largest KL of single tokens, in nats:",
        """  KL 9.31 after "\\n  for key in sorted", next "\\t(x)":""",
        "    loss 0.021 clean, 9.71 patched (arxiv/1.txt, sequence 17, position 83)",
        "  KL nan: loss 2 clean, inf patched (sequence 3, position 1)",
        "",
        "the largest mean KL of sequences, in nats:",
        """  mean KL 0.812 over 1,260 tokens of 'def f():\\r\\n    \"\"\"\\x1b[31m\\\\d':""",
        "    loss 3.1 clean, 3.9 patched (sequence 42)",
    ]
    assert failure(verdict(), Diagnosis(), Worst((), ())) == failure(verdict(), Diagnosis())


def test_a_value_just_past_its_bound_looks_past_it() -> None:
    text = headline(verdict(value=0.20000001))
    assert text.startswith("kl 0.20000001 > 0.2 nats")


def test_an_early_verdict_is_marked_everywhere() -> None:
    early = verdict(progress=Progress(64, 256, 0.001))
    assert headline(early).startswith("kl ~0.4124")
    assert " of 256 sequences)" in headline(early)
    (row,) = [line for line in lines(early) if line.startswith("  kl ")]
    assert " ~0.4124" in row
    assert row.endswith("FAIL (after 64)")
    assert any(
        "that on all 256 sequences with a chance of 0.999 or more" in line for line in lines(early)
    )
    audited = verdict("pass", audit="pass after 64 of 256 sequences, held")
    assert "(early: pass after 64 of 256 sequences, held)" in "\n".join(lines(audited))
    waived = {"max": 0.2, "confidence": 0.99, "on_undecided": "warn"}
    unknown = verdict("undecided", value=None, bounds=waived, message="why")
    assert headline(unknown) == "kl is undecided: why"
    assert "  kl is undecided: why" in lines(unknown)
    failing = verdict("undecided", value=None, message="why")
    assert "  kl is undecided: why" not in lines(failing)  # its failure says it


def test_a_partial_sample_has_the_total_number_of_sequences() -> None:
    assert sample_words(Sample(16256, 128, 128)) == "16,256 tokens in 128 sequences"
    assert sample_words(Sample(127, 1, 1024)) == "127 tokens in 1 of 1,024 sequences"


def test_a_change_has_both_values_and_its_baseline() -> None:
    assert headline(a_change()) == (
        "kl.change +60.61% > +2% (0.1306 nats at v1.2 (97dbe6cef0cb), 0.2098 now; p < 1e-99, "
        "paired 95 % interval +58.18% to +63.04%, 16,256 tokens in 128 sequences)"
    )
    fell = a_change(
        target="reconstruction_score.change", value=-0.01296, interval=(-0.0144, -0.0116),
        bounds={"min": -0.001}, before=0.9817, after=0.96874, p_value=0.00025,
    )  # fmt: skip
    assert headline(fell) == (
        "reconstruction_score.change -0.01296 < -0.001 (0.9817 at v1.2 (97dbe6cef0cb), 0.9687 now; "
        "p = 0.00025, paired 95 % interval -0.0144 to -0.0116, 16,256 tokens in 128 sequences)"
    )
    assert failure(a_change(), Diagnosis()).endswith("thresholds/demo.yaml:14: kl: max_increase 2%")
    assert "reconstruction_score: max_decrease 0.001" in failure(fell, Diagnosis())
    without_interval = a_change(interval=None, p_value=None)
    assert "0.2098 now; no interval, 16,256 tokens" in headline(without_interval)
