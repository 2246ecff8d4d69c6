"""``--sae-record`` keeps what a run measured, however it is run, and only what is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_guard.history import History, Recorded
from tests.pytest_plugin.projects import Project

UNFINISHED = """
    import pytest

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item, call):
        report = yield
        if item.name == "l0[good]":
            del report.sae_guard
        return report
    """


def records(project: Project, folder: str = ".sae_guard/history") -> dict[str, Recorded]:
    """By the label of the checkpoint."""
    found, unreadable = History(str(project.path / folder)).records()
    assert unreadable == ()
    return {each.record.checkpoint.label: each for each in found}


def test_each_checkpoint_is_recorded_with_its_verdicts(
    project: Project, mode: tuple[str, ...]
) -> None:
    asked = ("--sae", "good", "--sae", "bad", "--sae-record", "v1.2", "--sae-json", "out.json")
    result = project.run(*asked, *mode)
    assert result.ret == 1
    found = records(project)
    assert set(found) == {"good", "bad"}
    verdicts = project.verdicts()
    for label, recorded in found.items():
        record = recorded.record
        assert (record.name, record.spec.name, record.by != "") == ("v1.2", "tiny", True)
        assert record.spec.file == "thresholds/tiny.yaml"
        told = {f"{row.metric}[{label}]": row.verdict for row in record.thresholds}
        assert told == {name: v for name, v in verdicts.items() if name.endswith(f"[{label}]")}
        outcomes = project.outcomes()
        for row in record.thresholds:
            assert row.value == outcomes[f"{row.metric}[{label}]"].value
            assert row.headroom == outcomes[f"{row.metric}[{label}]"].headroom
        measurement = History(str(project.path / ".sae_guard/history")).measurement(recorded)
        assert measurement["kl"] == record.metrics["kl"].value == outcomes[f"kl[{label}]"].value
        provenance = project.cases()[label].provenance
        assert provenance is not None
        assert measurement.provenance.checkpoint == provenance.checkpoint
        result.stdout.fnmatch_lines([f"recorded: .sae_guard/history/records/{recorded.id}"])
    assert found["good"].record.run == found["bad"].record.run
    assert (found["good"].record.verdict, found["bad"].record.verdict) == ("pass", "fail")


def test_what_is_measured_once_is_recorded_as_often_as_it_is_asked_for(project: Project) -> None:
    asked = ("--sae", "good", "--sae-record")
    assert [project.run(*asked, name).ret for name in ("v1", "v1", "v2")] == [0, 0, 0]
    found, _ = History(str(project.path / ".sae_guard/history")).records()
    assert [each.record.name for each in found] == ["v1", "v1", "v2"]
    assert len({each.record.run for each in found}) == 3
    assert len({each.record.metrics["kl"].value for each in found}) == 1


@pytest.mark.parametrize("mode", [(), ("-n2",)], ids=["plain", "-n2"])
def test_a_case_with_an_error_is_not_recorded_and_others_are(
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
    result = project.run_damaged(UNFINISHED, "--sae", "good", "--sae-record", "v1")
    assert result.ret == 2
    assert records(project) == {}
    result.stdout.fnmatch_lines(["NOT RECORDED: *l0[[]good] was collected and never reported"])


def test_deselected_thresholds_are_in_the_record_all_the_same(project: Project) -> None:
    assert project.run("--sae", "good", "--sae-record", "v1", "-k", "kl").ret == 0
    thresholds = records(project)["good"].record.thresholds
    assert [row.metric for row in thresholds] == ["kl", "l0", "explained_variance"]


def test_nothing_measured_is_no_success(project: Project) -> None:
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


def test_estimates_are_refused_before_and_after(long: Project) -> None:
    asked = ("--sae", "good", "--sae-record", "v1")
    for option in (("--sae-fast",), ("--sae-max-sequences", "64")):
        result = long.run(*asked, *option)
        assert result.ret == 4
        result.stderr.fnmatch_lines(
            ["*good: a record needs all sequences*: audit them (--sae-record, --sae-audit)"]
        )
    result = long.run(*asked, "--sae-audit", "--sae-max-sequences", "64")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["NOT RECORDED: *: 64 of the 192 sequences were measured, *"])
    assert records(long) == {}
    assert long.run(*asked, "--sae-audit").ret == 0
    (row, *_) = records(long)["good"].record.thresholds
    assert row.audit == "pass after 64 of 192 sequences, held"


def test_the_folder_is_where_the_ini_file_says(project: Project, tmp_path: Path) -> None:
    project.pytester.makefile(".ini", pytest="[pytest]\nsae_history = versions\n")
    assert project.run("--sae", "good", "--sae-record", "v1").ret == 0
    assert set(records(project, "versions")) == {"good"}
    url = (tmp_path / "elsewhere").as_uri()
    project.pytester.makefile(".ini", pytest=f"[pytest]\nsae_history = {url}\n")
    result = project.run("--sae", "good", "--sae-record", "v1")
    assert result.ret == 0
    assert len(History(url).records()[0]) == 1
    result.stdout.fnmatch_lines([f"recorded: {tmp_path}/elsewhere/records/*-v1-*"])


def test_the_environment_may_name_the_folder(
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
def test_what_cannot_be_recorded_is_refused_before_it_is_measured(
    project: Project, name: str, history: str, message: str
) -> None:
    project.pytester.makefile(".ini", pytest=f"[pytest]\nsae_history = {history}\n")
    result = project.run("--sae", "good", "--sae-record", name)
    assert result.ret == 4
    result.stderr.fnmatch_lines([message])
