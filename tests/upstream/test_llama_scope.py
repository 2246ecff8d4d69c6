"""Llama Scope folders, loaded here and by SAELens, where SAELens computes what OpenMOSS does.

It leaves out the norms of decoder rows and the pre-bias, so rows have norm 1 and there is none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_guard.checkpoints.load import load

sae_lens = pytest.importorskip("sae_lens", reason="runs in the environment of `make test-saelens`")
loaders: Any = pytest.importorskip("sae_lens.loading.pretrained_sae_loaders")

D, M = 24, 48
HOOK = "blocks.3.hook_resid_post"
NORM = "dataset_average_activation_norm"


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "encoder.weight": torch.randn(M, D), "encoder.bias": torch.randn(M),
        "decoder.weight": torch.nn.functional.normalize(torch.randn(D, M), dim=0),
        "decoder.bias": torch.randn(D),
    }  # fmt: skip


def write_v1(folder: Path) -> None:
    (folder / "checkpoints").mkdir()
    config = {
        "hook_point_in": HOOK, "hook_point_out": HOOK, "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False, "expansion_factor": 2, "d_model": D,
        "d_sae": M, "act_fn": "jumprelu", "jump_relu_threshold": 0.75,
        "norm_activation": "dataset-wise", NORM: {"in": 8.0, "out": 8.0},
        "sparsity_include_decoder_norm": True, "use_glu_encoder": False, "top_k": 50,
    }  # fmt: skip
    (folder / "hyperparams.json").write_text(json.dumps(config))
    save_file(weights(), folder / "checkpoints" / "final.safetensors")


def write_r1(folder: Path) -> None:
    config = {
        "sae_type": "sae", "hook_point_in": HOOK, "hook_point_out": HOOK, "d_model": D,
        "expansion_factor": 2, "use_decoder_bias": True, "use_glu_encoder": False,
        "act_fn": "jumprelu", "jump_relu_threshold": 0.0,
        "apply_decoder_bias_to_pre_encoder": False, "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True, "top_k": 50,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tensors = weights() | {
        "log_jumprelu_threshold": torch.randn(M) * 0.3,
        f"{NORM}.{HOOK}": torch.tensor(8.0),
    }
    save_file(tensors, folder / "sae_weights.safetensors")


@pytest.mark.parametrize("form", ["v1", "r1"])
def test_equals_sae_lens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    (write_v1 if form == "v1" else write_r1)(tmp_path)

    def downloaded(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        return str(tmp_path / Path(subfolder, filename).relative_to("sae"))

    monkeypatch.setattr(loaders, "hf_hub_download", downloaded)
    read = (
        loaders.llama_scope_sae_huggingface_loader
        if form == "v1"
        else loaders.llama_scope_r1_distill_sae_huggingface_loader
    )
    config, tensors, _ = read("", "sae", cfg_overrides={"dtype": "float32"})
    config = loaders.handle_pre_6_0_config(config)
    theirs = sae_lens.SAE.get_sae_class_for_architecture("jumprelu").from_dict(config)
    theirs.load_state_dict(tensors)
    scale = D**0.5 / 8
    theirs.fold_activation_norm_scaling_factor(scale)
    x = torch.randn(4, 10, D) * 2
    with torch.no_grad():
        latents = theirs.encode(x)
        reconstruction = theirs.decode(latents)
    mine = load(tmp_path)(x)
    assert torch.equal(mine.latents != 0, latents != 0)  # L0, exactly
    torch.testing.assert_close(mine.latents, latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.reconstruction, reconstruction, rtol=1e-5, atol=1e-4)
