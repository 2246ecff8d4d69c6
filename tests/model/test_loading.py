"""Models that cannot be loaded, or not onto these devices, are refused with what would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_guard.errors import InfrastructureError, SetupError
from sae_guard.model import DeviceMap, load_model
from tests.helpers.device_maps import BEFORE_4, ON_DISK


def test_a_folder_without_a_model_names_its_neighbours(model_folders: dict[str, Path]) -> None:
    with pytest.raises(SetupError, match=r"no model folder \(no config.json\); did you mean gpt2"):
        load_model(model_folders["gpt2"].with_name("gpt3"))


def test_a_model_that_is_not_at_hand_names_the_nearest_names() -> None:
    with pytest.raises(InfrastructureError, match=r"'gpt2-smal' is not in the local cache.* gpt2"):
        load_model("gpt2-smal")


@pytest.mark.parametrize(
    ("device_map", "message"),
    [
        ("everywhere", "device_map 'everywhere': .*; allowed: auto, balanced"),
        ({"": "meta"}, "placed by device_map .*'meta'.*; allowed: auto"),
        ({"model": "cpu", "lm_head": 0}, "placed by device_map .*mixes"),
        ({"model": "cpu", "lm_heed": "cpu"}, "no module 'lm_heed', .*; did you mean lm_head"),
        pytest.param(
            {"": 0}, "placed by device_map {'': 0}",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        pytest.param(
            ON_DISK, "placed by device_map .*disk.* not supported",
            marks=pytest.mark.skipif(not BEFORE_4, reason="TransformerLens 4 offloads to disk"),
        ),
    ],
    ids=str,
)  # fmt: skip
def test_a_device_map_that_cannot_be_is_refused(
    model_folders: dict[str, Path], device_map: DeviceMap, message: str
) -> None:
    with pytest.raises(SetupError, match=message):
        load_model(model_folders["llama"], device_map=device_map)


@pytest.mark.skipif(BEFORE_4, reason="TransformerLens 3.9 offloads nothing to disk")
def test_weights_on_disk_cannot_be_processed(model_folders: dict[str, Path]) -> None:
    with pytest.raises(SetupError, match=r"placed by device_map .*offloaded"):
        load_model(model_folders["llama"], device_map=ON_DISK, processing="hooked")


def test_a_device_beside_a_device_map_is_refused(model_folders: dict[str, Path]) -> None:
    with pytest.raises(SetupError, match="device cpu and device_map 'auto' exclude each other"):
        load_model(model_folders["llama"], device="cpu", device_map="auto")


def test_a_model_that_does_not_fit_is_no_fault_of_the_spec(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TransformerBridge, "boot_transformers", full)
    with pytest.raises(InfrastructureError, match="does not fit by device_map 'auto': CUDA out"):
        load_model(model_folders["llama"], device_map="auto")
