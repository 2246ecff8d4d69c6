"""Tiny random models of real architectures, and their tokenizer."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

VOCABULARY = 300
TEXT = "the quick brown fox jumps over the lazy dog and def return class import self "


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with one special token, id 0, as GPT-2's is."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([TEXT] * 20, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


def _gpt2() -> Any:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=3, n_head=4,
            bos_token_id=0, eos_token_id=0, initializer_range=0.2,
            attn_pdrop=0, embd_pdrop=0, resid_pdrop=0,
        )
    )  # fmt: skip


def _llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            bos_token_id=0, eos_token_id=0, initializer_range=0.2,
        )
    )  # fmt: skip


def _pythia() -> Any:
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
            num_attention_heads=4, max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
            initializer_range=0.2,
        )
    )  # fmt: skip


ARCHITECTURES = {"gpt2": _gpt2, "llama": _llama, "pythia": _pythia}
