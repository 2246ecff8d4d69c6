"""The files of a checkpoint and its config, which is read once; no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_guard.checkpoints.safe_pickle.inert import check_plain
from sae_guard.checkpoints.safe_pickle.sizes import MIB, opened
from sae_guard.errors import LoadError

_MAX_CONFIG_BYTES = 4 * 2**20
_MAX_YAML = 2**18  # characters; YAML is much slower to parse than JSON


@dataclass(frozen=True, kw_only=True)
class CheckpointFiles:
    """The files of a checkpoint, from which hook points are declared and SAEs are loaded."""

    path: Path
    """Path in the user's reference, a file or a folder."""
    weights: Path
    config_file: Path | None = None
    config: Mapping[str, Any] | None = None
    """Content of `config_file`."""
    config_sha256: str = ""
    name: str | None = None
    """Name of the SAE in a file with several: the part after ``#`` in the user's reference."""


def read_files(
    path: Path, weights: Path, config_file: Path | None, name: str | None = None
) -> CheckpointFiles:
    """Read the config of a checkpoint but not its weights; raises `LoadError`."""
    if config_file is None:
        return CheckpointFiles(path=path, weights=weights, name=name)
    data = _config_bytes(config_file)
    return CheckpointFiles(
        path=path,
        weights=weights,
        config_file=config_file,
        config=_config(data, config_file),
        config_sha256=hashlib.sha256(data).hexdigest(),
        name=name,
    )


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON or YAML file that must contain an object; raises `LoadError`."""
    return _config(_config_bytes(path), path)


def _config_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _MAX_CONFIG_BYTES:
            raise LoadError(
                f"{path}: the config has {size:,} bytes, allowed: up to {_MAX_CONFIG_BYTES:,}"
            )
        return path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path}: unreadable config: {error}") from error


def _config(data: bytes, path: Path) -> dict[str, Any]:
    try:
        text = data.decode("utf-8")
        config = _yaml(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
        # Aliases make YAML that is short in the file and endless when it is printed.
        check_plain(config)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: unreadable config: {error}") from error
    if not isinstance(config, dict):
        raise LoadError(
            f"{path}: the config is a {type(config).__name__}, expected an object of keys and "
            "values"
        )
    return config


def _yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            """Refuse merge keys: they multiply, and twenty lines of them fill the memory."""
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                raise ValueError("merge keys (<<) are not read; write the keys out")
            super().flatten_mapping(node)

    if len(text) > _MAX_YAML:
        raise ValueError(f"{len(text):,} characters of YAML, allowed: up to {_MAX_YAML:,}")
    try:
        return yaml.load(text, Loader)
    except Exception as error:  # a malformed number or date raises nearly anything
        message = str(error).replace("\n", " ")
        raise ValueError(f"{type(error).__name__}: {message}") from error


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of the file's bytes; raises `LoadError`."""
    digest = hashlib.sha256()
    try:
        with opened(path) as (file, _):
            while chunk := file.read(MIB):
                digest.update(chunk)
    except (OSError, ValueError) as error:
        raise LoadError(f"{path}: unreadable: {error}") from error
    return digest.hexdigest()
