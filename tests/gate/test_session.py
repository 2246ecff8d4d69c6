"""The device of a process, and the check of an SAE's width."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sae_guard.errors import LoadError, SetupError
from sae_guard.gate.options import GateOptions
from sae_guard.gate.session import GateSession, pick_device
from sae_guard.sae import SAE
from sae_guard.sae.controls import identity_sae


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the machine has two GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_the_default_device_without_an_accelerator_is_the_cpu() -> None:
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


class SessionWithWidths(GateSession):
    """Session with a transcoder from 6 to 6, and a model with these widths."""

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
def test_both_hook_points_must_be_as_wide_as_the_sae(
    widths: dict[str, int], message: str | None
) -> None:
    session = SessionWithWidths(GateOptions(Path(), Path(), device="cpu"), list)
    session.widths = widths
    case: Any = SimpleNamespace(hook="in", hook_out="out", spec=None, checkpoint="v1")
    if message is None:
        session.check(case, "shapes")
        return
    with pytest.raises(LoadError) as caught:
        session.check(case, "shapes")
    assert (str(caught.value), caught.value.contract) == (message, "shapes")
