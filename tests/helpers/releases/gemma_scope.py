"""Write SAEs and transcoders as Gemma Scope's are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from tests.helpers.drawn import draw


def write(folder: Path, *, lower: bool = False, d_out: int = 6) -> dict[str, Tensor]:
    """Write the parameters of an SAE or transcoder."""
    arrays = {
        "W_enc": draw(6, 10), "W_dec": draw(10, d_out, seed=1), "b_enc": draw(10),
        "b_dec": draw(d_out), "threshold": draw(10, seed=2).abs(),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    named = {n.lower() if lower and n.startswith("W") else n: t for n, t in arrays.items()}
    np.savez(folder / "params.npz", allow_pickle=False, **{n: t.numpy() for n, t in named.items()})
    return arrays
