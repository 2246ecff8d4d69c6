"""A test whose report is lost makes the run an error: the controller expects every report."""

from __future__ import annotations

import pytest

from tests.pytest_plugin.projects import Project

UNSENDABLE = """
    import canned
    import numpy as np
    import pytest

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item, call):
        report = yield
        if call.when == "call":
            report.user_properties.append(("mine", np.float64(1)))
        return report
    """
CRASH = """
    import canned
    import os
    from sae_guard.gate.session import GateSession

    GateSession._measure = lambda *args, **kwargs: os._exit(3)
    """
LOST = """
    import canned
    import pytest

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item, call):
        report = yield
        if item.name.startswith("kl"):
            del report.sae_guard
        return report
    """
UNREADABLE = LOST.replace("del report.sae_guard", "report.sae_guard = '{'")
DISAGREEING = """
    import canned
    import json
    import os
    import pytest

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item, call):
        report = yield
        if os.environ["PYTEST_XDIST_WORKER"] == "gw1" and hasattr(report, "sae_guard"):
            plain = json.loads(report.sae_guard)
            {change}
            report.sae_guard = json.dumps(plain)
        return report
    """
FLATTERED = """
    import canned
    import pytest

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item, call):
        report = yield
        report.outcome = "passed"
        return report
    """
SKIPPED = """
    import pytest

    def pytest_collection_modifyitems(items):
        for item in items:
            item.add_marker(pytest.mark.skip(reason="later"))

    def pytest_runtest_setup(item):
        pytest.skip("later")
    """


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["plain", "-n2"])
def test_a_lost_verdict_is_no_pass(project: Project, workers: tuple[str, ...]) -> None:
    result = project.run_damaged(LOST, "--sae", "good", *workers)
    assert result.ret == 2
    result.stdout.fnmatch_lines(
        ["NO VERDICT: thresholds/tiny.yaml::tiny::kl[[]good] was collected and never reported"]
    )


def test_a_report_that_cannot_be_read_is_no_pass(project: Project) -> None:
    result = project.run_damaged(UNREADABLE, "--sae", "good")
    assert result.ret == 2
    result.stdout.fnmatch_lines(
        ["NO VERDICT: thresholds/tiny.yaml::tiny::kl[[]good] has an unreadable report: *"]
    )


@pytest.mark.parametrize(
    ("how", "change", "test", "part"),
    [
        ("load", "plain['sample']['n_tokens'] += 1", "l0", "sample"),
        ("each", "plain['verdicts'][0]['status'] = 'warn'", "kl", "kl"),
    ],
)
def test_contradicting_reports_of_two_workers_are_an_error(
    project: Project, how: str, change: str, test: str, part: str
) -> None:
    """With ``load`` each of the two tests has a worker of its own; with ``each`` both have both."""
    damage = DISAGREEING.format(change=change)
    args = ("--sae", "good", "--sae-json", "out.json", "-n2", "--dist", how, "-k", "kl or l0")
    result = project.run_damaged(damage, *args)
    assert result.ret == 2
    case = "thresholds/tiny.yaml::tiny"
    line = f"NO VERDICT: {case}::{test}[good] {case} [good]: {part} was reported twice, and *"
    result.stdout.fnmatch_lines([line.replace("[", "[[]")])
    report = project.report()
    assert (report.verdict, report.exit_code) == ("error", 2)
    assert report.not_judged[0].test == test


def test_a_report_that_cannot_cross_processes_is_no_pass(project: Project) -> None:
    result = project.run_damaged(UNSENDABLE, "--sae", "good", "-n2")
    assert result.ret != 0


def test_a_crashed_worker_is_no_pass(project: Project) -> None:
    result = project.run_damaged(CRASH, "--sae", "good", "-n1")
    assert result.ret == 2
    result.stdout.fnmatch_lines(
        ["*worker 'gw*' crashed while running 'thresholds/tiny.yaml*",
         "NO VERDICT: thresholds/tiny.yaml::tiny::kl[[]good] failed without a verdict"]
    )  # fmt: skip


def test_a_failure_that_another_plugin_hides_still_fails(project: Project) -> None:
    assert project.run_damaged(FLATTERED, "--sae", "bad").ret == 1


def test_a_skipped_test_is_no_pass(project: Project) -> None:
    result = project.run_damaged(SKIPPED, "--sae", "good")
    assert result.ret == 2
    result.stdout.fnmatch_lines(
        ["NO VERDICT: *load.readable[[]good] was collected and never reported"]
    )


def test_after_a_failure_unreported_tests_leave_the_run_failed(project: Project) -> None:
    """-x leaves tests unreported on purpose; the run has failed already."""
    result = project.run("--sae", "bad", "-x")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["NO VERDICT: *l0[[]bad] was collected and never reported"])
