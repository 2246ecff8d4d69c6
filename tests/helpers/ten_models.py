"""Tiny random models of ten architectures, each with what sets it apart switched on.

Softcaps, sliding windows shorter than the corpus' windows, grouped queries, heads wider than
d_model / n_heads, norms whose weights are no ones: what an engine that runs parts of a model on
its own could lose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerFast

from tests.helpers.tiny_models import VOCABULARY

LAYERS = 3
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
USUAL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": LAYERS, "num_attention_heads": 4, "max_position_embeddings": 64,
    "initializer_range": 0.2, **SPECIAL,
}  # fmt: skip
GPT2 = {
    "vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 32, "n_layer": LAYERS, "n_head": 4,
    "initializer_range": 0.2, "attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0, **SPECIAL,
}  # fmt: skip
GEMMA = {
    "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip
GPT_NEO = {
    "vocab_size": VOCABULARY, "max_position_embeddings": 64, "hidden_size": 32,
    "num_layers": LAYERS, "num_heads": 4, "intermediate_size": 64, "window_size": 8,
    "attention_types": [[["global", "local", "global"], 1]], "initializer_range": 0.2,
    "attention_dropout": 0, "embed_dropout": 0, "resid_dropout": 0, **SPECIAL,
}  # fmt: skip
OPT = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "max_position_embeddings": 64, "word_embed_proj_dim": 32,
    "init_std": 0.2, "dropout": 0, **SPECIAL, "pad_token_id": 1,
}  # fmt: skip


@dataclass(frozen=True)
class TinyModel:
    """Names of a transformers config and model class, and the config's values."""

    config: str
    model: str
    values: dict[str, Any]

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        """Write a model with random weights, norms and biases included."""
        torch.manual_seed(0)
        model = getattr(transformers, self.model)(getattr(transformers, self.config)(**self.values))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # biases and norms begin as zeros and ones
                    parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


TEN = {
    "gpt2": TinyModel("GPT2Config", "GPT2LMHeadModel", GPT2),
    "llama": TinyModel("LlamaConfig", "LlamaForCausalLM", {**USUAL, "num_key_value_heads": 2}),
    "gemma2": TinyModel(
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {**USUAL, **GEMMA, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
    ),
    "gemma3": TinyModel("Gemma3TextConfig", "Gemma3ForCausalLM", {**USUAL, **GEMMA}),
    "gpt_neox": TinyModel("GPTNeoXConfig", "GPTNeoXForCausalLM", USUAL),
    "gpt_neo": TinyModel("GPTNeoConfig", "GPTNeoForCausalLM", GPT_NEO),
    "qwen3": TinyModel(
        "Qwen3Config", "Qwen3ForCausalLM", {**USUAL, "num_key_value_heads": 2, "head_dim": 16}
    ),
    "opt": TinyModel("OPTConfig", "OPTForCausalLM", OPT),
    "phi": TinyModel("PhiConfig", "PhiForCausalLM", USUAL),
    "mistral": TinyModel(
        "MistralConfig",
        "MistralForCausalLM",
        {**USUAL, "num_key_value_heads": 2, "sliding_window": 8},
    ),
}
Folders = Callable[[str], Path]
"""Architecture → the folder of its tiny model."""
