"""Place the weights of a tiny model: on devices, in memory, on disk."""

from __future__ import annotations

import importlib.metadata

from sae_guard.model import DeviceMap

BEFORE_4 = importlib.metadata.version("transformer-lens") < "4"
ON_DISK = {
    "model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
    "model.layers.2": "disk", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu",
}  # fmt: skip
DEVICE_MAPS: list[DeviceMap] = [
    "auto", "cpu", {"": "cpu"},
    *([] if BEFORE_4 else [ON_DISK, ON_DISK | {"lm_head": "disk"}, {"": "disk"}]),
]  # fmt: skip
