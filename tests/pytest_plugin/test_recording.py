"""``--sae-record``: which cases are recorded, with which content, in every mode of running."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_guard.history import History, Recorded, read_measurement
from tests.pytest_plugin.projects import Project

LOST_REPORT = """
    import pytest

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item, call):
        report = yield
        if item.name == "l0[good]":
            del report.sae_guard
        return report
    """


def records(project: Project, folder: str = ".sae_guard/history") -> dict[str, Recorded]:
    """Return the records in the history, by the name of their checkpoint."""
    recorded, unreadable = History(str(project.path / folder)).records()
    assert unreadable == ()
    return {one.record.checkpoint.label: one for one in recorded}


def test_checkpoints_are_recorded_with_their_verdicts(
    project: Project, mode: tuple[str, ...]
) -> None:
    args = ("--sae", "good", "--sae", "bad", "--sae-record", "v1.2", "--sae-json", "out.json")
    result = project.run(*args, *mode)
    assert result.ret == 1
    by_member = records(project)
    assert set(by_member) == {"good", "bad"}
    verdicts = project.verdicts()
    for member, recorded in by_member.items():
        record = recorded.record
        assert (record.name, record.spec.name, record.by != "") == ("v1.2", "tiny", True)
        assert record.spec.file == "thresholds/tiny.yaml"
        statuses = {f"{row.metric}[{member}]": row.verdict for row in record.thresholds}
        assert statuses == {n: v for n, v in verdicts.items() if n.endswith(f"[{member}]")}
        outcomes = project.outcomes()
        for row in record.thresholds:
            assert row.value == outcomes[f"{row.metric}[{member}]"].value
            assert row.headroom == outcomes[f"{row.metric}[{member}]"].headroom
        measurement = read_measurement(recorded)
        assert measurement["kl"] == record.metrics["kl"].value == outcomes[f"kl[{member}]"].value
        provenance = project.cases()[member].provenance
        assert provenance is not None
        assert measurement.provenance.checkpoint == provenance.checkpoint
        result.stdout.fnmatch_lines([f"recorded: .sae_guard/history/records/{recorded.id}"])
    good, bad = by_member["good"].record, by_member["bad"].record
    assert good.run == bad.run
    assert (good.verdict, bad.verdict) == ("pass", "fail")


def test_every_run_adds_a_record_even_with_the_same_name(project: Project) -> None:
    args = ("--sae", "good", "--sae-record")
    assert [project.run(*args, name).ret for name in ("v1", "v1", "v2")] == [0, 0, 0]
    recorded, _ = History(str(project.path / ".sae_guard/history")).records()
    assert [one.record.name for one in recorded] == ["v1", "v1", "v2"]
    assert len({one.record.run for one in recorded}) == 3
    assert len({one.record.metrics["kl"].value for one in recorded}) == 1


@pytest.mark.parametrize("mode", [(), ("-n2",)], ids=["plain", "-n2"])
def test_a_case_with_an_error_is_not_recorded_but_others_are(
    project: Project, mode: tuple[str, ...]
) -> None:
    (project.path / "bad" / "sae_weights.safetensors").write_bytes(b"nothing")
    result = project.run("--sae", "good", "--sae", "bad", "--sae-record", "v1", *mode)
    assert result.ret == 2
    assert set(records(project)) == {"good"}
    result.stdout.fnmatch_lines(
        [
            "NOT RECORDED: thresholds/tiny.yaml::tiny [[]bad]: thresholds/tiny.yaml::tiny::"
            "load.readable[[]bad] ended in an error: *sae_weights.safetensors*"
        ]
    )


def test_a_case_with_a_lost_verdict_is_not_recorded(project: Project) -> None:
    result = project.run_damaged(LOST_REPORT, "--sae", "good", "--sae-record", "v1")
    assert result.ret == 2
    assert records(project) == {}
    result.stdout.fnmatch_lines(["NOT RECORDED: *l0[[]good] was collected and never reported"])


def test_a_record_has_the_verdicts_of_deselected_thresholds_too(project: Project) -> None:
    assert project.run("--sae", "good", "--sae-record", "v1", "-k", "kl").ret == 0
    thresholds = records(project)["good"].record.thresholds
    assert [row.metric for row in thresholds] == ["kl", "l0", "explained_variance"]


def test_a_run_that_measures_nothing_cannot_be_recorded(project: Project) -> None:
    result = project.run("--sae", "good", "--sae-record", "v1", "-k", "load")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["NOT RECORDED: * [[]good]: it was not measured: *"])
    project.pytester.makepyfile(test_mine="def test_mine(): pass")
    result = project.run("--sae-record", "v1", "test_mine.py")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["NOT RECORDED: no checkpoint was gated"])
    assert records(project) == {}


def test_controls_are_not_recorded(project: Project) -> None:
    project.run("--sae", "good", "--sae-record", "v1", "--sae-controls")
    assert set(records(project)) == {"good"}


def test_early_estimates_are_not_recorded(long: Project) -> None:
    args = ("--sae", "good", "--sae-record", "v1")
    for option in (("--sae-fast",), ("--sae-max-sequences", "64")):
        result = long.run(*args, *option)
        assert result.ret == 4
        result.stderr.fnmatch_lines(
            ["*good: a record needs all sequences*measures to the end (--sae-record, --sae-audit)"]
        )
    result = long.run(*args, "--sae-audit", "--sae-max-sequences", "64")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["NOT RECORDED: *: 64 of the 192 sequences were measured, *"])
    assert records(long) == {}
    assert long.run(*args, "--sae-audit").ret == 0
    (row, *_) = records(long)["good"].record.thresholds
    assert row.audit == "pass after 64 of 192 sequences, held"


def test_the_ini_file_names_the_folder_of_the_history(project: Project, tmp_path: Path) -> None:
    project.pytester.makefile(".ini", pytest="[pytest]\nsae_history = versions\n")
    assert project.run("--sae", "good", "--sae-record", "v1").ret == 0
    assert set(records(project, "versions")) == {"good"}
    url = (tmp_path / "elsewhere").as_uri()
    project.pytester.makefile(".ini", pytest=f"[pytest]\nsae_history = {url}\n")
    result = project.run("--sae", "good", "--sae-record", "v1")
    assert result.ret == 0
    assert len(History(url).records()[0]) == 1
    result.stdout.fnmatch_lines([f"recorded: {tmp_path}/elsewhere/records/*-v1-*"])


def test_the_environment_names_the_folder_of_the_history(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAE_GUARD_HISTORY", "from-here")
    assert project.run("--sae", "good", "--sae-record", "v1").ret == 0
    assert set(records(project, "from-here")) == {"good"}


@pytest.mark.parametrize(
    ("name", "history", "message"),
    [
        ("v 1", "", "*: 'v 1' is no name of a version; allowed: * (--sae-record)"),
        ("v1", "text.txt", "*: */text.txt/records: Not a directory (--sae-record)"),
        ("v1", "nowhere://h", "*: nowhere://h/records: Protocol not known: nowhere (--sae-record)"),
    ],
)
def test_an_invalid_name_or_history_is_an_error_before_measuring(
    project: Project, name: str, history: str, message: str
) -> None:
    project.pytester.makefile(".ini", pytest=f"[pytest]\nsae_history = {history}\n")
    result = project.run("--sae", "good", "--sae-record", name)
    assert result.ret == 4
    result.stderr.fnmatch_lines([message])
