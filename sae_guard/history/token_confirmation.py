"""The KL of single tokens of a record × what is measured again → whether it is confirmed. Pure."""

from __future__ import annotations

import numpy as np

from sae_guard.core.measurement.token_table import TokenKL
from sae_guard.history.confirmation import FLOOR, SINGLE, TOLERANCE, Compared

NAME = "token_kl"


def confirm_tokens(
    recorded: TokenKL, measured: TokenKL | None, tolerance: float = TOLERANCE
) -> Compared:
    """How many tokens there are, and whether each has the KL that it had.

    Args:
        recorded: As kept beside the record.
        measured: The same checkpoint on the same tokens; None where single tokens were not kept.
        tolerance: Of each value. Near zero it is what rounding makes of single tokens.
    """
    n = len(recorded.kl)
    if measured is None:
        return Compared(NAME, n, None, 0, "single tokens were not measured again")
    if not (
        np.array_equal(recorded.sequences, measured.sequences)
        and np.array_equal(recorded.positions, measured.positions)
    ):
        return Compared(NAME, n, len(measured.kl), 0, "of other tokens")
    was, now = recorded.kl.astype(np.float64), measured.kl.astype(np.float64)
    with np.errstate(invalid="ignore"):
        allowed = np.maximum(tolerance * np.abs(was), SINGLE * FLOOR)
        near = np.isfinite(was) & (np.abs(now - was) <= allowed)
    near |= (now == was) | (np.isnan(now) & np.isnan(was))
    told = ""
    if not near.all():
        at = int(np.flatnonzero(~near)[0])
        told = (
            f"{int((~near).sum()):,} differ; at sequence {recorded.sequences[at]}, position "
            f"{recorded.positions[at]} it was {was[at]:.6g}, and is {now[at]:.6g}"
        )
    return Compared(NAME, n, n, 0, told)
