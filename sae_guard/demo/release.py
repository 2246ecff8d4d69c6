"""Write the demo's model and SAEs in the formats of Hugging Face and SAELens."""

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
    """Write model and tokenizer into a folder, in the format of Hugging Face."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # safetensors lets only the owner read its files, but all users read an installed package.
    (folder / "model.safetensors").chmod(_READABLE_BY_ALL)


def write_sparse_autoencoder(
    folder: Path, sae: SparseAutoencoder, *, threshold: float, scale: float
) -> None:
    """Write an SAE in the format of SAELens 6: TopK as it is, BatchTopK as JumpReLU.

    The scale of the training is folded into the weights. The latents are ReLUs of linear functions,
    so f(s·x) = s·f(x) holds for an SAE without biases: both matrices stay as they are, and biases
    and threshold are divided by s.

    Args:
        folder: Folder to write; created if it does not exist.
        sae: SAE that was trained on activations multiplied by ``scale``.
        threshold: Threshold of the latents of BatchTopK, in units of the scaled activations.
        scale: Factor s by which the activations were multiplied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "W_enc": sae.W_enc.detach(),
        "b_enc": sae.b_enc.detach() / scale,
        "W_dec": sae.W_dec.detach(),
        "b_dec": sae.b_dec.detach() / scale,
    }
    # A batch is not at hand when the SAE is used: the threshold stands in for its competition.
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
        family = {"architecture": "topk", "k": recipe.k, "rescale_acts_by_decoder_norm": False}
    else:
        family = {"architecture": "jumprelu"}
    return {
        **family,
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
