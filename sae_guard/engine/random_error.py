"""Random errors as long as the error of an SAE, as a baseline for the effect of that error.

Gurnee, *SAE reconstruction errors are (empirically) pathological* (2024): the error of an SAE
raises KL several times as much as a random error of the same length.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from sae_guard.corpus import Corpus


def unit_directions(
    corpus: Corpus, rows: Iterable[int], width: int
) -> Float[Tensor, "batch pos width"]:
    """Draw a unit vector for each token, uniformly from the sphere; float32, on the CPU.

    The vectors of a window depend only on the corpus and the index of the window, so that all SAEs
    get the same ones, for any batch size and on any device.

    Args:
        corpus: Windows.
        rows: Indices of the windows.
        width: Dimension of the vectors, d_out.
    """
    shape = (corpus.tokens.shape[1], width)
    # 64 bits. The key of Philox has two such words: one for the corpus, one for the window.
    corpus_seed = int(corpus.sha256[:16], 16)
    # Normal coordinates, normalised, are uniform on the sphere.
    normals = [
        np.random.Generator(np.random.Philox(key=np.array([corpus_seed, row], dtype=np.uint64)))
        .standard_normal(shape, dtype=np.float32)
        for row in rows
    ]  # fmt: skip
    return normalize(torch.from_numpy(np.stack(normals)), dim=-1)


def with_random_error(
    y: Float[Tensor, "batch pos d_out"],
    y_hat: Float[Tensor, "batch pos d_out"],
    corpus: Corpus,
    rows: Iterable[int],
) -> Float[Tensor, "batch pos d_out"]:
    """Return y + ‖y − ŷ‖·u, which is as far from y as ŷ is; u are `unit_directions`.

    Args:
        y: Activation.
        y_hat: Its reconstruction.
        corpus: Windows.
        rows: Indices of the windows of the batch.
    """
    length: Tensor = torch.linalg.vector_norm(y - y_hat, dim=-1, keepdim=True)
    return y + length * unit_directions(corpus, rows, y.shape[-1]).to(y)
