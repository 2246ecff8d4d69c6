"""Fixtures for tests of the user. A test that uses one runs once per spec and checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sae_guard.pytest_plugin.plan import plan_of
from sae_guard.pytest_plugin.session import session_of

if TYPE_CHECKING:
    from sae_guard.core.measurement import Measurement
    from sae_guard.corpus import Corpus
    from sae_guard.gate.cases import Case
    from sae_guard.model import LanguageModel
    from sae_guard.sae import SAE


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Parametrize a test that uses the fixtures: one run per case of the plan."""
    if "sae_case" not in metafunc.fixturenames:
        return
    cases = [case for case in plan_of(metafunc.config).cases if case.checkpoint]
    ids = [f"{case.spec.name}-{case.member}" for case in cases]
    # None: `sae_case` skips that run with a reason, which an empty list would not give.
    metafunc.parametrize(
        "sae_case", cases or [None], ids=ids or ["no checkpoint"], indirect=True, scope="session"
    )


@pytest.fixture(scope="session")
def sae_case(request: pytest.FixtureRequest) -> Case:
    """The spec and checkpoint that the other fixtures are about."""
    case: Case | None = request.param
    if case is None:
        pytest.skip("no checkpoint: name one with --sae CHECKPOINT, or `checkpoint` in a spec")
    return case


@pytest.fixture(scope="session")
def sae_device(pytestconfig: pytest.Config) -> str:
    """The device that this process measures on, such as ``cuda:0``."""
    return session_of(pytestconfig).device


@pytest.fixture(scope="session")
def sae_model(sae_case: Case, pytestconfig: pytest.Config) -> LanguageModel:
    """The language model of the spec."""
    return session_of(pytestconfig).model(sae_case.spec)


@pytest.fixture(scope="session")
def sae_corpus(sae_case: Case, pytestconfig: pytest.Config) -> Corpus:
    """The token windows of the spec."""
    return session_of(pytestconfig).corpus(sae_case.spec)


@pytest.fixture(scope="session")
def sae(sae_case: Case, pytestconfig: pytest.Config) -> SAE:
    """The checkpoint's SAE."""
    return session_of(pytestconfig).sae(sae_case)


@pytest.fixture(scope="session")
def sae_measurement(sae_case: Case, pytestconfig: pytest.Config) -> Measurement:
    """The measurement: ``sae_measurement["kl"]`` is a metric's value."""
    return session_of(pytestconfig).measurement(sae_case)
