"""The `data` block of a spec → `Corpus`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.corpus import sources
from sae_guard.corpus.windows import Corpus, Document, encode
from sae_guard.errors import SetupError

if TYPE_CHECKING:
    from sae_guard.spec import DataSpec

# A dataset may be larger than any disk: reading stops at this many windows per window kept.
_POOL = 16


def build_corpus(data: DataSpec, tokenizer: Any, base: Path) -> Corpus:
    """The token windows that a spec's data block describes.

    Args:
        data: The data block.
        tokenizer: The model's Hugging Face tokenizer.
        base: Folder that relative paths start from: the spec file's.

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


def _documents(data: DataSpec, tokenizer: Any, base: Path) -> Iterator[Document]:
    if data.tokens is not None:
        for path in sources.expand(data.tokens, base):
            for source, ids in sources.token_file(
                path, data.column, source_field=data.source_field, base=base
            ):
                yield Document(ids, source)
        return
    for source, text in _texts(data, base):
        if not isinstance(text, str):
            raise SetupError(f"field {data.column!r} is {type(text).__name__}, expected text")
        yield Document(encode(text, tokenizer), source)


def _texts(data: DataSpec, base: Path) -> Iterator[sources.Found]:
    if data.text is not None:
        return sources.text_files(sources.expand(data.text, base), base)
    if data.jsonl is not None:
        files = sources.expand(data.jsonl, base)
        return sources.json_lines(files, data.column, source_field=data.source_field, base=base)
    if data.modules is not None:
        return sources.module_sources(data.modules)
    if data.dataset is None:
        raise SetupError("the data block names no source")
    return sources.dataset(
        data.dataset.path,
        name=data.dataset.name,
        split=data.dataset.split,
        revision=data.dataset.revision,
        field=data.column,
        source_field=data.source_field,
        base=base,
    )
