"""Errors of `load_model` name the model, the device map and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_guard.errors import InfrastructureError, SetupError
from sae_guard.model import DeviceMap, load_model
from tests.helpers.device_maps import BEFORE_4, ON_DISK


def test_a_folder_without_config_is_an_error_with_the_nearest_folders(
    model_folders: dict[str, Path],
) -> None:
    with pytest.raises(SetupError, match=r"gpt3 .*config\.json.*did you mean gpt2"):
        load_model(model_folders["gpt2"].with_name("gpt3"))


def test_an_unknown_model_name_is_an_error_with_the_nearest_names() -> None:
    with pytest.raises(InfrastructureError, match=r"'gpt2-smal' .*local cache.* gpt2"):
        load_model("gpt2-smal")


@pytest.mark.parametrize(
    ("device_map", "message"),
    [
        ("everywhere", "device_map 'everywhere'.*allowed: auto, balanced"),
        ({"": "meta"}, "device_map .*'meta'.*allowed: auto"),
        ({"model": "cpu", "lm_head": 0}, "device_map .*mixes"),
        ({"model": "cpu", "lm_heed": "cpu"}, "'lm_heed'.*did you mean lm_head"),
        pytest.param(
            {"": 0}, "device_map {'': 0}",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        pytest.param(
            ON_DISK, "device_map .*disk.* not supported",
            marks=pytest.mark.skipif(not BEFORE_4, reason="TransformerLens 4 offloads to disk"),
        ),
    ],
    ids=str,
)  # fmt: skip
def test_an_impossible_device_map_is_an_error(
    model_folders: dict[str, Path], device_map: DeviceMap, message: str
) -> None:
    with pytest.raises(SetupError, match=message):
        load_model(model_folders["llama"], device_map=device_map)


@pytest.mark.skipif(BEFORE_4, reason="TransformerLens 3.9 offloads nothing to disk")
def test_weights_on_disk_with_hooked_processing_are_an_error(
    model_folders: dict[str, Path],
) -> None:
    with pytest.raises(SetupError, match=r"device_map .*offloaded"):
        load_model(model_folders["llama"], device_map=ON_DISK, processing="hooked")


def test_a_device_together_with_a_device_map_is_an_error(model_folders: dict[str, Path]) -> None:
    with pytest.raises(SetupError, match=r"device cpu and device_map 'auto'.*allowed: one"):
        load_model(model_folders["llama"], device="cpu", device_map="auto")


def test_a_model_too_large_for_the_memory_is_an_infrastructure_error(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    def run_out_of_memory(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TransformerBridge, "boot_transformers", run_out_of_memory)
    with pytest.raises(InfrastructureError, match=r"'auto'.*CUDA out"):
        load_model(model_folders["llama"], device_map="auto")
