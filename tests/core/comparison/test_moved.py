"""What moved most, against sorting everything."""

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


def known(measurement: Measurement) -> tuple[Measurement, TokenKL]:
    tokens = measurement.token_kl
    assert tokens is not None
    return measurement, tokens


@given(st.integers(0, 20), st.floats(0.5, 2))
def test_it_is_the_ends_of_all_that_is_sorted(most: int, times: float) -> None:
    before, after = tokenwise(ordinary()), tokenwise(ordinary(), 1, times=times)
    assert before.tokens is not None
    assert after.tokens is not None
    old, new = (each.tokens.columns["kl"] for each in (before, after))  # type: ignore[union-attr]
    tokens = sorted(
        (float(new[place]) - float(old[place]), place) for place in np.ndindex(old.shape)
    )
    found = moved_tokens(known(before), known(after), most)
    for items, ends in ((found.worse, tokens[::-1]), (found.better, tokens)):
        assert [(each.sequence, each.position) for each in items] == [p for _, p in ends[:most]]
        assert [each.after - each.before for each in items] == [move for move, _ in ends[:most]]
    means = sorted(
        (float(after.sums["kl"][row] - before.sums["kl"][row]) / 100, row) for row in range(8)
    )
    sequences = moved_sequences(before, after, most)
    rose = [row for move, row in means[::-1] if move > 0][:most]
    fell = [row for move, row in means if move < 0][:most]
    assert [each.sequence for each in sequences.worse] == rose
    assert [each.sequence for each in sequences.better] == fell
    assert all(each.n_tokens == 100 for each in sequences.worse)


def test_what_did_not_move_is_not_shown_and_one_way_back_is_the_other() -> None:
    a, b = tokenwise(ordinary()), tokenwise(ordinary(), 1)
    still = moved_tokens(known(a), known(a), 5)
    assert (still.worse, still.better) == ((), ())
    assert moved_sequences(a, a, 5).worse == ()
    there, back = (moved_tokens(known(x), known(y), 5) for x, y in ((a, b), (b, a)))
    places, same = (
        [(each.sequence, each.position) for each in way] for way in (there.worse, back.better)
    )
    assert places == same


def test_it_comes_with_its_source_and_the_text_that_one_of_the_two_kept() -> None:
    a, b = tokenwise(ordinary()), tokenwise(ordinary(), 1)
    worst = moved_tokens(known(a), known(b), 1).worse[0]
    sequence = moved_sequences(a, b, 1).worse[0]
    text = Around("def ", "f", "(")
    told = Excerpts({(worst.sequence, worst.position): text}, {sequence.sequence: "def f"})
    sources = tuple(f"{row}.py" for row in range(8))
    for x, y in ((replace(a, excerpts=told, sources=sources), b),
                 (a, replace(b, excerpts=told, sources=sources))):  # fmt: skip
        token = moved_tokens(known(x), known(y), 1).worse[0]
        assert (token.around, token.source) == (text, f"{worst.sequence}.py")
        found = moved_sequences(x, y, 1).worse[0]
        assert (found.text, found.source) == ("def f", f"{sequence.sequence}.py")
    assert worst.around == ("", "", "")


def test_rows_of_the_middle_of_a_corpus_are_called_by_their_index() -> None:
    a, b = tokenwise(ordinary()), tokenwise(ordinary(), 1)
    plain = moved_tokens(known(a), known(b), 3).worse
    later = np.arange(8) * 3 + 5
    sources = tuple("abcdefgh")
    x, y = (replace(each, sequences=later, sources=sources) for each in (a, b))
    found = moved_tokens(known(x), known(y), 3).worse
    assert [each.sequence for each in found] == [3 * each.sequence + 5 for each in plain]
    assert [each.source for each in found] == [sources[each.sequence] for each in plain]


def test_other_tokens_and_what_is_not_finite_are_refused() -> None:
    measurement, tokens = known(tokenwise(ordinary()))
    fewer = TokenKL(tokens.sequences[1:], tokens.positions[1:], tokens.kl[1:])
    moved = TokenKL(tokens.sequences, tokens.positions + np.int32(1), tokens.kl)
    for other in (fewer, moved):
        with pytest.raises(UndefinedMetricError, match="are of other tokens"):
            moved_tokens((measurement, tokens), (measurement, other), 1)
    for value in (np.nan, np.inf):
        broken = replace(tokens, kl=np.where(tokens.positions == 3, np.float32(value), tokens.kl))
        with pytest.raises(UndefinedMetricError, match="KL of a token is not finite"):
            moved_tokens((measurement, broken), (measurement, broken), 1)
