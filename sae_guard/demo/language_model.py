"""Train the demo's tokenizer and language model."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from sae_guard.demo import CONTEXT_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

logger = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
LARGEST_VOCABULARY = 1536
"""Vocabulary size that makes each word of the demo's text, with the space before it, one token."""

_BATCH_SIZE = 16  # windows
_PEAK_LEARNING_RATE = 4e-3
_WARM_UP_STEPS = 100
_LOG_EVERY = 200  # steps


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer whose only special token, id 0, begins and ends a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LARGEST_VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=CONTEXT_SIZE,
        clean_up_tokenization_spaces=False,
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> list[torch.Tensor]:
    """Return the token ids of each text, without special tokens, as int64 tensors ``[tokens]``."""
    encodings = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [torch.tensor(encoding.ids, dtype=torch.long) for encoding in encodings]


def cut_windows(
    documents: Sequence[torch.Tensor], *, offsets: Sequence[int] | None = None
) -> torch.Tensor:
    """Cut documents into windows, each of which begins with BOS and holds tokens of one document.

    Args:
        documents: Token ids ``[tokens]`` of each document.
        offsets: Number of tokens to drop at the beginning of each document; by default none.

    Returns:
        Ids ``[windows, context]``. The end of a document that fills no window is dropped.
    """
    length = CONTEXT_SIZE - 1
    pieces = []
    for document, offset in zip(documents, offsets or [0] * len(documents), strict=True):
        count = (len(document) - offset) // length
        if count > 0:
            pieces.append(document[offset : offset + count * length].view(count, length))
    return F.pad(torch.cat(pieces), (1, 0), value=END_OF_TEXT_ID)


def _configuration(vocabulary_size: int) -> GPT2Config:
    return GPT2Config(
        vocab_size=vocabulary_size,
        n_positions=CONTEXT_SIZE,
        n_embd=64,
        n_layer=4,
        n_head=4,
        activation_function="gelu_pytorch_tanh",  # gelu_new, in one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=END_OF_TEXT_ID,
        eos_token_id=END_OF_TEXT_ID,
    )


def next_token_loss(model: GPT2LMHeadModel, windows: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the next token, in nats, on ``[batch, context]`` ids."""
    logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def _optimizer(model: GPT2LMHeadModel) -> torch.optim.AdamW:
    # Biases and gains of layer norms are not decayed, as is usual for GPT-2.
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=_PEAK_LEARNING_RATE, betas=(0.9, 0.95))


def _learning_rate_factor(step: int, steps: int) -> float:
    """Rise linearly to 1, then fall along half a cosine to 0.02."""
    if step < _WARM_UP_STEPS:
        return (step + 1) / _WARM_UP_STEPS
    progress = (step - _WARM_UP_STEPS) / max(1, steps - _WARM_UP_STEPS)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * progress))


def _draw_offsets(count: int, generator: torch.Generator) -> list[int]:
    """Draw the offset at which to cut each document in one epoch.

    Half of them are 0, as the gate cuts documents; the others are random, so that the model sees
    the same tokens at other positions too.
    """
    offsets = torch.randint(CONTEXT_SIZE - 1, (count,), generator=generator)
    from_the_beginning = torch.rand(count, generator=generator) < 0.5
    return torch.where(from_the_beginning, 0, offsets).tolist()


def train_language_model(
    documents: Sequence[torch.Tensor],
    *,
    vocabulary_size: int,
    steps: int,
    generator: torch.Generator,
) -> GPT2LMHeadModel:
    """Train a GPT-2 of 0.3 million parameters.

    Args:
        documents: Token ids ``[tokens]`` of each document.
        vocabulary_size: Size of the tokenizer's vocabulary.
        steps: Number of batches.
        generator: Source of the order of the windows and of their offsets.

    Returns:
        The model in evaluation mode.
    """
    model = GPT2LMHeadModel(_configuration(vocabulary_size))
    optimizer = _optimizer(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _learning_rate_factor(step, steps)
    )
    queue: list[torch.Tensor] = []
    model.train()
    for step in range(steps):
        if not queue:
            windows = cut_windows(documents, offsets=_draw_offsets(len(documents), generator))
            order = torch.randperm(len(windows), generator=generator)
            queue = list(torch.split(windows[order], _BATCH_SIZE))
        loss = next_token_loss(model, queue.pop())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % _LOG_EVERY == 0 or step == steps - 1:
            logger.info("language model, step %d of %d: %.3f nats", step, steps, loss.item())
    model.train(mode=False)
    return model
