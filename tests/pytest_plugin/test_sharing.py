"""Results and errors that workers of pytest-xdist share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sae_guard.errors import InfrastructureError, LoadError, SaeGuardError, SetupError
from sae_guard.gate.options import GateOptions
from sae_guard.gate.session import GateSession
from sae_guard.pytest_plugin.sharing import SharedFolder

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
    (tmp_path / "abc.npz").write_bytes(b"half")
    session = Failing(tmp_path, SetupError("not asked for"))
    with pytest.raises(InfrastructureError, match="not a readable measurement"):
        session.measurement(FakeCase())  # type: ignore[arg-type]
