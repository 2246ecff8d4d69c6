"""The KL of every single token is confirmed, or the first that is not is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.measurement import TokenKL
from sae_guard.history.confirmation import confirm_tokens

KL = [0.0, 0.5, 3.0, 1e-5, float("nan"), float("inf")]


def tokens(kl: list[float], *, first: int = 0) -> TokenKL:
    n = len(kl)
    return TokenKL(
        np.arange(n) // 2 + first, (np.arange(n) % 2).astype(np.int32), np.array(kl, np.float32)
    )


def test_the_same_tokens_are_confirmed_without_any_tolerance() -> None:
    found = confirm_tokens(tokens(KL), tokens(KL), 0)
    assert (found.ok, found.recorded, found.measured) == (True, 6, 6)


@given(st.integers(0, 3), st.floats(1e-6, 1), st.sampled_from([-1, 1]))
def test_one_token_beyond_the_tolerance_is_named(at: int, by: float, sign: int) -> None:
    moved = [*KL]
    moved[at] += sign * by
    apart = abs(float(np.float32(moved[at])) - float(np.float32(KL[at])))
    allowed = max(1e-4 * KL[at], 1e-4)
    if abs(apart - allowed) < 1e-7:
        return
    found = confirm_tokens(tokens(KL), tokens(moved))
    assert found.ok == (apart <= allowed)
    if not found.ok:
        assert found.why.startswith(f"1 differ; at sequence {at // 2}, position {at % 2} it was ")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_confirmed_by_the_same_only(bad: float) -> None:
    for was, now in (([0.5], [bad]), ([bad], [0.5])):
        assert not confirm_tokens(tokens(was), tokens(now), 1.0).ok
    assert confirm_tokens(tokens([bad]), tokens([bad]), 0).ok


def test_other_tokens_and_none_are_not_confirmed() -> None:
    assert confirm_tokens(tokens(KL), tokens(KL, first=1)).why == "of other tokens"
    assert confirm_tokens(tokens(KL), tokens(KL[:-1])).why == "of other tokens"
    assert not confirm_tokens(tokens(KL), None).ok
