"""The plan of a pytest run; errors of the plan are usage errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sae_guard.errors import InfrastructureError, Option, SaeGuardError, with_options
from sae_guard.gate.run_plan import RunPlan
from sae_guard.pytest_plugin.options import EXIT_ERROR
from sae_guard.pytest_plugin.spelling import SPELLINGS, spelled

if TYPE_CHECKING:
    from sae_guard.gate.planning import Plan

RUN_PLAN = pytest.StashKey[RunPlan]()


@contextmanager
def as_usage_errors(*about: Option) -> Iterator[None]:
    """Turn errors of sae_guard into `pytest.UsageError`.

    Args:
        about: Options that an error is about if it names none itself.
    """
    try:
        yield
    except SaeGuardError as error:
        message = with_options(str(error), error.options or about, SPELLINGS)
        raise pytest.UsageError(f"sae_guard: {message}") from None


def plan_of(config: pytest.Config) -> Plan:
    """Return the plan of the run; raises `pytest.UsageError`.

    An infrastructure error, such as a failed download, ends the run.
    """
    with as_usage_errors():
        try:
            return config.stash[RUN_PLAN].plan
        except InfrastructureError as error:
            pytest.exit(f"sae_guard: {spelled(error)}", EXIT_ERROR)


def gates(config: pytest.Config, path: Path) -> bool:
    """Return whether a file is a spec file of the run; raises `pytest.UsageError`."""
    if path.suffix not in (".yaml", ".yml"):
        return False
    with as_usage_errors():
        return path in config.stash[RUN_PLAN].spec_files
