"""Which device a process measures on, and what crosses from one worker to another."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from sae_guard.controls import identity_sae
from sae_guard.errors import InfrastructureError, LoadError, SaeGuardError, SetupError
from sae_guard.pytest_plugin.workbench import Workbench, pick_device
from sae_guard.sae import SAE

if TYPE_CHECKING:
    from sae_guard.cases import Case
    from sae_guard.pytest_plugin.early import Watch


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_without_an_accelerator_it_is_the_cpu() -> None:
    if torch.cuda.device_count() or torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    assert pick_device("auto", 0) == "cpu"
    with pytest.raises(SetupError, match="this machine has 0 CUDA devices"):
        pick_device("cuda", 0)
    with pytest.raises(SetupError, match="no MPS device"):
        pick_device("mps", 0)


@pytest.mark.usefixtures("gpus")
def test_workers_take_the_gpus_in_turn() -> None:
    assert [pick_device("auto", n) for n in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [pick_device("cuda", n) for n in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert pick_device("cuda:1", 0) == "cuda:1"
    assert pick_device("cpu", 0) == "cpu"
    with pytest.raises(SetupError, match="cuda:2: this machine has 2 CUDA devices"):
        pick_device("cuda:2", 0)


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
        bench = Counting(device="cpu", shared=tmp_path, worker=worker)
        bench.error = kind("what went wrong")
        for _ in range(2):
            with pytest.raises(kind, match="what went wrong"):
                bench.measurement(FakeCase())  # type: ignore[arg-type]
    assert Counting.count == 1


def test_the_broken_part_of_the_contract_is_shared(tmp_path: Path) -> None:
    Counting.count = 0
    for worker in range(2):
        bench = Counting(device="cpu", shared=tmp_path, worker=worker)
        bench.error = LoadError("what is broken", "batch_mates")
        with pytest.raises(LoadError, match="what is broken") as caught:
            bench.measurement(FakeCase())  # type: ignore[arg-type]
        assert caught.value.contract == "batch_mates"
    assert Counting.count == 1


def test_a_half_written_measurement_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "abc.npz").write_bytes(b"half")
    bench = Counting(device="cpu", shared=tmp_path)
    with pytest.raises(InfrastructureError, match="not a readable measurement"):
        bench.measurement(FakeCase())  # type: ignore[arg-type]


class Wide(Workbench):
    """With a model whose hook points are so wide, and a transcoder from 6 to 6."""

    widths: dict[str, int]

    def model(self, spec: Any) -> Any:
        return SimpleNamespace(name="tiny", width=self.widths.__getitem__)

    def sae(self, case: Any) -> SAE:
        return identity_sae(6)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"in": 6, "out": 6}, None),
        ({"in": 7, "out": 6}, "v1: d_in is 6, but in of tiny is 7 wide"),
        ({"in": 6, "out": 5}, "v1: d_out is 6, but out of tiny is 5 wide"),
    ],
)
def test_both_hook_points_are_as_wide_as_the_sae(
    widths: dict[str, int], message: str | None
) -> None:
    bench = Wide(device="cpu")
    bench.widths = widths
    case: Any = SimpleNamespace(hook="in", hook_out="out", spec=None, checkpoint="v1")
    if message is None:
        bench.check(case, "shapes")
        return
    with pytest.raises(LoadError) as caught:
        bench.check(case, "shapes")
    assert (str(caught.value), caught.value.contract) == (message, "shapes")
