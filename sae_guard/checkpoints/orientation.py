"""Which way the matrices of a file lie, by the sizes of its biases and not by its names alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

_PER_LATENT = ("b_enc", "threshold", "b_gate", "b_mag")


def oriented(
    tensors: Mapping[str, Tensor], *, transposed: Collection[str] = ()
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """``W_enc`` as [d, d_sae] and ``W_dec`` as [d_sae, d], and what had to be turned for it.

    Args:
        tensors: Under canonical names.
        transposed: The matrices that the format is known to keep the other way round. It decides
            where the sizes do not: d_sae is d, or a bias is missing.
    """
    turned, notes = dict(tensors), []
    d_sae, d = _length(tensors, *_PER_LATENT), _length(tensors, "b_dec")
    for name, shape in (("W_enc", (d, d_sae)), ("W_dec", (d_sae, d))):
        matrix = tensors.get(name)
        if matrix is None or matrix.ndim != 2:
            continue
        as_named, as_turned = matrix.shape == shape, matrix.shape == shape[::-1]
        lies = as_turned if as_named != as_turned else name in transposed
        if lies:
            turned[name] = matrix.T.contiguous()
        if lies != (name in transposed):
            notes.append(f"{name} lies as {list(matrix.shape)}, by the sizes of the biases")
    return turned, tuple(notes)


def _length(tensors: Mapping[str, Tensor], *names: str) -> int | None:
    return next(
        (len(tensors[name]) for name in names if name in tensors and tensors[name].ndim == 1), None
    )
