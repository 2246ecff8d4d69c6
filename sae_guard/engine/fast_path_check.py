"""Proof before use: the fast path against the plain one, on the first sequences."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sae_guard.engine import plain
from sae_guard.engine.ablation import Ablated
from sae_guard.engine.clean_run import Bases
from sae_guard.engine.fast import Run
from sae_guard.engine.token_metrics import ABLATIONS

# Per token, absolute and relative: what float32 logits of another batch shape differ by, and what
# the residuals of half-precision models do, which are rounded to 8 bits.
_TOLERANCE, _TOLERANCE_OF_HALVES = 1e-4, 5e-2
_SEQUENCES = 2


def difference(run: Run, ablated: Ablated, bases: Bases, batch: slice) -> str | None:
    """Where the sums of the first scored sequences are not those of the plain path, if anywhere.

    Args:
        run: After the batch.
        ablated: Of its hook point. What is remembered of it was proved before.
        bases: What the batch was run from.
        batch: With a scored token.
    """
    scored = run.corpus.scored[batch].any(dim=1)
    first = batch.start + int(scored.nonzero()[0])
    rows = slice(first, min(first + _SEQUENCES, batch.stop))
    base = bases.of(rows)
    y = base.seen[run.suffix.source(run.at.replaced)]
    centre = y[run.corpus.scored[rows].to(y.device)].mean(dim=0).double().cpu()
    known = ablated.mean is not None
    mean = None if known else centre
    expected = plain.batch(
        run.suffix.model, run.sae, run.corpus, run.at, rows, mean, random_error=run.random_error
    ).sums
    found = {name: sums[rows] for name, sums in run.sums.items()}
    if not known:
        for name, value_of in ABLATIONS.items():
            found[name] = ablated.losses(value_of(centre), rows, base)
        found["sq_deviation"] = ablated.deviations(centre, rows, base)
    half = run.suffix.model.identity["dtype"] in ("float16", "bfloat16")
    tolerance = _TOLERANCE_OF_HALVES if half else _TOLERANCE
    n = expected["n_tokens"].clamp(min=1)
    for name, sums in expected.items():
        if _far(found[name] / n, sums / n, tolerance):
            mine, theirs = ((values / n).tolist() for values in (found[name], sums))
            return f"{name} differs from that of the whole model: {mine}, {theirs}"
    return None


def _far(mine: Float[Tensor, " rows"], theirs: Float[Tensor, " rows"], tolerance: float) -> bool:
    finite = mine.isfinite() & theirs.isfinite()
    # What is not finite in both is no difference: a verdict on it will not be reached.
    either = mine.isfinite() | theirs.isfinite()
    far = (mine - theirs).abs() > tolerance * (1 + theirs.abs())
    return bool(((far | ~finite) & either).any())
