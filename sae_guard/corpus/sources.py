"""Sources of documents: text files, JSON lines, token files, datasets, installed modules."""

from __future__ import annotations

import glob
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from sae_guard.errors import InfrastructureError, SetupError
from sae_guard.files import expanded


class RawDocument(NamedTuple):
    """A document as its source has it: text, or a list of token ids."""

    source: str
    """Name of the source, by which slices select tokens."""
    content: Any


class DatasetBlock(Protocol):
    """Dataset of the Hugging Face hub, or a folder saved by the library `datasets`."""

    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def split(self) -> str: ...
    @property
    def revision(self) -> str | None: ...


def expand(patterns: Sequence[str], base: Path) -> list[Path]:
    """Return the files that paths and globs match, sorted within each pattern.

    Args:
        patterns: Paths and globs; ``**`` matches folders of any depth.
        base: Folder that relative patterns start from.

    Raises:
        SetupError: A pattern matches no file.
    """
    files: list[Path] = []
    for pattern in patterns:
        absolute = str(base / expanded(pattern))
        paths = sorted(Path(name) for name in glob.glob(absolute, recursive=True))
        paths = [path for path in paths if path.is_file()]
        if not paths:
            raise SetupError(f"no file matches {pattern!r} (looked for {absolute})")
        files.extend(paths)
    return files


def source_name(path: Path, base: Path) -> str:
    """Return the name of a file as a source: its path, from ``base`` if it lies below it."""
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()


def text_files(paths: Sequence[Path], base: Path) -> Iterator[RawDocument]:
    """Yield the text of each file as one document, whose source is the file."""
    for path in paths:
        yield RawDocument(source_name(path, base), _read(path))


def json_lines(
    paths: Sequence[Path], field: str, *, source_field: str | None, base: Path
) -> Iterator[RawDocument]:
    """Yield one field of the JSON object on each line, skipping empty lines.

    Args:
        paths: Files of JSON lines.
        field: Key of the document.
        source_field: Key of the source's name, or keys of nested objects joined by dots; None makes
            the file the source.
        base: Folder that the names of files are relative to.

    Raises:
        SetupError: A line is not a JSON object, or lacks a field.
    """
    for path in paths:
        # Not splitlines(): JSON text may contain other separators of lines, such as U+2028.
        for number, line in enumerate(_read(path).split("\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise SetupError(
                    f"{path}:{number}: not JSON: {error}; allowed: one object per line"
                ) from error
            if not isinstance(row, dict) or field not in row:
                raise SetupError(f"{path}:{number}: no field {field!r}; {_allowed_keys(row)}")
            source = _source(row, source_field, source_name(path, base), f"{path}:{number}")
            yield RawDocument(source, row[field])


def token_file(
    path: Path, field: str, *, source_field: str | None, base: Path
) -> Iterator[RawDocument]:
    """Yield documents of token ids from a file.

    Args:
        path: A ``.npy`` or ``.safetensors`` file with one integer matrix [document, pos], or JSON
            lines (``.jsonl``).
        field: Key of the token ids in JSON lines.
        source_field: As in `json_lines`; for JSON lines only.
        base: Folder that the names of files are relative to.

    Raises:
        SetupError: The file is unreadable or does not hold token ids, or a matrix has a
            ``source_field``.
    """
    if path.suffix == ".jsonl":
        for document in json_lines([path], field, source_field=source_field, base=base):
            ids = document.content
            # type() and not isinstance(): True is an int, but no token id.
            if not isinstance(ids, list) or not all(type(token) is int for token in ids):
                raise SetupError(
                    f"{path}: field {field!r} is not a list of token ids; allowed: integers"
                )
            yield document
        return
    if source_field is not None:
        raise SetupError(
            f"{path} has no fields, so `source_field: {source_field}` is not allowed; remove it, "
            "or use a .jsonl file"
        )
    array = _token_matrix(path)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise SetupError(
            f"{path}: the tensor is {array.dtype}{list(array.shape)}; allowed: an integer matrix "
            "of token ids [document, pos]"
        )
    for row in array:
        yield RawDocument(source_name(path, base), row.tolist())


def _token_matrix(path: Path) -> np.ndarray[Any, Any]:
    """Load the only tensor of a ``.npy`` or ``.safetensors`` file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if path.suffix == ".npy":
            # A pickle can run code when it is loaded.
            array: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
            return array
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            raise SetupError(
                f"{path}: not a token file; allowed: .npy, .safetensors and .jsonl files"
            )
    except (OSError, ValueError, EOFError, SafetensorError) as error:
        raise SetupError(f"{path}: unreadable token file: {error}") from error
    if len(tensors) != 1:
        raise SetupError(
            f"{path}: {len(tensors)} tensors ({', '.join(sorted(tensors))}); allowed: one"
        )
    return next(iter(tensors.values()))


def dataset(
    block: DatasetBlock, field: str, *, source_field: str | None, base: Path
) -> Iterator[RawDocument]:
    """Yield one field of each row of a Hugging Face dataset.

    Datasets of the hub are streamed: rows are loaded only as far as they are read.

    Args:
        block: Dataset, whose ``path`` is a name on the hub, or a folder of data files or one that
            `datasets` has saved.
        field: Key of the document.
        source_field: As in `json_lines`; None makes the dataset the source.
        base: Folder that a relative ``path`` starts from.

    Raises:
        SetupError: There is no such dataset, configuration, split or field.
        InfrastructureError: The hub cannot be reached.
    """
    import datasets

    path, split = block.path, block.split
    folder = base / expanded(path)
    try:
        # save_to_disk writes state.json for a Dataset and dataset_dict.json for a DatasetDict.
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            stored = datasets.load_from_disk(str(folder))
            rows = stored[split] if isinstance(stored, datasets.DatasetDict) else stored
        else:
            path_or_name = str(folder) if folder.exists() else path
            rows = datasets.load_dataset(
                path_or_name, block.name, split=split, revision=block.revision, streaming=True
            )
        for row in rows:
            if field not in row:
                raise SetupError(
                    f"dataset {path!r} has no field {field!r}; allowed: {', '.join(row)}"
                )
            yield RawDocument(_source(row, source_field, path, f"dataset {path!r}"), row[field])
    # Before OSError, from which it derives.
    except ConnectionError as error:
        raise InfrastructureError(f"dataset {path!r} cannot be reached: {error}") from error
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"dataset {path!r}, split {split!r}: {error}") from error


def module_sources(names: Sequence[str]) -> Iterator[RawDocument]:
    """Yield the source code of installed Python modules: real text that needs no download.

    Args:
        names: Names of top-level modules.

    Raises:
        SetupError: A module is not installed, or has no Python source.
    """
    for name in names:
        # A dotted name is refused because find_spec would import, and so run, the parent package.
        spec = importlib.util.find_spec(name) if "." not in name else None
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise SetupError(
                f"no Python source for module {name!r}; allowed: installed top-level modules "
                "written in Python"
            )
        yield RawDocument(name, _read(Path(spec.origin)))


def _source(row: Mapping[str, Any], field: str | None, default: str, location: str) -> str:
    """Return the name of a row's source.

    Args:
        row: JSON object of a document.
        field: Key of the name, or keys of nested objects joined by dots (``meta.pile_set_name``);
            None for rows without a source of their own.
        default: Source of such rows.
        location: File and line, or dataset, for messages.

    Raises:
        SetupError: There is no such key, or its value is neither text nor an integer.
    """
    if field is None:
        return default
    value: Any = row
    for key in [field] if field in row else field.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise SetupError(f"{location}: no source_field {field!r}; {_allowed_keys(value)}")
        value = value[key]
    if isinstance(value, Mapping):
        nested = ", ".join(f"{field}.{key}" for key in value)
        raise SetupError(f"{location}: source_field {field!r} is an object; allowed: {nested}")
    # type() and not isinstance(): True is an int, but names no source.
    if type(value) not in (str, int) or value == "":
        raise SetupError(
            f"{location}: source_field {field!r} is {value!r}; allowed: text or an integer"
        )
    return str(value)


def _allowed_keys(value: Any) -> str:
    """Return the end of a message: the keys of a JSON object, or that the value is none."""
    if isinstance(value, Mapping):
        return f"allowed: {', '.join(value)}"
    return f"{type(value).__name__} has no fields; allowed: a JSON object"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: unreadable text: {error}") from error
