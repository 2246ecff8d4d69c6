"""Options of a command as options of the gate."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_guard.cli.session import create_session, gate_options, plan_cases
from sae_guard.errors import SetupError, SpecError
from sae_guard.gate.options import EarlyOptions
from tests.helpers.canned_session import write_checkpoint
from tests.helpers.recorded import SPEC


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root folder of a project, of which a subfolder is the current folder."""
    monkeypatch.delenv("SAE_GUARD_HISTORY", raising=False)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "thresholds").mkdir()
    (tmp_path / "thresholds" / "tiny.yaml").write_text(SPEC)
    monkeypatch.chdir(write_checkpoint(tmp_path / "saes" / "v1").parent)
    return tmp_path


def test_the_root_is_that_of_pytest_and_paths_start_from_the_current_folder(project: Path) -> None:
    options = gate_options(checkpoints=("v1",), baseline="none")
    assert (options.root, options.here) == (project, project / "saes")
    assert (options.checkpoints, options.baseline) == (("v1",), "none")
    (case,) = plan_cases(options)
    assert str(case.ref) == "thresholds/tiny.yaml::tiny [v1]"


def test_early_verdicts_are_off(project: Path) -> None:
    assert gate_options().early == EarlyOptions(never=True)


def test_unused_options_about_saes_are_left_to_the_spec(project: Path) -> None:
    assert gate_options({"k": 4, "architecture": None, "pre_bias": False}).sae == {
        "k": 4, "pre_bias": False,
    }  # fmt: skip
    assert gate_options().sae == {}


def test_a_folder_of_records_starts_from_the_current_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def url(folder: str | None) -> str:
        return create_session(gate_options(folder=folder), ()).history.url

    assert url(None) == str(project / ".sae_guard" / "history")
    assert url("records") == str(project / "saes" / "records")
    assert url("memory://records") == "memory://records"
    monkeypatch.setenv("SAE_GUARD_HISTORY", "kept")
    assert url(None) == str(project / "kept")
    assert url("records") == str(project / "saes" / "records")


def test_unknown_checkpoints_and_malformed_specs_are_refused(project: Path) -> None:
    with pytest.raises(SetupError, match="nowhere"):
        plan_cases(gate_options(checkpoints=("nowhere",)))
    (project / "thresholds" / "tiny.yaml").write_text("name: [")
    with pytest.raises(SpecError, match=r"^thresholds/tiny\.yaml:1: "):
        plan_cases(gate_options(checkpoints=("v1",)))


def test_a_spec_is_named_by_its_path_from_the_root(project: Path) -> None:
    (case,) = plan_cases(gate_options(checkpoints=("v1",)))
    assert case.spec.spec_file == "thresholds/tiny.yaml"
    (project / "thresholds" / "bad.yaml").write_text("name: [")
    with pytest.raises(SpecError, match=r"^thresholds/bad\.yaml:1: "):
        plan_cases(gate_options(checkpoints=("v1",)))
