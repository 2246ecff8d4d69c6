"""Early verdicts: which cases share a run, when it ends, and how it is judged."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from sae_guard.core.statistics import Estimate
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import Progress, Verdict, judge
from sae_guard.gate.cases import Case
from sae_guard.gate.early import Judged, Watch, key
from sae_guard.gate.options import EarlyOptions
from tests.helpers.planned import plan_of, spec
from tests.helpers.recorded import ordinary

CASE = plan_of(spec("a")).cases[0]
KL, L0 = CASE.thresholds
FAST = EarlyOptions(fast=True)
WHOLE, PART = ordinary(), ordinary(n=4)


def early_verdict(status: str = "pass") -> Verdict:
    """Return an early verdict on KL, after four sequences."""
    estimate = Estimate(0.05, 0.04, 0.06, 400, 4)
    return Verdict(KL, status, estimate, progress=Progress(4, 8, 0.001))  # type: ignore[arg-type]


def with_bound(bound: float) -> Case:
    """Return the case with another bound on KL."""
    return replace(CASE, thresholds=(replace(KL, max=bound), L0))


# ---- which cases share a run --------------------------------------------------------------------


def test_runs_over_all_sequences_are_shared_whatever_the_thresholds() -> None:
    for options in (EarlyOptions(), EarlyOptions(never=True, fast=True)):
        assert key(options, CASE) == key(options, with_bound(0.2)) == CASE.key


def test_early_runs_are_shared_only_with_equal_thresholds_and_options() -> None:
    assert key(FAST, CASE) == key(EarlyOptions(fast=True), replace(CASE, member="v2"))
    keys = [
        key(options, case)
        for options, case in (
            (FAST, CASE), (FAST, with_bound(0.2)), (EarlyOptions(), CASE),
            (replace(FAST, alpha=0.01), CASE), (replace(FAST, max_sequences=8), CASE),
            (replace(FAST, max_seconds=1.0), CASE), (replace(FAST, audit=True), CASE),
            (FAST, replace(CASE, spec=replace(CASE.spec, alpha=0.01))),
        )
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)


# ---- when it ends -------------------------------------------------------------------------------


def watch(options: EarlyOptions, case: Case = CASE) -> Watch:
    """Return the check that may end the measurement of the case."""
    return Watch(case, options, 0.001)


def test_a_run_goes_on_while_a_verdict_is_open() -> None:
    watching = watch(FAST)
    assert not watching(PART)
    assert (watching.ended, watching.early.verdicts) == ("", {})


def test_a_run_ends_once_all_verdicts_are_decided() -> None:
    # One sequence beyond the bound decides this threshold.
    case = replace(CASE, thresholds=(Threshold("kl.worst_sequence", max=0.01),))
    watching = watch(FAST, case)
    assert watching(PART)
    assert watching.ended == ""
    assert [verdict.status for verdict in watching.early.verdicts.values()] == ["fail"]
    audited = watch(replace(FAST, audit=True), case)
    assert not audited(PART)
    assert audited.early.verdicts == watching.early.verdicts


def test_a_budget_of_sequences_or_seconds_ends_a_run() -> None:
    by_sequences = watch(EarlyOptions(max_sequences=4))
    assert not by_sequences(ordinary(n=3))
    assert by_sequences(PART)
    assert by_sequences.ended == "the limit of 4 sequences"
    by_seconds = watch(EarlyOptions(max_seconds=1e-9))
    assert by_seconds(PART)
    assert by_seconds.ended == "the limit of 1e-09 s"
    assert not watch(EarlyOptions(max_seconds=1000.0))(PART)
    audited = watch(EarlyOptions(max_sequences=4, audit=True))
    assert audited(PART)


def test_thresholds_say_which_sums_the_engine_has_to_keep() -> None:
    assert watch(FAST).needs == {"centred": False, "spread": False}
    varied = replace(CASE, thresholds=(Threshold("explained_variance", min=0.9),))
    assert watch(FAST, varied).needs["centred"]
    latents = replace(CASE, thresholds=(Threshold("dense_latents", max=0.9),))
    assert watch(FAST, latents).needs["spread"]


# ---- what is judged -----------------------------------------------------------------------------


def test_the_final_verdict_replaces_the_early_one() -> None:
    judged = Judged(ordinary(0.3), {KL: early_verdict()})
    assert judged.verdict(KL) == judge(ordinary(0.3), KL)
    assert judged.verdict(KL).status == "fail"


def test_an_audit_says_whether_the_early_verdict_holds() -> None:
    early = {KL: early_verdict()}
    for measurement, words in (
        (WHOLE, "pass after 4 of 8 sequences, held"),
        (ordinary(0.3), "pass after 4 of 8 sequences, DID NOT HOLD"),
    ):
        judged = Judged(measurement, early, audit=True)
        assert judged.verdict(KL) == replace(judge(measurement, KL), audit=words)
        assert judged.verdict(L0).audit == "no early verdict"


def test_after_an_early_end_the_early_verdict_counts() -> None:
    assert Judged(PART, {KL: early_verdict()}).verdict(KL) == early_verdict()


def test_an_undecided_verdict_names_the_budget_that_ended_the_run() -> None:
    verdict = Judged(PART, {}, "the limit of 4 sequences", alpha=0.01).verdict(KL)
    assert (verdict.status, verdict.progress) == ("undecided", Progress(4, 8, 0.01))
    assert verdict.message == "the limit of 4 sequences ended the run after 4 of 8 sequences"
    assert verdict.value == pytest.approx(0.05, rel=1e-3)
    assert not verdict.passes


def test_an_undecided_verdict_may_have_no_value() -> None:
    judged = Judged(PART, {}, "the limit of 4 sequences")
    for threshold in (
        Threshold("kl_random_error", max=1.0),
        Threshold("kl.change", max=0.1),
    ):
        verdict = judged.verdict(threshold)
        assert (verdict.status, verdict.estimate) == ("undecided", None)


@pytest.mark.parametrize(
    "judged",
    [
        Judged(WHOLE, {}),
        Judged(PART, {KL: early_verdict()}, "the limit of 4 sequences", alpha=0.01),
        Judged(WHOLE, {KL: early_verdict("fail")}, audit=True),
    ],
    ids=["all sequences", "part", "audited"],
)
def test_verdicts_are_the_same_after_sharing_between_processes(judged: Judged) -> None:
    again = pickle.loads(pickle.dumps(judged))
    assert (again.early, again.ended, again.audit, again.alpha) == (
        judged.early, judged.ended, judged.audit, judged.alpha,
    )  # fmt: skip
    for threshold in CASE.thresholds:
        assert again.verdict(threshold) == judged.verdict(threshold)
