"""Write folders as SAELens 5 and 2 did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.helpers.checkpoint_files import example_sae, tensors_of


def write(folder: Path, architecture: str, era: int, /, **changes: Any) -> Path:
    """Write a folder of SAELens 5 or 2."""
    sae = example_sae(architecture)
    shared = {"model_name": "gpt2-small", "d_in": 6, "d_sae": 10, "dtype": "torch.float32"}
    if era == 5:
        config = {
            **shared,
            "architecture": "standard" if architecture == "topk" else architecture,
            "activation_fn_str": "topk" if architecture == "topk" else "relu",
            "activation_fn_kwargs": {"k": 3} if architecture == "topk" else {},
            "apply_b_dec_to_input": True,
            "finetuning_scaling_factor": False,
            "hook_name": "blocks.8.hook_resid_pre",
            "hook_head_index": None,
            "normalize_activations": "none",
            "prepend_bos": True,
        }
    else:
        config = {
            **shared,
            "hook_point": "blocks.{layer}.hook_resid_pre",
            "hook_point_layer": 8,
            "hook_point_head_index": None,
            "normalize_activations": False,
            "l1_coefficient": 8e-5,  # the config of the whole run
        }
    tensors = tensors_of(sae)
    if era == 2:
        tensors["scaling_factor"] = torch.ones(10)
    extra = changes.pop("tensors", {})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({**config, **changes}))
    save_file({**tensors, **extra}, folder / "sae_weights.safetensors")
    return folder
