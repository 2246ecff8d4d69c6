"""Decodes token ids into the text that failures and reports show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sae_guard.core.measurement import Around, Excerpts
from sae_guard.corpus.windows import Corpus

_BEFORE = 12
"""Number of tokens of context before a token."""
_BEGINNING = 48
"""Number of tokens that show how a sequence begins."""


def excerpts(
    corpus: Corpus, tokenizer: Any, tokens: Iterable[tuple[int, int]], sequences: Iterable[int]
) -> Excerpts:
    """Decode the text around some tokens and at the beginning of some sequences.

    Args:
        corpus: The token set.
        tokenizer: The model's Hugging Face tokenizer; None gives empty excerpts.
        tokens: (sequence, position) of each token. The last position is not allowed, since the
            excerpt includes the next token.
        sequences: Indices of the sequences.
    """
    if tokenizer is None:
        return Excerpts()
    return Excerpts(
        {
            (sequence, position): _around(corpus.tokens[sequence].tolist(), position, tokenizer)
            for sequence, position in tokens
        },
        {
            index: _pieces(tokenizer, corpus.tokens[index, :_BEGINNING].tolist())[0]
            for index in sequences
        },
    )


def _around(ids: list[int], position: int, tokenizer: Any) -> Around:
    """Decode the token at a position of a sequence, those before it and the next one."""
    before = ids[max(0, position - _BEFORE) : position]
    return Around(*_pieces(tokenizer, before, [ids[position]], [ids[position + 1]]))


def _pieces(tokenizer: Any, *spans: Sequence[int]) -> list[str]:
    """Decode consecutive spans of token ids into one text each.

    Spans are decoded together and the text is then cut, because a span decoded by itself can have
    another text: a SentencePiece token loses the space that it begins with.
    """
    ids: list[int] = []
    text, pieces = "", []
    for span in spans:
        ids.extend(span)
        longer = _decode(tokenizer, ids)
        # A character can take several tokens; without the last one it decodes to U+FFFD.
        can_cut = longer.startswith(text) and not text.endswith("\ufffd")
        pieces.append(longer[len(text) :] if can_cut else _decode(tokenizer, span))
        text = longer
    return pieces


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decode token ids; ids that the tokenizer does not know give no text."""
    try:
        text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    except (TypeError, ValueError, LookupError, OverflowError):
        return ""  # A model can have more ids than its tokenizer, and excerpts are optional.
    return text
