"""`Corpus`: token windows of equal length, with masks of the patched and the scored positions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_guard.errors import SetupError

SpecialTokens = Literal["exclude", "include"] | Sequence[int]
"""Rule for special tokens, or the token ids to exclude from patching and scoring."""


@dataclass(frozen=True)
class Document:
    """Token ids of a text, and the name of its source, by which slices select tokens."""

    ids: Sequence[int]
    source: str = ""


@dataclass(frozen=True, eq=False)
class Corpus:
    """A fixed set of token windows, all of the same length, without padding.

    Positions of ``excluded`` token ids are neither patched nor scored. The last position of a
    window is patched but not scored, since it has no next token.
    """

    tokens: Int[Tensor, "sequence pos"]
    excluded: frozenset[int] = frozenset()
    """Token ids, by default of the special tokens."""
    description: Mapping[str, Any] = field(default_factory=dict)
    """Source and rules that the tokens were made by, for the provenance; JSON values."""
    sources: tuple[str, ...] = ()
    """Source of each window; empty if the documents have no sources."""

    def __post_init__(self) -> None:
        if self.sources and len(self.sources) != len(self.tokens):
            raise ValueError(
                f"{len(self.sources)} sources of {len(self.tokens)} windows; allowed: one for each "
                "window, or none"
            )

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        tokenizer: Any,
        *,
        context: int = 128,
        sequences: int | None = None,
        prepend_bos: bool,
        special_tokens: SpecialTokens = "exclude",
        seed: int = 0,
    ) -> Corpus:
        """Tokenize texts and cut them into windows, like `from_documents` with its arguments."""
        return cls.from_documents(
            (encode(text, tokenizer) for text in texts),
            tokenizer,
            context=context,
            sequences=sequences,
            prepend_bos=prepend_bos,
            special_tokens=special_tokens,
            seed=seed,
        )

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Sequence[int] | Document],
        tokenizer: Any,
        *,
        context: int = 128,
        sequences: int | None = None,
        prepend_bos: bool,
        special_tokens: SpecialTokens = "exclude",
        seed: int = 0,
        pool: int | None = None,
        description: Mapping[str, Any] | None = None,
    ) -> Corpus:
        """Cut documents of token ids into windows and select ``sequences`` of them.

        Windows never cross documents; the end of a document that is shorter than a window is
        dropped. The selection is random but depends only on the tokens of the windows and the seed
        (the windows with the smallest hashes), not on the order of the documents.

        Args:
            documents: Token ids of each document, or `Document` with a source. A BOS at its start
                is removed if ``prepend_bos``.
            tokenizer: Hugging Face tokenizer, which has the ids of BOS, EOS and PAD.
            context: Tokens per window, BOS included.
            sequences: Number of windows; None selects all.
            prepend_bos: Whether each window starts with the BOS token.
            special_tokens: ``exclude`` BOS, EOS and PAD from patching and scoring, ``include``
                them, or the ids to exclude.
            seed: Seed of the selection.
            pool: Number of windows to select from, at which reading documents stops; None reads
                all.
            description: JSON object that is added to the provenance.

        Raises:
            SetupError: Too few windows, no BOS token to prepend, or a BOS inside a window.
        """
        bos = bos_id(tokenizer) if prepend_bos else None
        windows = list(islice(_windows_with_sources(documents, context, bos), pool))
        if not windows or len(windows) < (sequences or 0):
            raise SetupError(
                f"the text has only {len(windows)} windows of {context} tokens, but "
                f"{sequences or 'at least 1'} are needed: add text or lower `sequences` or "
                "`context`"
            )
        # The source orders windows with equal tokens, so that the order of documents has no effect.
        windows.sort(key=lambda item: (_hash(item[0], seed), item[1]))
        selection = windows[:sequences]
        tokens = torch.tensor([window for window, _ in selection], dtype=torch.int64)
        sources = tuple(source for _, source in selection)
        if bos is not None:
            check_one_bos(tokens, bos)
        return cls(
            tokens,
            excluded_ids(tokenizer, special_tokens),
            {**(description or {}), "prepend_bos": prepend_bos, "seed": seed},
            sources if any(sources) else (),
        )

    @cached_property
    def patched(self) -> Bool[Tensor, "sequence pos"]:
        """Mask of the positions at which the SAE, or an ablation, replaces the activation."""
        # dtype: without any excluded id torch would make a float tensor.
        return ~torch.isin(self.tokens, torch.tensor(sorted(self.excluded), dtype=torch.int64))

    @cached_property
    def scored(self) -> Bool[Tensor, "sequence pos"]:
        """Mask of the positions that all metrics cover: patched ones that have a next token."""
        scored = self.patched.clone()
        scored[:, -1] = False
        return scored

    @cached_property
    def sha256(self) -> str:
        """Hash of the tokens and the masks, on which the numbers of a measurement depend."""
        digest = hashlib.sha256(str(list(self.tokens.shape)).encode())
        for part in (self.tokens, self.patched, self.scored):
            # Little-endian on every machine, so that hashes can be compared.
            digest.update(part.to(torch.int64).numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        """JSON object that identifies the corpus in the provenance of a measurement."""
        return {
            **self.description,
            "n_sequences": len(self.tokens),
            "context": self.tokens.shape[1],
            "excluded_ids": sorted(self.excluded),
            "sha256": self.sha256,
        }


def encode(text: str, tokenizer: Any) -> list[int]:
    """Return the token ids of a text, in which special tokens are neither added nor recognised."""
    # verbose=False: documents are cut into windows, so one longer than the model's context is fine.
    # Text that spells a special token stays text: a second BOS would change L0 and KL.
    ids: list[int] = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, verbose=False
    )["input_ids"]
    return ids


def cut(
    documents: Iterable[Sequence[int]], context: int, bos: int | None
) -> Iterator[tuple[int, ...]]:
    """Yield the full windows of each document, in order; what is left at its end is dropped.

    Args:
        documents: Token ids of each document; ``bos`` at its start is removed.
        context: Tokens per window, ``bos`` included.
        bos: Token id that each window starts with; None for none.
    """
    head = () if bos is None else (bos,)
    step = context - len(head)  # tokens of the document in each window
    for document in documents:
        start = 1 if bos is not None and document and document[0] == bos else 0
        for at in range(start, len(document) - step + 1, step):
            yield (*head, *document[at : at + step])


def _windows_with_sources(
    documents: Iterable[Sequence[int] | Document], context: int, bos: int | None
) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield each window with the source of its document."""
    for item in documents:
        document = item if isinstance(item, Document) else Document(item)
        for window in cut([document.ids], context, bos):
            yield window, document.source


def bos_id(tokenizer: Any) -> int:
    """Return the tokenizer's BOS id.

    Raises:
        SetupError: The tokenizer has none.
    """
    if tokenizer.bos_token_id is None:
        raise SetupError(
            "`prepend_bos` is true, but the tokenizer has no BOS token: set `prepend_bos: false`"
        )
    return int(tokenizer.bos_token_id)


def check_one_bos(tokens: Int[Tensor, "sequence pos"], bos: int) -> None:
    """Raise an error if a window has a BOS token after position 0.

    A second BOS comes from packed documents, or from a tokenizer that has already added one. It
    changes L0 and KL by more than releases of an SAE do.

    Raises:
        SetupError: There is one; the message has its window and position.
    """
    for row, count in enumerate((tokens[:, 1:] == bos).sum(dim=1).tolist()):
        if count:
            at = int((tokens[row, 1:] == bos).nonzero()[0]) + 1
            raise SetupError(
                f"window {row} has a BOS token (id {bos}) at position {at}; allowed: only at "
                "position 0. Split packed documents, or set `prepend_bos: false`"
            )


def excluded_ids(tokenizer: Any, special_tokens: SpecialTokens) -> frozenset[int]:
    """Return the token ids that are neither patched nor scored."""
    if special_tokens == "include":
        return frozenset()
    if special_tokens == "exclude":
        ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        return frozenset(int(id_) for id_ in ids if id_ is not None)
    return frozenset(int(id_) for id_ in special_tokens)


def _hash(window: tuple[int, ...], seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{window}".encode()).digest()
