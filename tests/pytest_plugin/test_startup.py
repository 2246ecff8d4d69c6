"""A pytest run without SAEs imports almost nothing of sae_guard, and nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pytest_plugin.projects import Project

HEAVY = {"torch", "transformers", "transformer_lens", "datasets", "scipy", "jaxtyping"}
IDLE = {*HEAVY, "numpy", "pydantic", "yaml"}
LIGHT = {"errors", "files", "gate", "gate.options", "gate.project", "gate.run_plan"}
"""Modules of sae_guard, besides the plugin's own, that a run without SAEs imports."""
RUN = """
import sys, pytest
code = pytest.main(["-p", "sae_guard.pytest_plugin", *sys.argv[1:]])
print("modules:", *sys.modules)
sys.exit(code)
"""


def imported(folder: Path, *args: str) -> set[str]:
    """Return the modules that a pytest run without other plugins imports."""
    process = subprocess.run(
        [sys.executable, "-c", RUN, *args], cwd=folder, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    return set(process.stdout.splitlines()[-1].removeprefix("modules:").split())


@pytest.mark.parametrize("args", [("--help",), ("-q", "test_other.py"), ("-q",)])
def test_a_run_without_saes_imports_nothing_heavy(project: Project, args: tuple[str, ...]) -> None:
    project.pytester.makepyfile(test_other="def test_other(): pass")
    (project.path / "thresholds" / "tiny.yaml").unlink()
    modules = imported(project.path, *args)
    assert "sae_guard.pytest_plugin" in modules
    assert not modules & IDLE
    ours = {name.removeprefix("sae_guard.") for name in modules if name.startswith("sae_guard.")}
    assert {name for name in ours if not name.startswith("pytest_plugin")} == LIGHT


def test_the_version_of_pytest_imports_no_torch(project: Project) -> None:
    assert not imported(project.path, "--version") & IDLE


def test_collecting_specs_imports_no_torch(project: Project) -> None:
    modules = imported(project.path, "--collect-only", "-q", "--sae", "good")
    assert "sae_guard.gate.planning" in modules
    assert not modules & HEAVY
