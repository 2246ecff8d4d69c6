"""Hash the code that numbers depend on: remembered numbers of other code are not believed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import xxhash

PACKAGE = Path(__file__).parents[1]
_ENTRY = Path(__file__).parent.name


@cache
def code_hash(package: Path = PACKAGE) -> str:
    """Hash the engine's modules and every module of the package that they import.

    Args:
        package: Folder of the package. Where it lies is not part of the hash.

    Raises:
        FileNotFoundError: The engine or a module that it imports is not in the folder.
    """
    hashed = xxhash.xxh3_128()
    for path in sources(package):
        hashed.update(f"{path.relative_to(package).as_posix()}\0".encode())
        hashed.update(xxhash.xxh3_128_digest(path.read_bytes()))
    return hashed.hexdigest()


def sources(package: Path) -> list[Path]:
    """Find the files that `code_hash` hashes, sorted.

    Imports within functions and for type checking count. The package's own ``__init__`` does not:
    it names what users import, and modules of the package do not import it.
    """
    waiting = sorted((package / _ENTRY).rglob("*.py"))
    if not waiting:
        raise FileNotFoundError(f"{package / _ENTRY} holds no Python module")
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(_imported(path, package))
    return sorted(found)


def _imported(path: Path, package: Path) -> Iterator[Path]:
    """Files of the package that a module imports, with those of the rooms that they lie in."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(alias.name, package)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ImportError(f"{path}:{node.lineno}: a relative import, which is not followed")
            yield from _files(str(node.module), package)
            for alias in node.names:
                yield from _files(f"{node.module}.{alias.name}", package, name_or_module=True)


def _files(dotted: str, package: Path, *, name_or_module: bool = False) -> Iterator[Path]:
    """The file of a module and the ``__init__`` of each room above it.

    Args:
        dotted: The module's name.
        package: Folder of the package.
        name_or_module: Whether the last part may be a name in a module instead.
    """
    top, *parts = dotted.split(".")
    if top != __name__.split(".")[0] or not parts:
        return
    for depth in range(1, len(parts) + 1):
        place = package.joinpath(*parts[:depth])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                yield path
                break
        else:
            if not (name_or_module and depth == len(parts)):
                raise FileNotFoundError(f"{dotted} is not in {package}")
