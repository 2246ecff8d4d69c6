"""The text around some tokens of a measurement, so that its worst ones can be read anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Around(NamedTuple):
    """The text around a prediction."""

    before: str
    """Of the tokens before."""
    token: str
    """The one at whose position the model predicts."""
    next: str
    """The one that follows it in the text, which the losses are about."""


NO_TEXT = Around("", "", "")


@dataclass(frozen=True)
class Excerpts:
    """Texts by their place: sequences by their index in the corpus."""

    tokens: Mapping[tuple[int, int], Around] = field(default_factory=dict)
    """By sequence and position."""
    sequences: Mapping[int, str] = field(default_factory=dict)
    """How sequences begin."""

    @property
    def plain(self) -> list[list[list[Any]]]:
        """Lists, numbers and text, of which `of` makes it anew."""
        tokens = [[*place, *around] for place, around in sorted(self.tokens.items())]
        return [tokens, [list(item) for item in sorted(self.sequences.items())]]

    @classmethod
    def of(cls, plain: list[list[list[Any]]]) -> Excerpts:
        """What `plain` was made of."""
        tokens, sequences = plain
        return cls(
            {(row, position): Around(*texts) for row, position, *texts in tokens},
            dict(sequences),
        )


NO_EXCERPTS = Excerpts()
