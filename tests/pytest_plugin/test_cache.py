"""``--sae-cache``: which runs reuse results, and what the summary says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sae_guard.cache import Cache
from sae_guard.engine.clean_run import CleanRuns
from sae_guard.engine.sae_run import SaeRun
from sae_guard.sae.controls import identity_sae
from tests.helpers.checkpoint_files import config_of, write_saelens
from tests.pytest_plugin.projects import HOOK, METADATA, Project

MEASURED_BEFORE = "*reused from the cache: numbers of the same weights, tokens and code"


def paths(project: Project) -> dict[str, str]:
    """Return the source of the clean run by checkpoint."""
    cases = project.report().cases
    return {c.case.member: c.provenance.paths["clean run"] for c in cases if c.provenance}


def values(project: Project) -> dict[str, float]:
    """Return the judged values by threshold and checkpoint."""
    return {name: estimate.value for name, estimate in project.estimates().items()}


def test_a_second_checkpoint_reuses_the_clean_run_and_a_second_run_all(
    project: Project,
) -> None:
    options = ("--sae-cache=kept", "--sae-json=out.json")
    project.run("--sae=good", *options)
    assert paths(project) == {"good": "run, and remembered"}
    project.run("--sae=bad", *options)
    assert paths(project) == {"bad": "remembered"}
    first = values(project)
    again = project.run("--sae=good", "--sae=bad", *options)
    assert paths(project) == {"good": "measured before", "bad": "measured before"}
    assert {name: values(project)[name] for name in first} == first
    again.stdout.fnmatch_lines([MEASURED_BEFORE])
    without = project.run("--sae=good", "--sae-cache=off", "--sae-json=out.json")
    assert paths(project) == {"good": "run"}
    without.stdout.no_fnmatch_line(MEASURED_BEFORE)
    assert len(Cache(project.path / "kept").entries()) == 1


@pytest.mark.slow
def test_workers_share_the_cache(project: Project) -> None:
    project.run("--sae=bad", "--sae-cache=kept")
    project.run("--sae=good", "--sae=bad", "--sae-cache=kept", "--sae-json=out.json", "-n2")
    assert paths(project) == {"good": "remembered", "bad": "measured before"}


def test_the_environment_names_the_folder(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAE_GUARD_CACHE", str(tmp_path / "elsewhere"))
    project.run("--sae=good")
    assert Cache(tmp_path / "elsewhere").entries()
    monkeypatch.setenv("SAE_GUARD_CACHE", "off")
    project.run("--sae=good", "--sae-json=out.json")
    assert paths(project) == {"good": "run"}
    assert not (project.path / "off").exists()


def test_another_bound_needs_no_measurement(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.run("--sae=bad", "--sae-cache=kept").assert_outcomes(passed=11, failed=2)

    def never(*args: Any) -> None:
        raise AssertionError("it was measured before")

    monkeypatch.setattr(SaeRun, "finals", never)
    project.write_spec(project.spec.replace("kl: {max: 0.1}", "kl: {max: 100}"))
    project.run("--sae=bad", "--sae-cache=kept").assert_outcomes(passed=12, failed=1)


def test_one_clean_run_serves_all_hook_points_of_a_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = "blocks.0.hook_mlp_out"
    project.write_spec(project.spec.replace(HOOK, early).replace("tiny\n", "early\n"), "early.yaml")
    sae = identity_sae(32)
    config = config_of(sae, metadata={**METADATA, "hook_name": early})
    write_saelens(project.path / "early", sae, config=config)
    right, runs = CleanRuns._run, []

    def run(self: CleanRuns, *args: Any, **more: Any) -> Any:
        runs.append(args)
        return right(self, *args, **more)

    monkeypatch.setattr(CleanRuns, "_run", run)
    project.run("--sae=good", "--sae=early", "--sae-cache=kept", "--sae-json=out.json")
    assert sorted(paths(project).values()) == ["remembered", "run, and remembered"]
    assert len(runs) == 1


def test_an_unusable_cache_is_reported_and_changes_no_verdict(project: Project) -> None:
    (project.path / "file").write_text("no folder", encoding="utf-8")
    result = project.run("--sae=good", "--sae-cache=file", "--sae-json=out.json")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["  clean run: run, and not remembered: *file*"])


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf", "much"])
def test_what_the_cache_may_hold_is_a_number(project: Project, size: str) -> None:
    result = project.run("--sae=good", f"--sae-cache-gib={size}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--sae-cache-gib '{size}'; allowed: a number above 0"])
