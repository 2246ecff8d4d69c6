"""Draw the demo's text: held-out documents, which the package ships, and training documents.

``python -m sae_guard.demo.text`` writes the held-out documents and prints the entropy of each kind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from random import Random

from sae_guard.demo import HELD_OUT
from sae_guard.demo.grammar import KINDS
from sae_guard.demo.language import DrawnDocument, draw, surprisals

HELD_OUT_DOCUMENTS = 1280
TRAINING_DOCUMENTS = 16_000

_SEEDS = {"held-out": 1, "training": 2}
_FEWEST_SENTENCES = 13
_MEAN_EXTRA_SENTENCES = 8.0
"""Mean of the exponential distribution of the sentences beyond the fewest."""


def documents(part: str, count: int) -> Iterator[DrawnDocument]:
    """Draw documents, one of each kind in turn.

    Args:
        part: ``held-out`` or ``training``.
        count: Number of documents; fewer are the first of more.
    """
    random = Random(_SEEDS[part])
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        extra = -math.log(1.0 - random.random()) * _MEAN_EXTRA_SENTENCES  # by inversion
        yield draw(kind, f"{kind.name}-{number:05}", _FEWEST_SENTENCES + int(extra), random)


def held_out_documents() -> Iterator[DrawnDocument]:
    """Draw the documents that neither the model nor the SAEs are trained on."""
    return documents("held-out", HELD_OUT_DOCUMENTS)


def training_documents() -> Iterator[DrawnDocument]:
    """Draw the documents that the model and the SAEs are trained on."""
    return documents("training", TRAINING_DOCUMENTS)


def json_line(document: DrawnDocument) -> str:
    """Return a document as a line of ``held_out.jsonl``."""
    row = {"id": document.name, "source": document.kind, "text": document.text}
    return json.dumps(row, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the held-out documents, and print their number and the entropy of their text."""
    held_out = list(held_out_documents())
    HELD_OUT.write_text("".join(map(json_line, held_out)), encoding="utf-8")
    for kind in KINDS:
        values = [
            value
            for document in held_out
            if document.kind == kind.name
            for value in surprisals(document)
        ]
        print(f"{kind.name}: {len(values)} words, {math.fsum(values) / len(values):.4f} nats each")  # noqa: T201


if __name__ == "__main__":
    main()
