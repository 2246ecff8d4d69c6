"""Where text comes from: files, JSON lines, token files, datasets, installed modules.

Each gives `Found`: a document, and the name of its source.
"""

from __future__ import annotations

import glob
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sae_guard.errors import InfrastructureError, SetupError
from sae_guard.files import expanded


class Found(NamedTuple):
    """A document, text or token ids, and where it comes from."""

    source: str
    value: Any


def expand(patterns: Sequence[str], base: Path) -> list[Path]:
    """The files that paths and globs name, relative to ``base``, sorted within each pattern.

    Raises:
        SetupError: A pattern names no file.
    """
    files: list[Path] = []
    for pattern in patterns:
        whole = str(base / expanded(pattern))
        found = sorted(Path(name) for name in glob.glob(whole, recursive=True))
        found = [path for path in found if path.is_file()]
        if not found:
            raise SetupError(f"no file matches {pattern!r} (looked for {whole})")
        files.extend(found)
    return files


def named(path: Path, base: Path) -> str:
    """What a file is called as a source: its path from ``base``, if the spec has it so."""
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()


def text_files(paths: Sequence[Path], base: Path) -> Iterator[Found]:
    """Each file's text is one document; its source is the file."""
    for path in paths:
        yield Found(named(path, base), _read(path))


def json_lines(
    paths: Sequence[Path], field: str, *, source_field: str | None, base: Path
) -> Iterator[Found]:
    """``field`` of each line's object; empty lines are skipped. The source is the file, or what
    ``source_field`` of the line says.

    Raises:
        SetupError: A line is no JSON object, or lacks a field.
    """
    for path in paths:
        for number, line in enumerate(_read(path).split("\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise SetupError(f"{path}:{number}: not JSON: {error}") from error
            if not isinstance(row, dict) or field not in row:
                keys = ", ".join(row) if isinstance(row, dict) else type(row).__name__
                raise SetupError(f"{path}:{number}: no field {field!r}; there is: {keys}")
            if source_field is None:
                yield Found(named(path, base), row[field])
            else:
                yield Found(_source(row, source_field, f"{path}:{number}"), row[field])


def token_file(path: Path, field: str, *, source_field: str | None, base: Path) -> Iterator[Found]:
    """Documents of token ids: the rows of a ``.npy`` or ``.safetensors`` matrix, or JSON lines.

    Raises:
        SetupError: The file is unreadable, or is not a matrix of integers, or has no fields.
    """
    if path.suffix == ".jsonl":
        for found in json_lines([path], field, source_field=source_field, base=base):
            row = found.value
            if not isinstance(row, list) or not all(type(token) is int for token in row):
                raise SetupError(f"{path}: field {field!r} is not a list of token ids")
            yield found
        return
    if source_field is not None:
        raise SetupError(f"{path} has no fields; source_field {source_field!r} is for .jsonl files")
    array = _token_matrix(path)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise SetupError(
            f"{path}: {array.dtype}{list(array.shape)} is no matrix of token ids [document, pos]"
        )
    for document in array:
        yield Found(named(path, base), document.tolist())


def _token_matrix(path: Path) -> np.ndarray[Any, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if path.suffix == ".npy":
            array: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
            return array
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            raise SetupError(f"{path}: token files are .npy, .safetensors or .jsonl")
    except (OSError, ValueError, EOFError, SafetensorError) as error:
        raise SetupError(f"{path}: unreadable token file: {error}") from error
    if len(tensors) != 1:
        raise SetupError(f"{path}: expected one tensor, found {sorted(tensors)}")
    return next(iter(tensors.values()))


def dataset(
    path: str,
    *,
    name: str | None,
    split: str,
    revision: str | None,
    field: str,
    source_field: str | None,
    base: Path,
) -> Iterator[Found]:
    """``field`` of each row of a Hugging Face dataset, streamed, or of a folder saved by one. The
    source is the dataset, or what ``source_field`` of the row says.

    Raises:
        SetupError: There is no such dataset, configuration, split or field.
        InfrastructureError: The hub cannot be reached.
    """
    import datasets

    folder = base / expanded(path)
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            stored = datasets.load_from_disk(str(folder))
            rows = stored[split] if isinstance(stored, datasets.DatasetDict) else stored
        else:
            where = str(folder) if folder.exists() else path
            rows = datasets.load_dataset(
                where, name, split=split, revision=revision, streaming=True
            )
        for row in rows:
            if field not in row:
                raise SetupError(f"dataset {path!r} has no field {field!r}: {', '.join(row)}")
            if source_field is None:
                yield Found(path, row[field])
            else:
                yield Found(_source(row, source_field, f"dataset {path!r}"), row[field])
    except ConnectionError as error:
        raise InfrastructureError(f"dataset {path!r} cannot be reached: {error}") from error
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"dataset {path!r}, split {split!r}: {error}") from error


def module_sources(names: Sequence[str]) -> Iterator[Found]:
    """The code of installed Python modules: real text that every machine has.

    Raises:
        SetupError: A module is not installed, or has no Python source.
    """
    for name in names:
        found = importlib.util.find_spec(name) if "." not in name else None
        if found is None or found.origin is None or not found.origin.endswith(".py"):
            raise SetupError(f"no Python source for top-level module {name!r}")
        yield Found(name, _read(Path(found.origin)))


def _source(row: Mapping[str, Any], field: str, where: str) -> str:
    """What the row says at a key, or at keys below each other: ``meta.pile_set_name``.

    Raises:
        SetupError: There is no such key, or neither text nor a whole number.
    """
    found: Any = row
    for key in [field] if field in row else field.split("."):
        if not isinstance(found, Mapping) or key not in found:
            keys = ", ".join(found) if isinstance(found, Mapping) else type(found).__name__
            raise SetupError(f"{where}: no source_field {field!r}; there is: {keys}")
        found = found[key]
    if isinstance(found, Mapping):
        below = ", ".join(f"{field}.{key}" for key in found)
        raise SetupError(f"{where}: source_field {field!r} is a mapping; say which of {below}")
    if type(found) not in (str, int) or found == "":
        raise SetupError(f"{where}: source_field {field!r} is {found!r}, expected text")
    return str(found)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: unreadable text: {error}") from error
