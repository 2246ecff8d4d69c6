"""Write SAEs as Goodfire's, and the one of a DeepSeek model, are published."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tests.helpers.drawn import draw

DEEPSEEK = "DeepSeek-R1-Distill-Llama-8B-SAE-l19"


def write(path: Path, suffix: str = "", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Write the weights, with what follows the names of the layers."""
    w = {
        f"encoder{suffix}.weight": draw(10, 6), f"encoder{suffix}.bias": draw(10),
        f"decoder{suffix}.weight": draw(6, 10, seed=1), f"decoder{suffix}.bias": draw(6),
    }  # fmt: skip
    stored = {name: tensor.to(dtype) for name, tensor in w.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(stored, path)
    return {name.replace(suffix + ".", "."): tensor.float() for name, tensor in stored.items()}
