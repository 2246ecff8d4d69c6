"""The tokens and sequences that an SAE changes most → lines of bounded width. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sae_guard.core.measurement import Around
from sae_guard.core.worst_tokens import Worst
from sae_guard.render.numbers import distinct_numbers, number

COLUMNS = 100
"""Maximum width of lines that quote the token set, in characters."""
_NEXT_WIDTH = 24
"""Maximum width of the next token, in characters."""


def worst_lines(worst: Worst) -> Iterator[str]:
    """Write the worst tokens and sequences: KL, text, loss without and with the SAE, and place."""
    if worst.tokens:
        yield ""
        yield "the largest KL of single tokens, in nats:"
    for token in worst.tokens:
        yield from token_lines(
            f"KL {number(token.kl, digits=3)}",
            Around(token.before, token.token, token.next),
            _losses(token.ce_clean, token.ce_patched),
            token.source,
            f"sequence {token.sequence}, position {token.position}",
        )
    if worst.sequences:
        yield ""
        yield "the largest mean KL of sequences, in nats:"
    for sequence in worst.sequences:
        yield from sequence_lines(
            f"mean KL {number(sequence.kl, digits=3)} over {sequence.n_tokens:,} tokens",
            sequence.text,
            _losses(sequence.ce_clean, sequence.ce_patched),
            sequence.source,
            f"sequence {sequence.sequence}",
        )


def token_lines(head: str, around: Around, numbers: str, source: str, place: str) -> Iterator[str]:
    """Write one prediction of the model: what was predicted after which text, and its numbers.

    Args:
        head: What comes first, such as ``KL 4.94``.
        around: Text around the prediction; without a next token, the text is left out.
        numbers: What comes after the text, such as the losses.
        source: Where the text comes from, such as a file; may be empty.
        place: Where in the corpus the prediction is.
    """
    if not around.next:
        yield from _lines_without_text(head, numbers, source, place)
        return
    end = f", next {quoted(around.next, _NEXT_WIDTH)}:"
    start = f"  {head} after "
    # The context is cut at its start: the tokens closest to the prediction explain most.
    context = quoted(around.before + around.token, COLUMNS - len(start) - len(end), keep_end=True)
    yield f"{start}{context}{end}"
    yield _numbers_line(numbers, source, place)


def sequence_lines(head: str, text: str, numbers: str, source: str, place: str) -> Iterator[str]:
    """Write one sequence: how it begins, and its numbers.

    Args:
        head: What comes first, such as ``mean KL 0.812 over 127 tokens``.
        text: Beginning of the sequence; empty where it is not known.
        numbers: What comes after the text, such as the losses.
        source: Where the text comes from, such as a file; may be empty.
        place: Where in the corpus the sequence is.
    """
    if not text:
        yield from _lines_without_text(head, numbers, source, place)
        return
    start = f"  {head} of "
    yield f"{start}{quoted(text, COLUMNS - len(start) - 1)}:"
    yield _numbers_line(numbers, source, place)


def quoted(text: str, width: int, *, keep_end: bool = False) -> str:
    """Return the text in quotation marks, clipped to ``width`` characters including these."""
    mark = "'" if '"' in text and "'" not in text else '"'
    return mark + clipped(text, width - 2, keep_end=keep_end) + mark


def clipped(text: str, width: int, *, keep_end: bool = False) -> str:
    """Return the start of a text in at most ``width`` characters, with ``…`` where it was cut.

    Args:
        text: Characters that are not printable, and backslashes, are escaped as in Python.
        width: In characters, escapes and ``…`` included.
        keep_end: True to return the end of the text instead of its start.
    """
    pieces = [
        letter if letter.isprintable() and letter != "\\" else repr(letter)[1:-1] for letter in text
    ]
    if sum(map(len, pieces)) <= width:
        return "".join(pieces)
    # Escapes are not cut in two.
    fitting, free = list[str](), width - 1
    for piece in reversed(pieces) if keep_end else pieces:
        free -= len(piece)
        if free < 0:
            break
        fitting.append(piece)
    return "…" + "".join(reversed(fitting)) if keep_end else "".join(fitting) + "…"


def _losses(clean: float, patched: float) -> str:
    clean_text, patched_text = distinct_numbers(clean, patched, digits=3)
    return f"loss {clean_text} clean, {patched_text} patched"


def _lines_without_text(head: str, numbers: str, source: str, place: str) -> Iterator[str]:
    origin = f"{source}, {place}" if source else place
    line = f"  {head}: {numbers} ({clipped(origin, COLUMNS)})"
    if len(line) <= COLUMNS:
        yield line
    else:
        yield f"  {head}:"
        yield _numbers_line(numbers, source, place)


def _numbers_line(numbers: str, source: str, place: str) -> str:
    """Write the indented line; a long source is cut at its start, where its folders are."""
    start = f"    {numbers} ("
    if source:
        free = COLUMNS - len(f"{start}, {place})")
        source = f"{clipped(source, free, keep_end=True)}, "
    return f"{start}{source}{place})"
