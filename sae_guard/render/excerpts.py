"""The worst tokens and sequences, in lines of bounded width. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sae_guard.core.measurement import Around
from sae_guard.core.worst_tokens import Worst, WorstSequence, WorstToken
from sae_guard.render.numbers import number

COLUMNS = 100
"""Of the lines that show text of the token set."""


def worst_lines(worst: Worst) -> Iterator[str]:
    """The worst tokens and sequences, each with its numbers and its text, in `COLUMNS`."""
    if worst.tokens:
        yield ""
        yield "the largest KL of single tokens, in nats:"
        for token in worst.tokens:
            numbers = f"CE {_change(token)}, entropy {number(token.entropy)}"
            place = f"sequence {token.sequence}, position {token.position}"
            yield placed(f"  {number(token.kl)}  {numbers} ({place}", token.source)
            yield from around_lines(Around(token.before, token.token, token.next))
    if worst.sequences:
        yield ""
        yield "the largest mean KL of sequences, in nats:"
        for sequence in worst.sequences:
            numbers = f"CE {_change(sequence)}, {sequence.n_tokens:,} tokens"
            place = f"sequence {sequence.sequence}"
            yield placed(f"  {number(sequence.kl)}  {numbers} ({place}", sequence.source)
            yield from beginning_lines(sequence.text)


def around_lines(around: Around) -> Iterator[str]:
    """The text around a prediction, where it is known."""
    if around.next:
        # The end of what comes before is what tells most.
        known = f"«{clipped(around.token, 24)}» → «{clipped(around.next, 24)}»"
        yield f"    {clipped(around.before, COLUMNS - 4 - len(known), end=True)}{known}"


def beginning_lines(text: str) -> Iterator[str]:
    """How a sequence begins, where it is known."""
    if text:
        yield f"    {clipped(text, COLUMNS - 4)}"


def _change(found: WorstToken | WorstSequence) -> str:
    return f"{number(found.ce_clean)} → {number(found.ce_patched)}"


def placed(line: str, source: str) -> str:
    """The line, closed after where its text comes from."""
    named = f", {clipped(source, COLUMNS - 3 - len(line), end=True)}" if source else ""
    return f"{line}{named})"


def clipped(text: str, width: int, *, end: bool = False) -> str:
    """Its start, or its end, in at most ``width`` letters; what is not printable is escaped."""
    letters = [
        letter if letter.isprintable() and letter != "\\" else repr(letter)[1:-1] for letter in text
    ]
    if sum(map(len, letters)) <= width:
        return "".join(letters)
    kept, left = list[str](), width - 1
    for letter in reversed(letters) if end else letters:
        left -= len(letter)
        if left < 0:
            break
        kept.append(letter)
    return "…" + "".join(reversed(kept)) if end else "".join(kept) + "…"
