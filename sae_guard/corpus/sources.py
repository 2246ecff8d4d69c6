"""Where text comes from: files, JSON lines, token files, datasets, installed modules."""

from __future__ import annotations

import glob
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sae_guard.errors import InfrastructureError, SetupError


def expand(patterns: Sequence[str], base: Path) -> list[Path]:
    """The files that paths and globs name, relative to ``base``, sorted within each pattern.

    Raises:
        SetupError: A pattern names no file.
    """
    files: list[Path] = []
    for pattern in patterns:
        whole = str(base / Path(pattern).expanduser())
        found = sorted(Path(name) for name in glob.glob(whole, recursive=True))
        found = [path for path in found if path.is_file()]
        if not found:
            raise SetupError(f"no file matches {pattern!r} (looked for {whole})")
        files.extend(found)
    return files


def text_files(paths: Sequence[Path]) -> Iterator[str]:
    """Each file's text is one document."""
    for path in paths:
        yield _read(path)


def json_lines(paths: Sequence[Path], field: str) -> Iterator[Any]:
    """``field`` of each line's object; empty lines are skipped.

    Raises:
        SetupError: A line is no JSON object, or lacks the field.
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
            yield row[field]


def token_file(path: Path, field: str) -> Iterator[list[int]]:
    """Documents of token ids: the rows of a ``.npy`` or ``.safetensors`` matrix, or JSON lines.

    Raises:
        SetupError: The file is unreadable, or is not a matrix of integers.
    """
    if path.suffix == ".jsonl":
        for row in json_lines([path], field):
            if not isinstance(row, list) or not all(type(token) is int for token in row):
                raise SetupError(f"{path}: field {field!r} is not a list of token ids")
            yield row
        return
    array = _token_matrix(path)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise SetupError(
            f"{path}: {array.dtype}{list(array.shape)} is no matrix of token ids [document, pos]"
        )
    for document in array:
        yield document.tolist()


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
    path: str, *, name: str | None, split: str, revision: str | None, field: str, base: Path
) -> Iterator[Any]:
    """``field`` of each row of a Hugging Face dataset, streamed, or of a folder saved by one.

    Raises:
        SetupError: There is no such dataset, configuration, split or field.
        InfrastructureError: The hub cannot be reached.
    """
    import datasets

    folder = base / Path(path).expanduser()
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
            yield row[field]
    except ConnectionError as error:
        raise InfrastructureError(f"dataset {path!r} cannot be reached: {error}") from error
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"dataset {path!r}, split {split!r}: {error}") from error


def module_sources(names: Sequence[str]) -> Iterator[str]:
    """Source text of installed Python modules: real text that every machine has.

    Raises:
        SetupError: A module is not installed, or has no Python source.
    """
    for name in names:
        found = importlib.util.find_spec(name) if "." not in name else None
        if found is None or found.origin is None or not found.origin.endswith(".py"):
            raise SetupError(f"no Python source for top-level module {name!r}")
        yield _read(Path(found.origin))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: unreadable text: {error}") from error
