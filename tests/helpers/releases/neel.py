"""Write SAEs as Neel Nanda's and the attention SAEs of GPT-2 are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.helpers.drawn import draw

CONFIG = {"act_name": "blocks.0.mlp.hook_post", "act_size": 6, "dict_size": 10}
ATTENTION = {
    "act_name": "blocks.5.attn.hook_z", "act_size": 6, "dict_size": 10, "layer": 5,
    "model_name": "gpt2-small", "site": "z",
}  # fmt: skip


def write(folder: Path, config: dict[str, Any], *, turned: bool = False) -> dict[str, Tensor]:
    """Write the weights and the config of version 25."""
    w = {"W_enc": draw(6, 10), "W_dec": draw(10, 6, seed=1), "b_enc": draw(10), "b_dec": draw(6)}
    lying = {n: t.T.contiguous() if turned and t.ndim == 2 else t for n, t in w.items()}
    torch.save(lying, folder / "25.pt")
    (folder / "25_cfg.json").write_text(json.dumps(config))
    return w
