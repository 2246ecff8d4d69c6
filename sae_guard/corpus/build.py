"""Builds the `Corpus` that the ``data`` block of a spec describes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from sae_guard.corpus import sources
from sae_guard.corpus.windows import Corpus, Document, SpecialTokens, encode
from sae_guard.errors import SetupError

# A dataset may be too large to read: reading stops at this many windows per window of the corpus.
_POOL = 16


class DataBlock(Protocol):
    """Source of a token set, and the rules by which it is cut into windows and masked.

    The ``data`` block of a spec is one; `sae_guard.specs.models` documents each key.
    """

    @property
    def text(self) -> tuple[str, ...] | None: ...
    @property
    def jsonl(self) -> tuple[str, ...] | None: ...
    @property
    def tokens(self) -> tuple[str, ...] | None: ...
    @property
    def dataset(self) -> sources.DatasetBlock | None: ...
    @property
    def modules(self) -> tuple[str, ...] | None: ...
    @property
    def column(self) -> str: ...
    @property
    def source_field(self) -> str | None: ...
    @property
    def context(self) -> int: ...
    @property
    def sequences(self) -> int: ...
    @property
    def prepend_bos(self) -> bool: ...
    @property
    def special_tokens(self) -> SpecialTokens: ...
    @property
    def seed(self) -> int: ...
    def model_dump(self, *, mode: str, exclude_none: bool) -> dict[str, Any]: ...


def build_corpus(data: DataBlock, tokenizer: Any, base: Path) -> Corpus:
    """Build the token windows that a data block describes.

    Args:
        data: The ``data`` block of a spec.
        tokenizer: The model's Hugging Face tokenizer.
        base: Folder that relative paths start from: that of the spec file.

    Raises:
        SetupError: The source is missing, malformed or too short.
        InfrastructureError: The hub cannot be reached.
    """
    return Corpus.from_documents(
        _documents(data, tokenizer, base),
        tokenizer,
        context=data.context,
        sequences=data.sequences,
        prepend_bos=data.prepend_bos,
        special_tokens=data.special_tokens,
        seed=data.seed,
        pool=_POOL * data.sequences if data.dataset else None,
        description={"source": data.model_dump(mode="json", exclude_none=True)},
    )


def _documents(data: DataBlock, tokenizer: Any, base: Path) -> Iterator[Document]:
    """Yield the documents of the data block as token ids."""
    if data.tokens is not None:
        for path in sources.expand(data.tokens, base):
            for source, ids in sources.token_file(
                path, data.column, source_field=data.source_field, base=base
            ):
                yield Document(ids, source)
        return
    for source, text in _texts(data, base):
        if not isinstance(text, str):
            raise SetupError(
                f"field {data.column!r} of a document in {source} is {type(text).__name__}; "
                "allowed: text"
            )
        yield Document(encode(text, tokenizer), source)


def _texts(data: DataBlock, base: Path) -> Iterator[sources.RawDocument]:
    """Yield the documents of the data block as text."""
    if data.text is not None:
        return sources.text_files(sources.expand(data.text, base), base)
    if data.jsonl is not None:
        files = sources.expand(data.jsonl, base)
        return sources.json_lines(files, data.column, source_field=data.source_field, base=base)
    if data.modules is not None:
        return sources.module_sources(data.modules)
    if data.dataset is None:
        raise SetupError(
            "`data` has no source; allowed: one of text, jsonl, tokens, dataset, modules"
        )
    return sources.dataset(data.dataset, data.column, source_field=data.source_field, base=base)
