"""Proof before use: the fast path against the plain one, on the first sequences."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from sae_guard.engine import plain
from sae_guard.engine.fast import Sweep

# Per token, absolute and relative: what float32 logits of another batch shape differ by, and what
# the half-precision ones do, whose unembedding is rounded to 8 bits.
_TOLERANCE, _TOLERANCE_OF_HALVES = 1e-4, 5e-2


def difference(sweep: Sweep, rows: Int[Tensor, " sequences"]) -> str | None:
    """Where the sums of these sequences are not those of the plain path; None if they are.

    Args:
        sweep: After the batch that holds them; its centre stands in for μ.
        rows: Of that batch, each with scored tokens.
    """
    if sweep.centre is None:
        raise RuntimeError("nothing was scored")
    model = sweep.suffix.model
    expected, _ = plain.batch_sums(model, sweep.sae, sweep.corpus, sweep.at, rows, sweep.centre)
    found = {name: sums[rows] for name, sums in sweep.sums.items()}
    for name, value in (("ce_zero", torch.zeros(())), ("ce_mean", sweep.centre)):
        found[name] = sweep.ablated(name, value, rows)[rows]
    half = model.identity["dtype"] in ("float16", "bfloat16")
    tolerance = _TOLERANCE_OF_HALVES if half else _TOLERANCE
    n = expected["n_tokens"].clamp(min=1)
    for name, sums in expected.items():
        mine, theirs = found[name] / n, sums / n
        # What is not finite in both is no difference: a verdict on it will not be reached.
        both = mine.isfinite() | theirs.isfinite()
        far = (mine - theirs).abs() > tolerance * (1 + theirs.abs())
        if bool(((far | ~(mine.isfinite() & theirs.isfinite())) & both).any()):
            return (
                f"{name} differs from that of the whole model: {mine.tolist()}, {theirs.tolist()}"
            )
    return None
