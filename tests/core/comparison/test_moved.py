"""The sequences and tokens that moved most, against sorting all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.comparison.moved import moved_sequences, moved_tokens
from sae_guard.core.measurement import Around, Excerpts, Measurement, TokenKL
from sae_guard.errors import UndefinedMetricError
from tests.helpers.recorded import ordinary, tokenwise


def with_token_kl(measurement: Measurement) -> tuple[Measurement, TokenKL]:
    tokens = measurement.token_kl
    assert tokens is not None
    return measurement, tokens


@given(st.integers(0, 20), st.floats(0.5, 2))
def test_moved_items_equal_both_ends_of_a_full_sort(limit: int, times: float) -> None:
    before, after = tokenwise(ordinary()), tokenwise(ordinary(), 1, times=times)
    assert before.tokens is not None
    assert after.tokens is not None
    old, new = (item.tokens.columns["kl"] for item in (before, after))  # type: ignore[union-attr]
    tokens = sorted(
        (float(new[place]) - float(old[place]), place) for place in np.ndindex(old.shape)
    )
    result = moved_tokens(with_token_kl(before), with_token_kl(after), limit)
    for items, ends in ((result.worse, tokens[::-1]), (result.better, tokens)):
        assert [(item.sequence, item.position) for item in items] == [p for _, p in ends[:limit]]
        assert [item.after - item.before for item in items] == [move for move, _ in ends[:limit]]
    means = sorted(
        (float(after.sums["kl"][row] - before.sums["kl"][row]) / 100, row) for row in range(8)
    )
    sequences = moved_sequences(before, after, limit)
    rose = [row for move, row in means[::-1] if move > 0][:limit]
    fell = [row for move, row in means if move < 0][:limit]
    assert [item.sequence for item in sequences.worse] == rose
    assert [item.sequence for item in sequences.better] == fell
    assert all(item.n_tokens == 100 for item in sequences.worse)


def test_unmoved_items_are_omitted_and_swapping_swaps_directions() -> None:
    a, b = tokenwise(ordinary()), tokenwise(ordinary(), 1)
    still = moved_tokens(with_token_kl(a), with_token_kl(a), 5)
    assert (still.worse, still.better) == ((), ())
    assert moved_sequences(a, a, 5).worse == ()
    forward, back = (
        moved_tokens(with_token_kl(x), with_token_kl(y), 5) for x, y in ((a, b), (b, a))
    )
    places, same = (
        [(item.sequence, item.position) for item in items] for items in (forward.worse, back.better)
    )
    assert places == same


def test_moved_items_have_the_source_and_text_of_either_version() -> None:
    a, b = tokenwise(ordinary()), tokenwise(ordinary(), 1)
    worst = moved_tokens(with_token_kl(a), with_token_kl(b), 1).worse[0]
    sequence = moved_sequences(a, b, 1).worse[0]
    text = Around("def ", "f", "(")
    excerpts = Excerpts({(worst.sequence, worst.position): text}, {sequence.sequence: "def f"})
    sources = tuple(f"{row}.py" for row in range(8))
    for x, y in ((replace(a, excerpts=excerpts, sources=sources), b),
                 (a, replace(b, excerpts=excerpts, sources=sources))):  # fmt: skip
        token = moved_tokens(with_token_kl(x), with_token_kl(y), 1).worse[0]
        assert (token.around, token.source) == (text, f"{worst.sequence}.py")
        other = moved_sequences(x, y, 1).worse[0]
        assert (other.text, other.source) == ("def f", f"{sequence.sequence}.py")
    assert worst.around == ("", "", "")


def test_sequences_are_identified_by_their_index_in_the_corpus() -> None:
    a, b = tokenwise(ordinary()), tokenwise(ordinary(), 1)
    plain = moved_tokens(with_token_kl(a), with_token_kl(b), 3).worse
    later = np.arange(8) * 3 + 5
    sources = tuple("abcdefgh")
    x, y = (replace(item, sequences=later, sources=sources) for item in (a, b))
    result = moved_tokens(with_token_kl(x), with_token_kl(y), 3).worse
    assert [item.sequence for item in result] == [3 * item.sequence + 5 for item in plain]
    assert [item.source for item in result] == [sources[item.sequence] for item in plain]


def test_other_tokens_and_non_finite_values_are_refused() -> None:
    measurement, tokens = with_token_kl(tokenwise(ordinary()))
    fewer = TokenKL(tokens.sequences[1:], tokens.positions[1:], tokens.kl[1:])
    shifted = TokenKL(tokens.sequences, tokens.positions + np.int32(1), tokens.kl)
    for other in (fewer, shifted):
        with pytest.raises(UndefinedMetricError, match="the scored tokens differ"):
            moved_tokens((measurement, tokens), (measurement, other), 1)
    for value in (np.nan, np.inf):
        broken = replace(tokens, kl=np.where(tokens.positions == 3, np.float32(value), tokens.kl))
        with pytest.raises(UndefinedMetricError, match="KL of a token is not finite"):
            moved_tokens((measurement, broken), (measurement, broken), 1)
