"""docs/architecture.md is true: rooms, layers and what each may import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sae_guard"
TABLE = re.findall(
    r"^\| (\w+) \| `(\w+)`(†?) \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE
)
LAYER = {room: layer for layer, room, _ in TABLE}
ORDER = ["core", "adapter", "shell"]
ABOVE_ALL = {"public", "data"}  # import what they like and are imported by no room

# Third-party packages that are a room's own business.
ONLY_IN = {
    "pytest": {"pytest_plugin"},
    "hypothesis": {"testing"},
    "yaml": {"spec", "checkpoints"},
    "pydantic": {"spec", "checkpoints", "history"},
    "transformer_lens": {"model"},
    "transformers": {"model", "demo"},
    "datasets": {"corpus"},
    "huggingface_hub": {"model", "checkpoints"},
    "sae_lens": {"checkpoints"},
    "safetensors": {"checkpoints", "corpus", "demo"},
    "click": {"cli"},
    "scipy": {"statistics"},
    "filelock": {"pytest_plugin", "cache"},
    "platformdirs": {"cache"},
    "xxhash": {"cache", "engine"},
    "tqdm": {"engine"},
    "psutil": {"engine"},
    "pyarrow": {"history"},
    "fsspec": {"history"},
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path != PACKAGE / "__init__.py":
            yield room_of(path), path


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a module imports, those for type checking included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_room_is_in_the_table_and_no_other() -> None:
    rooms = {room for room, _ in modules()}
    assert rooms == set(LAYER)
    assert len(TABLE) == len(LAYER)


@pytest.mark.parametrize("path", [path for _, path in modules()], ids=str)
def test_imports_run_one_way(path: Path) -> None:
    mine = LAYER[room_of(path)]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "sae_guard" or len(parts) < 2 or parts[1] not in LAYER:
            continue
        theirs = LAYER[parts[1]]
        if parts[1] == room_of(path):
            continue
        assert theirs not in ABOVE_ALL, f"{path} imports {name}"
        if mine not in ABOVE_ALL:
            assert ORDER.index(theirs) <= ORDER.index(mine), f"{mine} {path} imports {name}"


@pytest.mark.parametrize("path", [path for _, path in modules()], ids=str)
def test_third_party_packages_stay_in_their_rooms(path: Path) -> None:
    for name in imports(path):
        rooms = ONLY_IN.get(name.split(".")[0])
        assert rooms is None or room_of(path) in rooms, f"{path} imports {name}"


def test_rooms_do_not_import_each_other_in_circles() -> None:
    edges = {
        (room, name.split(".")[1])
        for room, path in modules()
        for name in imports_at_run_time(path)
        if name.startswith("sae_guard.") and name.split(".")[1] in LAYER
    }
    left = set(LAYER)
    while left:
        free = {a for a in left if not any((a, b) in edges for b in left - {a})}
        assert free, f"a circle among {sorted(left)}"
        left -= free


def imports_at_run_time(path: Path) -> Iterator[str]:
    """`imports`, without what stands below ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_rooms_without_the_mark_import_no_torch() -> None:
    light = [room for _, room, mark in TABLE if not mark]
    lines = [f"import sae_guard.{room}" for room in light]
    lines += ["import sae_guard.core.metrics, sae_guard.checkpoints.locate"]
    code = "\n".join(lines) + "\nimport sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_modules_are_of_a_size_to_read() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for _, path in modules()}
    assert {path.name: n for path, n in lengths.items() if n > 260} == {}


def test_functions_are_of_a_size_to_read() -> None:
    long = {}
    for _, path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1] if ast.get_docstring(node) and node.body[1:] else node.body[0]
                length = (node.end_lineno or 0) - first.lineno + 1
                if length > 50:
                    long[f"{path.name}::{node.name}"] = length
    assert long == {}
