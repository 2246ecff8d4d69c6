"""Write SAEs as Qwen Scope's are published."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tests.helpers.drawn import draw

FOLDER = "SAE-Res-Qwen3-1.7B-Base-W32K-L0_2"


def write(folder: Path, *, d_sae: int = 10, name: str = "layer3.sae.pt") -> dict[str, Tensor]:
    """Write the weights of one layer."""
    w = {
        "W_enc": draw(d_sae, 6), "W_dec": draw(6, d_sae, seed=1), "b_enc": draw(d_sae),
        "b_dec": draw(6, seed=2),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(w, folder / name)
    return w
