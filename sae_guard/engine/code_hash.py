"""Hash the code that numbers depend on: cached numbers of other code are not used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import xxhash

PACKAGE = Path(__file__).parents[1]
_ENGINE = Path(__file__).parent.name


@cache
def code_hash(package: Path = PACKAGE) -> str:
    """Hash the engine's modules and every module of the package that they import.

    Args:
        package: Folder of the package. Its location is not part of the hash.

    Raises:
        FileNotFoundError: The engine or a module that it imports is not in the folder.
        ImportError: A module has a relative import.
    """
    hasher = xxhash.xxh3_128()
    for path in source_files(package):
        # POSIX separators: Windows and Linux get the same hash of the same code.
        hasher.update(f"{path.relative_to(package).as_posix()}\0".encode())
        # A hash has a fixed length, so text cannot move from one file to the next unnoticed.
        hasher.update(xxhash.xxh3_128_digest(path.read_bytes()))
    return hasher.hexdigest()


def source_files(package: Path) -> list[Path]:
    """List the files that `code_hash` hashes, sorted.

    Imports within functions and for type checking count. The package's own ``__init__`` does not:
    it lists the public names for users, and no module of the package imports it.

    Args:
        package: Folder of the package.

    Raises:
        FileNotFoundError: The engine or a module that it imports is not in the folder.
        ImportError: A module has a relative import.
    """
    queue = sorted((package / _ENGINE).rglob("*.py"))
    if not queue:
        raise FileNotFoundError(f"{package / _ENGINE} holds no Python module")
    files: set[Path] = set()
    while queue:
        path = queue.pop()
        if path not in files:
            files.add(path)
            queue.extend(_imported_files(path, package))
    return sorted(files)


def _imported_files(path: Path, package: Path) -> Iterator[Path]:
    """Yield the files of a module's imports, with the ``__init__`` of their folders."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(alias.name, package)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ImportError(
                    f"{path}:{node.lineno}: relative import: `code_hash` follows absolute imports "
                    "only, write `from sae_guard...`"
                )
            yield from _files(str(node.module), package)
            for alias in node.names:
                yield from _files(f"{node.module}.{alias.name}", package, name_or_module=True)


def _files(dotted: str, package: Path, *, name_or_module: bool = False) -> Iterator[Path]:
    """Yield the file of a module, and the ``__init__`` of each folder above it.

    Args:
        dotted: Full name of the module.
        package: Folder of the package.
        name_or_module: True if the last part may also be a name that a module defines.
    """
    top, *parts = dotted.split(".")
    if top != __name__.split(".")[0] or not parts:
        return
    for depth in range(1, len(parts) + 1):
        base = package.joinpath(*parts[:depth])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                yield path
                break
        else:
            if not (name_or_module and depth == len(parts)):
                raise FileNotFoundError(f"{dotted} is not in {package}")
