"""A small project with a spec and two SAEs, for runs of pytest inside of pytest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.projects import Project


@pytest.fixture
def project(pytester: pytest.Pytester, model_folders: dict[str, Path]) -> Project:
    """``good`` keeps every threshold, ``bad`` crosses kl and explained_variance, not l0."""
    from tests.pytest_plugin.projects import make_project

    return make_project(pytester, model_folders["gpt2"])


@pytest.fixture
def long(project: Project) -> Project:
    """The project with enough text for early verdicts."""
    from tests.helpers.tiny_models import TEXT
    from tests.pytest_plugin.projects import LONG_SPEC

    (project.path / "long.txt").write_text(TEXT * 2500, encoding="utf-8")
    project.write_spec(LONG_SPEC.replace("{model}", str(project.model)))
    return project


@pytest.fixture(params=["plain", "no xdist", "-n0", pytest.param("-n2", marks=pytest.mark.slow)])
def mode(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Options of one way to run pytest; with ``-n2`` each spec file keeps to one worker.

    Workers take long to start; `in_every_mode` asks for them in `make test` too.
    """
    return {
        "plain": (),
        "no xdist": ("-p", "no:xdist"),
        "-n0": ("-n0",),
        "-n2": ("-n2", "--dist", "loadfile"),
    }[request.param]
