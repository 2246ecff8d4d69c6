"""Errors as long as an SAE's in random directions: what its error is compared with.

Gurnee, *SAE reconstruction errors are (empirically) pathological* (2024): the error of an SAE does
several times the harm of a random one of its length.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from sae_guard.corpus import Corpus


def directions(corpus: Corpus, rows: Iterable[int], width: int) -> Float[Tensor, "batch pos width"]:
    """A unit vector for each token, uniform on the sphere; float32, on the CPU.

    Those of a window depend on the corpus and on the window's place in it alone, so that all SAEs
    get the same ones, in batches of whatever size and on whatever device.
    """
    shape = (corpus.tokens.shape[1], width)
    of_corpus = int(corpus.sha256[:16], 16)
    drawn = [
        np.random.Generator(np.random.Philox(key=np.array([of_corpus, row], dtype=np.uint64)))
        .standard_normal(shape, dtype=np.float32)
        for row in rows
    ]  # fmt: skip
    return normalize(torch.from_numpy(np.stack(drawn)), dim=-1)


def with_random_error(
    y: Float[Tensor, "batch pos d_out"],
    y_hat: Float[Tensor, "batch pos d_out"],
    corpus: Corpus,
    rows: Iterable[int],
) -> Float[Tensor, "batch pos d_out"]:
    """y + ‖y − ŷ‖·u, u the `directions` of these windows: as far from y as ŷ is."""
    length: Tensor = torch.linalg.vector_norm(y - y_hat, dim=-1, keepdim=True)
    return y + length * directions(corpus, rows, y.shape[-1]).to(y)
