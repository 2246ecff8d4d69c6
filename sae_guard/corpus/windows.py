"""Documents of token ids → `Corpus`: windows of equal length, the scored and the patched mask."""

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


@dataclass(frozen=True)
class Document:
    """Token ids, and the name of where they come from, which slices by source are about."""

    ids: Sequence[int]
    source: str = ""


@dataclass(frozen=True, eq=False)
class Corpus:
    """A fixed token set: every window has the same length, there is no padding.

    Positions of ``excluded`` token ids are neither patched nor scored. The last position of a
    window is patched but not scored, since no next token follows it.
    """

    tokens: Int[Tensor, "sequence pos"]
    excluded: frozenset[int] = frozenset()
    description: Mapping[str, Any] = field(default_factory=dict)
    """Where the tokens come from and by which policy, for the provenance."""
    sources: tuple[str, ...] = ()
    """Where each window comes from; empty where nothing is known of it."""

    def __post_init__(self) -> None:
        if self.sources and len(self.sources) != len(self.tokens):
            raise ValueError(f"{len(self.sources)} sources of {len(self.tokens)} windows")

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
        """Windows of the texts, each a document; see `from_documents`."""
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
        """Cut documents of token ids into windows and keep ``sequences`` of them.

        Windows never cross documents; the tail shorter than a window is dropped. Which windows are
        kept depends on their tokens and the seed alone (the smallest keyed hashes), not on the
        order of the documents.

        Args:
            documents: Token ids of each document, with their source or without; a leading BOS is
                taken off when one is prepended.
            tokenizer: Names the BOS, EOS and PAD ids.
            context: Tokens per window, BOS included.
            sequences: Windows to keep; None keeps all.
            prepend_bos: Whether each window starts with the BOS token.
            special_tokens: ``exclude`` BOS, EOS and PAD from patching and scoring, ``include``
                them, or the ids to exclude.
            seed: Of the choice of windows.
            pool: Stop reading documents once there are this many windows to choose from.
            description: Added to the provenance.

        Raises:
            SetupError: Too few windows, no BOS token to prepend, or a BOS inside a window.
        """
        bos = bos_id(tokenizer) if prepend_bos else None
        windows = list(islice(_named_windows(documents, context, bos), pool))
        if not windows or len(windows) < (sequences or 0):
            raise SetupError(
                f"the text gives {len(windows)} windows of {context} tokens, "
                f"{sequences or 'at least 1'} are asked for: add text or lower `sequences`"
            )
        # Equal windows differ in their source alone: their order is fixed too.
        windows.sort(key=lambda named: (_key(named[0], seed), named[1]))
        chosen = windows[:sequences]
        tokens = torch.tensor([window for window, _ in chosen], dtype=torch.int64)
        sources = tuple(source for _, source in chosen)
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
        """Positions at which the activation is replaced, by SAE and by ablations alike."""
        return ~torch.isin(self.tokens, torch.tensor(sorted(self.excluded), dtype=torch.int64))

    @cached_property
    def scored(self) -> Bool[Tensor, "sequence pos"]:
        """Positions at which every metric is taken: patched ones that have a next token."""
        scored = self.patched.clone()
        scored[:, -1] = False
        return scored

    @cached_property
    def sha256(self) -> str:
        """Hash of the tokens and the masks: equal hashes, equal measurements."""
        digest = hashlib.sha256(str(list(self.tokens.shape)).encode())
        for part in (self.tokens, self.patched, self.scored):
            digest.update(part.to(torch.int64).numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        """What the corpus is, for the provenance."""
        return {
            **self.description,
            "n_sequences": len(self.tokens),
            "context": self.tokens.shape[1],
            "excluded_ids": sorted(self.excluded),
            "sha256": self.sha256,
        }


def encode(text: str, tokenizer: Any) -> list[int]:
    """Token ids of the text as text: no special token is added, none is read out of it."""
    ids: list[int] = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, verbose=False
    )["input_ids"]
    return ids


def cut(
    documents: Iterable[Sequence[int]], context: int, bos: int | None
) -> Iterator[tuple[int, ...]]:
    """Windows of ``context`` tokens, each starting with ``bos`` if there is one."""
    head = () if bos is None else (bos,)
    step = context - len(head)
    for document in documents:
        start = 1 if bos is not None and document and document[0] == bos else 0
        for at in range(start, len(document) - step + 1, step):
            yield (*head, *document[at : at + step])


def _named_windows(
    documents: Iterable[Sequence[int] | Document], context: int, bos: int | None
) -> Iterator[tuple[tuple[int, ...], str]]:
    for given in documents:
        document = given if isinstance(given, Document) else Document(given)
        for window in cut([document.ids], context, bos):
            yield window, document.source


def bos_id(tokenizer: Any) -> int:
    """The tokenizer's BOS id; raises `SetupError` when it has none."""
    if tokenizer.bos_token_id is None:
        raise SetupError(
            "prepend_bos is true, but the tokenizer has no BOS token: set `prepend_bos: false`"
        )
    return int(tokenizer.bos_token_id)


def check_one_bos(tokens: Int[Tensor, "sequence pos"], bos: int) -> None:
    """Raise `SetupError` unless each window has its one BOS at position 0.

    A second one (packed documents, or a tokenizer that already added it) moves L0 and KL by more
    than any release does.
    """
    for row, count in enumerate((tokens[:, 1:] == bos).sum(dim=1).tolist()):
        if count:
            at = int((tokens[row, 1:] == bos).nonzero()[0]) + 1
            raise SetupError(
                f"window {row} has a BOS token (id {bos}) at position {at}, expected only one at "
                "position 0: split packed documents, or set `prepend_bos: false`"
            )


def excluded_ids(tokenizer: Any, special_tokens: SpecialTokens) -> frozenset[int]:
    """The token ids that are neither patched nor scored."""
    if special_tokens == "include":
        return frozenset()
    if special_tokens == "exclude":
        ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        return frozenset(int(id_) for id_ in ids if id_ is not None)
    return frozenset(int(id_) for id_ in special_tokens)


def _key(window: tuple[int, ...], seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{window}".encode()).digest()
