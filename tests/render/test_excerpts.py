"""The worst tokens and sequences in lines: what fits in them, and what is left out."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.worst_tokens import Worst, WorstSequence, WorstToken
from sae_guard.render.excerpts import COLUMNS, worst_lines

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


def test_long_text_loses_what_explains_least() -> None:
    token = WorstToken(0, 20, 1.0, 1.0, 2.0, 0.5, "x/" * 60 + "b.txt", "y" * 99, "t" * 99, "n" * 99)
    _, _, text, numbers = worst_lines(Worst((token,), ()))
    assert text == f'  KL 1 after "…{"t" * 52}", next "{"n" * 21}…":'
    assert numbers.startswith("    loss 1 clean, 2 patched (…")
    assert numbers.endswith("x/b.txt, sequence 0, position 20)")
    assert len(numbers) == len(text) == COLUMNS


def test_a_worst_token_has_its_text_then_both_losses_and_its_place() -> None:
    token = WorstToken(
        230, 115, 4.9351, 12.2345, 10.718, 1.613, "argparse", "nargs_pattern = '(", "-*", "A"
    )
    assert list(worst_lines(Worst((token,), ()))) == [
        "",
        "the largest KL of single tokens, in nats:",
        """  KL 4.94 after "nargs_pattern = '(-*", next "A":""",
        "    loss 12.2 clean, 10.7 patched (argparse, sequence 230, position 115)",
    ]
    without_text = replace(token, before="", token="", next="", source="", ce_clean=10.72)
    assert list(worst_lines(Worst((without_text,), ())))[2:] == [
        "  KL 4.94: loss 10.72 clean, 10.718 patched (sequence 230, position 115)"
    ]


def test_a_worst_sequence_has_its_beginning_then_both_losses_and_its_place() -> None:
    sequence = WorstSequence(42, 1260, 0.81234, 3.1, 3.9, "a.py", 'print("a")\n')
    assert list(worst_lines(Worst((), (sequence,)))) == [
        "",
        "the largest mean KL of sequences, in nats:",
        """  mean KL 0.812 over 1,260 tokens of 'print("a")\\n':""",
        "    loss 3.1 clean, 3.9 patched (a.py, sequence 42)",
    ]
    assert list(worst_lines(Worst((), (replace(sequence, text=""),))))[2:] == [
        "  mean KL 0.812 over 1,260 tokens: loss 3.1 clean, 3.9 patched (a.py, sequence 42)"
    ]
