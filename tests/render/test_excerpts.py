"""The worst tokens and sequences in lines: what fits in them, and what is left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.worst_tokens import Worst, WorstSequence, WorstToken
from sae_guard.render import COLUMNS, worst_lines

texts = st.text(max_size=150) | st.text("ab \n\\\x1b\u202e日", max_size=150)
numbers = st.floats(allow_nan=True)
indices = st.integers(0, 10**6)


@given(
    st.builds(
        WorstToken, indices, indices, *[numbers] * 4, texts, texts, texts, texts.filter(bool)
    ),
    st.builds(WorstSequence, indices, indices, *[numbers] * 3, texts, texts),
)
def test_no_text_leaves_its_line(token: WorstToken, sequence: WorstSequence) -> None:
    for line in worst_lines(Worst((token,), (sequence,))):
        assert len(line) <= COLUMNS
        assert line.isprintable()


def test_what_is_too_long_loses_what_tells_least() -> None:
    token = WorstToken(0, 20, 1.0, 1.0, 2.0, 0.5, "x/" * 60 + "b.txt", "y" * 99, "t" * 99, "n" * 99)
    _, _, place, text = worst_lines(Worst((token,), ()))
    assert place.startswith("  1  CE 1 → 2, entropy 0.5 (sequence 0, position 20, …")
    assert place.endswith("x/b.txt)")
    assert text == f"    …{'y' * 40}«{'t' * 23}…» → «{'n' * 23}…»"
    assert len(place) == len(text) == COLUMNS
