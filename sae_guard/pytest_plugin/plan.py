"""The plan of a run as pytest shows it: what is wrong with it is a usage error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sae_guard.errors import InfrastructureError, SaeGuardError
from sae_guard.gate.run_plan import RunPlan
from sae_guard.pytest_plugin.options import EXIT_ERROR
from sae_guard.pytest_plugin.spelling import spelled

if TYPE_CHECKING:
    from sae_guard.gate.planning import Plan

RUN_PLAN = pytest.StashKey[RunPlan]()


@contextmanager
def as_usage_errors() -> Iterator[None]:
    """Turn what is wrong with the request into `pytest.UsageError`; a lost machine ends the run."""
    try:
        yield
    except InfrastructureError as error:
        pytest.exit(f"sae_guard: {spelled(error)}", EXIT_ERROR)
    except SaeGuardError as error:
        raise pytest.UsageError(f"sae_guard: {spelled(error)}") from None


def plan_of(config: pytest.Config) -> Plan:
    """Give the plan of the run; raises `pytest.UsageError`."""
    with as_usage_errors():
        return config.stash[RUN_PLAN].plan


def gates(config: pytest.Config, path: Path) -> bool:
    """Say whether a file is a spec file of the run; raises `pytest.UsageError`."""
    if path.suffix not in (".yaml", ".yml"):
        return False
    with as_usage_errors():
        return path in config.stash[RUN_PLAN].spec_files
