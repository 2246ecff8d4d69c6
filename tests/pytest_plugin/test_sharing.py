"""What crosses from one xdist worker to another."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sae_guard.errors import InfrastructureError, LoadError, SaeGuardError, SetupError
from sae_guard.gate.session import Workbench
from sae_guard.pytest_plugin.session import shared

if TYPE_CHECKING:
    from sae_guard.gate.cases import Case
    from sae_guard.gate.early import Watch


class Counting(Workbench):
    """A workbench whose measuring always fails, and counts."""

    count = 0

    def _measure(self, case: Case, watch: Watch | None) -> SaeGuardError:
        type(self).count += 1
        return self.error

    error: SaeGuardError


class FakeCase:
    """As much of a case as sharing needs."""

    key = "abc"


@pytest.mark.parametrize("kind", [SetupError, LoadError, InfrastructureError])
def test_an_error_is_shared_with_its_cause(tmp_path: Path, kind: type[SaeGuardError]) -> None:
    Counting.count = 0
    for worker in range(3):
        bench = Counting(device="cpu", share=partial(shared, tmp_path), worker=worker)
        bench.error = kind("what went wrong")
        for _ in range(2):
            with pytest.raises(kind, match="what went wrong"):
                bench.measurement(FakeCase())  # type: ignore[arg-type]
    assert Counting.count == 1


def test_the_broken_part_of_the_contract_is_shared(tmp_path: Path) -> None:
    Counting.count = 0
    for worker in range(2):
        bench = Counting(device="cpu", share=partial(shared, tmp_path), worker=worker)
        bench.error = LoadError("what is broken", "batch_mates")
        with pytest.raises(LoadError, match="what is broken") as caught:
            bench.measurement(FakeCase())  # type: ignore[arg-type]
        assert caught.value.contract == "batch_mates"
    assert Counting.count == 1


def test_a_half_written_measurement_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "abc.npz").write_bytes(b"half")
    bench = Counting(device="cpu", share=partial(shared, tmp_path))
    with pytest.raises(InfrastructureError, match="not a readable measurement"):
        bench.measurement(FakeCase())  # type: ignore[arg-type]
