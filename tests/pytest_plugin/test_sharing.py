"""Results and errors that workers of pytest-xdist share."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from sae_guard.core.measurement import Measurement
from sae_guard.errors import (
    InfrastructureError,
    LoadError,
    SaeGuardError,
    SetupError,
    SpecError,
    UndefinedMetricError,
)
from sae_guard.gate.options import GateOptions
from sae_guard.gate.session import GateSession
from sae_guard.history import NotRecordedError
from sae_guard.pytest_plugin.sharing import SharedFolder
from sae_guard.testing import measurements
from tests.helpers.changed_measurements import changed
from tests.helpers.recorded import bits, ordinary

if TYPE_CHECKING:
    from sae_guard.gate.cases import Case
    from sae_guard.gate.early import Watch


class Failing(GateSession):
    """Session that counts its measurements, each of which fails."""

    def __init__(self, folder: Path, error: SaeGuardError) -> None:
        options = GateOptions(root=folder, here=folder)
        super().__init__(options, lambda: (), shared_results=SharedFolder(folder))
        self.error = error
        self.count = 0

    def _measure(self, case: Case, watch: Watch | None) -> SaeGuardError:
        self.count += 1
        return self.error


class FakeCase:
    """The part of a case that sharing needs."""

    key = "abc"


@pytest.mark.parametrize("kind", [SetupError, LoadError, InfrastructureError])
def test_an_error_is_shared_with_its_cause(tmp_path: Path, kind: type[SaeGuardError]) -> None:
    sessions = [Failing(tmp_path, kind("what went wrong", options=("hook",))) for _ in range(3)]
    for session in sessions:
        for _ in range(2):
            with pytest.raises(kind, match="what went wrong") as caught:
                session.measurement(FakeCase())  # type: ignore[arg-type]
            assert caught.value.options == ("hook",)
    assert [session.count for session in sessions] == [1, 0, 0]


def test_the_broken_part_of_the_contract_is_shared(tmp_path: Path) -> None:
    sessions = [Failing(tmp_path, LoadError("what is broken", "batch_mates")) for _ in range(2)]
    for session in sessions:
        with pytest.raises(LoadError, match="what is broken") as caught:
            session.measurement(FakeCase())  # type: ignore[arg-type]
        assert caught.value.contract == "batch_mates"
    assert [session.count for session in sessions] == [1, 0]


def test_a_half_written_measurement_is_an_error(tmp_path: Path) -> None:
    stored = pickle.dumps(ordinary())
    (tmp_path / "abc.pickle").write_bytes(stored[: len(stored) // 2])
    session = Failing(tmp_path, SetupError("not asked for"))
    with pytest.raises(InfrastructureError, match=r"abc\.pickle is no readable result"):
        session.measurement(FakeCase())  # type: ignore[arg-type]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(measurements())
def test_a_measurement_is_shared_bit_for_bit(tmp_path: Path, m: Measurement) -> None:
    m = changed(m, kl=np.where(np.arange(m.n_sequences) == 0, np.nan, m.sums["kl"]))
    folder = SharedFolder(Path(tempfile.mkdtemp(dir=tmp_path)))
    assert folder.stored("m") is None
    assert folder.computed_once("m", lambda: m) is m
    again = folder.computed_once("m", ordinary)
    assert again.provenance == m.provenance
    assert (again.sources, again.excerpts) == (m.sources, m.excerpts)
    assert bits(again) == bits(m)
    assert (again.whole_sq_deviation, again.spread) == (m.whole_sq_deviation, m.spread)


@pytest.mark.parametrize(
    "error",
    [
        SpecError("no such key", file="a.yaml", line=3),
        NotRecordedError("no verdict", options=("audit",)),
        LoadError("what is broken", "keys", options=("k",)),
        UndefinedMetricError("0/0"),
    ],
)
def test_every_kind_of_error_is_shared(tmp_path: Path, error: SaeGuardError) -> None:
    SharedFolder(tmp_path).computed_once("e", lambda: error)
    again = SharedFolder(tmp_path).stored("e")
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))
