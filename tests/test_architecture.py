"""The page on architecture is true, the core opens no file, and nothing imports torch too early.

What may import what is held by import-linter: `make lint`, contracts in pyproject.toml.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from sae_guard.core.metrics import ALL_COLUMNS, COLUMNS, METRICS, ON_REQUEST

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sae_guard"
ROWS = re.findall(
    r"^\| (\d+) \| `(\w+)`(†?) \|",
    (ROOT / "docs" / "explanation" / "architecture.md").read_text("utf-8"),
    re.MULTILINE,
)
TABLE = [(room, mark) for _, room, mark in ROWS]


def modules(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_the_table_lists_the_rooms_of_the_package_and_nothing_else() -> None:
    entries = {
        path.stem
        for path in PACKAGE.iterdir()
        if (path.is_dir() and any(path.rglob("*.py"))) or path.suffix == ".py"
    }
    assert sorted(room for room, _ in TABLE) == sorted(entries - {"__init__"})


def test_the_floors_are_those_of_the_contract() -> None:
    written = re.search(
        r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.M | re.S
    )
    assert written
    layers = [set(re.findall(r"\w+", line)) for line in written[1].splitlines()]
    floors = [{room for at, room, _ in ROWS if int(at) == n} for n in range(1, len(layers) + 1)]
    assert floors == layers[::-1]


def without_torch() -> Iterator[str]:
    """Modules that are imported before it is known whether anything will be measured."""
    for room, mark in TABLE:
        if mark or room == "demo":  # the demo's scripts train
            continue
        if room == "checkpoints":  # of which collection needs these alone
            yield from ("sae_guard.checkpoints.declare", "sae_guard.checkpoints.reference")
            yield from map(dotted, modules(PACKAGE / room / "formats"))
        elif (PACKAGE / room).is_dir():
            yield from map(dotted, modules(PACKAGE / room))
        else:
            yield f"sae_guard.{room}"
    yield "sae_guard.demo"


def test_rooms_without_the_mark_import_no_torch() -> None:
    code = "\n".join(f"import {name}" for name in without_torch())
    code += "\nimport sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


SHELLS = ("pytest_plugin", "cli", "api")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OPTIONS_OF_OTHERS = {
    "__init__.py": {"--sae"},  # how to start: the package's docstring
    "demo/train.py": {"--out"},  # `python -m sae_guard.demo.train --out`
    "history/environment.py": {"--porcelain", "--untracked-files", "--verify"},  # git's
}


def options_named(source: str) -> set[str]:
    """Find the options of command lines in the string constants of a module, docstrings too."""
    return {
        option
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for option in OPTION.findall(node.value)
    }


def test_only_shells_name_options() -> None:
    """Modules below the shells pass an `Option`, which each shell spells in its own way."""
    options_by_module = {}
    for path in modules():
        name = path.relative_to(PACKAGE).as_posix()
        shell = name.removesuffix(".py").split("/")[0] in SHELLS
        if not shell:
            options_by_module[name] = options_named(path.read_text("utf-8"))
    assert {
        name: options for name, options in options_by_module.items() if options
    } == OPTIONS_OF_OTHERS


def test_options_are_found_wherever_a_string_names_them() -> None:
    for line in (
        "f'give --sae-k {k}'", "f'`{option}--sae-k {k}`'", "'(--k)'", "def f():\n  '``--sae-k``'",
    ):  # fmt: skip
        assert options_named(line), line
    for line in ("'x--sae'", "'---'", "'a -- b'", "# --sae-k", "'-sae-k'"):
        assert options_named(line) == set(), line


FILE_MODULES = {
    "bz2", "codecs", "fileinput", "fsspec", "glob", "gzip", "io", "lzma", "mmap", "os", "pathlib",
    "pickle", "pyarrow", "shelve", "shutil", "socket", "sqlite3", "subprocess", "tarfile",
    "tempfile", "urllib", "zipfile",
}  # fmt: skip
FILE_FUNCTIONS = {
    "dump", "fromfile", "genfromtxt", "load", "loadtxt", "memmap", "open", "open_memmap",
    "read_bytes", "read_text", "save", "savetxt", "savez", "savez_compressed", "tofile",
    "write_bytes", "write_text",
}  # fmt: skip


def file_access(source: str) -> list[str]:
    """List the calls and imports of a module that could read or write a file."""
    accesses = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom():
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in FILE_FUNCTIONS:
                accesses.append(f"{node.lineno}: {name}")
                continue
            case _:
                continue
        for name in names:
            parts = name.split(".")
            ours = name.startswith("sae_guard.files")
            if ours or parts[0] in FILE_MODULES or parts[-1] in FILE_FUNCTIONS:
                accesses.append(f"{node.lineno}: {name}")
    return accesses


@pytest.mark.parametrize("path", modules(PACKAGE / "core"), ids=dotted)
def test_the_core_opens_no_file(path: Path) -> None:
    assert file_access(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "open('x')",
        "path.read_text()",
        "Path('x').write_bytes(b'')",
        "np.load('x')",
        "np.savez_compressed('x', a=a)",
        "array.tofile('x')",
        "json.dump({}, file)",
        "import os.path",
        "import numpy as np, io",
        "from pathlib import Path",
        "from numpy import load as read",
        "from sae_guard.files import write_whole",
        "from tempfile import TemporaryFile",
        "read = open",
    ],
)
def test_a_core_that_opens_a_file_would_be_found(line: str) -> None:
    assert file_access(f"def function():\n    {line}\n")


def test_a_core_that_opens_none_is_clean() -> None:
    assert file_access("import json\nfrom numpy import mean\njson.dumps(mean([1]))\n") == []


def test_every_column_has_one_formula_of_what_it_needs() -> None:
    """Two halves of one registry: what a column is, and its formula as tensors."""
    from sae_guard.engine.token_metrics import (
        ABLATIONS,
        COUNTS,
        DEVIATIONS,
        LATENTS,
        LOSSES,
        RECONSTRUCTIONS,
    )

    tables: list[tuple[Iterable[str], set[str], set[str]]] = [
        (COUNTS, set(), set()),
        (RECONSTRUCTIONS, {"reconstruction"}, set()),
        (LATENTS, {"latents"}, set()),
        (DEVIATIONS, {"mean activation"}, set()),
        (ABLATIONS, {"ablated run"}, {"mean activation"}),
        *((losses, {str(run)}, {"clean run"}) for run, losses in LOSSES.items()),
    ]
    assert sorted(name for names, _, _ in tables for name in names) == sorted(ALL_COLUMNS)
    for names, least, more in tables:
        for name in names:
            assert least <= ALL_COLUMNS[name].needs <= least | more, name


def test_every_column_and_metric_says_what_it_is() -> None:
    assert all(column.formula for column in ALL_COLUMNS.values())
    assert {*COLUMNS, *ON_REQUEST} == {n for n, column in ALL_COLUMNS.items() if column.summed}
    used: set[str] = set()
    for metric in METRICS.values():
        assert metric.formula
        assert metric.sides
        assert metric.columns <= {*COLUMNS, *ON_REQUEST}
        used |= metric.columns
        units = {ALL_COLUMNS[name].unit for name in metric.numerator}
        assert len(units) <= 1
        if units and set(metric.denominator) == {"n_tokens"}:
            assert metric.unit.removesuffix("/token") in units
    assert used == {*COLUMNS, *ON_REQUEST}


def test_functions_are_of_a_size_to_read() -> None:
    long = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1] if ast.get_docstring(node) and node.body[1:] else node.body[0]
                length = (node.end_lineno or 0) - first.lineno + 1
                if length > 50:
                    long[f"{path.name}::{node.name}"] = length
    assert long == {}


def test_no_code_matches_node_ids_by_their_ends() -> None:
    """A case is found by its `CaseRef`; a node id is a name, and names begin alike by accident."""
    matched = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr in ("startswith", "endswith", "removeprefix", "removesuffix")
        and re.search("node_?id", ast.unparse(node.value))
    ]
    assert matched == []
