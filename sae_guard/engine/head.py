"""From final hidden states to losses: the unembedding, in chunks of tokens.

[batch, pos, vocab] never exists: what is alive at once is a constant times `_ELEMENTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_guard.metrics import tokens as formulas

Unembed = Callable[[Float[Tensor, "tokens d_model"]], Float[Tensor, "tokens vocab"]]

# Of one logits tensor, of which about eight are alive at once; larger ones fall out of caches.
_ELEMENTS = 2**22
# With fewer, reading the unembedding matrix costs more than multiplying by it.
_LEAST_TOKENS = 64


def losses(
    unembed: Unembed,
    clean: Float[Tensor, "tokens d_model"],
    others: Mapping[str, Float[Tensor, "tokens d_model"]],
    target: Int[Tensor, " tokens"],
    vocabulary: int,
) -> dict[str, Float[Tensor, " tokens"]]:
    """``ce_clean``, a ``ce_`` for each of the others, and ``kl`` of the one called patched.

    Args:
        unembed: Final hidden states → logits.
        clean: Final hidden states of the clean run.
        others: Name → those of runs with the activation replaced; ``patched`` is one of them.
        target: The actual next tokens.
        vocabulary: Number of tokens predicted over.
    """
    columns: dict[str, list[Tensor]] = {
        "kl": [], "ce_clean": [], **{f"ce_{name}": [] for name in others}
    }  # fmt: skip
    for part in _chunks(len(target), vocabulary):
        log_p = formulas.log_probs(unembed(clean[part]))
        columns["ce_clean"].append(formulas.cross_entropy(log_p, target[part]))
        for name, final in others.items():
            log_q = formulas.log_probs(unembed(final[part]))
            columns[f"ce_{name}"].append(formulas.cross_entropy(log_q, target[part]))
            if name == "patched":
                columns["kl"].append(formulas.kl_divergence(log_p, log_q))
    return {name: torch.cat(values) for name, values in columns.items()}


def cross_entropy(
    unembed: Unembed,
    final: Float[Tensor, "tokens d_model"],
    target: Int[Tensor, " tokens"],
    vocabulary: int,
) -> Float[Tensor, " tokens"]:
    """−log Q(actual next token) of each final hidden state, in nats."""
    return torch.cat(
        [
            formulas.cross_entropy(formulas.log_probs(unembed(final[part])), target[part])
            for part in _chunks(len(target), vocabulary)
        ]
    )


def shared_cross_entropy(
    unembed: Unembed,
    final: Float[Tensor, "pos d_model"],
    target: Int[Tensor, "sequences pos"],
    vocabulary: int,
) -> Float[Tensor, "sequences pos"]:
    """The same where one final hidden state per position serves all sequences."""
    parts = []
    for part in _chunks(len(final), vocabulary):
        log_q = formulas.log_probs(unembed(final[part]))
        parts.append(-log_q.gather(1, target[:, part].T).T)
    return torch.cat(parts, dim=1)


def _chunks(tokens: int, vocabulary: int) -> list[slice]:
    step = max(_LEAST_TOKENS, _ELEMENTS // vocabulary)
    return [slice(at, at + step) for at in range(0, max(tokens, 1), step)]
