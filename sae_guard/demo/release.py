"""Writing the demo's model and SAEs in the formats that others read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from sae_guard.demo import CONTEXT_SIZE, HOOK_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

    from sae_guard.demo.sparse_autoencoders import SparseAutoencoder

_READABLE_BY_ALL = 0o644
_SAELENS_FORMAT = "6.54.12"


def write_language_model(
    folder: Path, model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Write model and tokenizer as Hugging Face does."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # safetensors creates its files for the owner alone; an installed package is read by others.
    (folder / "model.safetensors").chmod(_READABLE_BY_ALL)


def write_sparse_autoencoder(
    folder: Path, sae: SparseAutoencoder, *, threshold: float, scale: float
) -> None:
    """Write an SAE as SAELens 6 does: TopK as it is, BatchTopK as JumpReLU with its threshold.

    Args:
        folder: Where to; made if need be.
        sae: Trained on activations that were multiplied by ``scale``.
        threshold: In the units of the scaled activations; TopK has no use for it.
        scale: Folded out here. With ReLU and unit decoder rows it leaves both matrices alone,
            f(s·x) = s·f(x), and divides what is added or compared.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "W_enc": sae.W_enc.detach(),
        "b_enc": sae.b_enc.detach() / scale,
        "W_dec": sae.W_dec.detach(),
        "b_dec": sae.b_dec.detach() / scale,
    }
    if sae.recipe.selection == "per_batch":
        tensors["threshold"] = torch.full((sae.recipe.d_sae,), threshold / scale)
    weights = folder / "sae_weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, weights)
    weights.chmod(_READABLE_BY_ALL)
    text = json.dumps(_configuration(sae), indent=2)
    (folder / "cfg.json").write_text(text + "\n", encoding="utf-8")


def _configuration(sae: SparseAutoencoder) -> dict[str, Any]:
    recipe = sae.recipe
    if recipe.selection == "per_token":
        own = {"architecture": "topk", "k": recipe.k, "rescale_acts_by_decoder_norm": False}
    else:
        own = {"architecture": "jumprelu"}
    return {
        **own,
        "d_in": sae.W_enc.shape[0],
        "d_sae": recipe.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "model_name": "sae-guard-demo",
            "hook_name": HOOK_NAME,
            "prepend_bos": True,
            "context_size": CONTEXT_SIZE,
            "sae_lens_version": _SAELENS_FORMAT,
            "dataset_path": "sae-guard-demo",
        },
    }
