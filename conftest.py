"""Test set-up shared by all tests: the plugin tester, stable terminal output, no network."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester"]

# Assertions of shared helpers fail with the same detail as those of tests.
pytest.register_assert_rewrite("tests.helpers")

# How many examples a property is tried on: in `make test-fast`, `make test` and `make test-all`.
for _profile, _examples in {"quick": 10, "sae_guard": 40, "thorough": 100}.items():
    settings.register_profile(
        _profile,
        max_examples=_examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile("sae_guard")


def pytest_configure(config: pytest.Config) -> None:
    """A test that reaches for the hub fails at once, or for the user's cache; a gate may."""
    if not config.getoption("sae"):
        os.environ["HF_HUB_OFFLINE"] = "1"  # before any Hugging Face library is imported
        os.environ["SAE_GUARD_CACHE"] = "off"


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("CI", "PY_COLORS", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
