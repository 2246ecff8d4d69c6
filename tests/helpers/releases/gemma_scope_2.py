"""Write SAEs and transcoders as Gemma Scope 2's are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tests.helpers.drawn import draw

READ = "model.layers.5.pre_feedforward_layernorm.output"
WRITTEN = "model.layers.5.post_feedforward_layernorm.output"
SAE_HERE = {"hf_hook_point_in": "model.layers.5.output", "hf_hook_point_out": None}
TRANSCODER = {"hf_hook_point_in": READ, "hf_hook_point_out": WRITTEN}


def write(
    folder: Path, config: dict[str, Any] | None = None, *, skip: bool = False, d_out: int = 6
) -> dict[str, Tensor]:
    """Write the parameters of an SAE or transcoder, and a config where one is given."""
    tensors = {
        "w_enc": draw(6, 10), "w_dec": draw(10, d_out, seed=1), "b_enc": draw(10),
        "b_dec": draw(d_out), "threshold": draw(10, seed=2).abs(),
    }  # fmt: skip
    if skip:
        tensors["affine_skip_connection"] = draw(6, d_out, seed=3)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "params.safetensors")
    if config is not None:
        said = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", **config}
        (folder / "config.json").write_text(json.dumps(said))
    return tensors
