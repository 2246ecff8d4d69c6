"""Verdicts, exit codes and reports of every kind, the same in every mode of running pytest."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.helpers.tiny_models import TEXT
from tests.pytest_plugin.projects import LONG_SPEC, Project

FIRST = ("--sae-spec", "tiny", "--sae-baseline", "none")
LATER = ("--sae-spec", "tiny", "--sae-baseline", "v1")
ASKING = """\
thresholds:
  pareto: {x: l0, y: kl}
  kl: {max: 0.1, max_increase: 0.05}
"""
IN_PROCESS = ((), ("-p", "no:xdist"), ("-n0",))


class Scenario(NamedTuple):
    """Arguments of a run, and its expected results."""

    args: tuple[str, ...]
    exit_code: int
    verdicts: dict[str, str]
    """Expected statuses of some tests, by test and checkpoint."""


SCENARIOS = {
    "pass": Scenario(("--sae=good", *FIRST), 0, {"kl[good]": "pass", "load.keys[good]": "pass"}),
    "fail": Scenario(("--sae=bad", *FIRST), 1, {"kl[bad]": "fail", "l0[bad]": "pass"}),
    "error": Scenario(
        ("--sae=broken", *FIRST), 2, {"load.readable[broken]": "error", "kl[broken]": "error"}
    ),
    "early": Scenario(
        ("--sae=good", "--sae=bad", "--sae-spec=long", "--sae-fast"),
        1, {"kl[good]": "pass", "kl[bad]": "fail"},
    ),
    "controls": Scenario(
        ("--sae=bad", "--sae-controls", "-k", "kl or controls", *FIRST),
        1, {"kl[bad]": "fail", "kl[control:identity]": "pass", "controls[bad]": "warn"},
    ),
    "pareto": Scenario(
        ("--sae=bad", "-k", "pareto", *LATER),
        1, {"pareto[bad]": "fail"},
    ),
    "change": Scenario(
        ("--sae=bad", "-k", "change", *LATER),
        1, {"kl.change[bad]": "fail"},
    ),
    "all": Scenario(
        ("--sae=good", "--sae=bad", "--sae=broken", "--sae-controls", *LATER),
        2, {"kl[good]": "pass", "kl.change[good]": "pass", "kl[broken]": "error"},
    ),
}  # fmt: skip


@pytest.fixture
def versions(project: Project) -> Project:
    """Project with ``good`` recorded as v1, an unreadable ``broken`` and a spec with more text."""
    (project.path / "long.txt").write_text(TEXT * 2500, encoding="utf-8")
    project.write_spec(LONG_SPEC.replace("{model}", str(project.model)), "long.yaml")
    project.write_spec(project.spec.replace("thresholds:\n  kl: {max: 0.1}\n", ASKING))
    (project.path / "broken").mkdir()
    for name in ("cfg.json", "sae_weights.safetensors"):
        content = (project.path / "good" / name).read_bytes()
        (project.path / "broken" / name).write_bytes(content[:300])
    (project.path / "broken" / "cfg.json").write_bytes(
        (project.path / "good/cfg.json").read_bytes()
    )
    assert project.run("--sae=good", "--sae-record=v1", *FIRST).ret == 0
    return project


def run(project: Project, scenario: Scenario, *mode: str) -> tuple[int, bytes]:
    """Return the exit code and the report as bytes."""
    result = project.run(*scenario.args, "--sae-json=out.json", *mode)
    return int(result.ret), (project.path / "out.json").read_bytes()


@pytest.mark.parametrize("name", SCENARIOS)
def test_modes_in_one_process_have_the_same_report(versions: Project, name: str) -> None:
    scenario = SCENARIOS[name]
    code, text = run(versions, scenario)
    assert code == scenario.exit_code
    assert (versions.report().exit_code, versions.report().verdict) == (
        code, ("pass", "fail", "error")[code],
    )  # fmt: skip
    verdicts = {
        case.case.test_name(test): status
        for case in versions.report().cases
        for test, status in case.statuses.items()
    }
    assert scenario.verdicts.items() <= verdicts.items()
    for mode in IN_PROCESS[1:]:
        assert run(versions, scenario, *mode) == (code, text)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) for name in SCENARIOS if name != "all"] + ["all"],
)
def test_a_run_with_workers_has_the_same_report(versions: Project, name: str) -> None:
    scenario = SCENARIOS[name]
    serial = run(versions, scenario)
    assert serial[0] == scenario.exit_code
    assert run(versions, scenario, "-n2", "--dist=load") == serial
