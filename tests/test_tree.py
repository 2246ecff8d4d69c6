"""The folders of tests mirror the package: a module's tests lie at its own path."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sae_guard"
TESTS = ROOT / "tests"

WHOLE_PROGRAM = {"cli", "pytest_plugin", "demo"}
"""Rooms of the package whose tests are named after what users do with them."""

OTHER_FOLDERS = {"attacks", "helpers", "saelens", "upstream"}
"""Folders of tests that belong to no single room."""

WHOLE_PROJECT = {
    "test_architecture", "test_docs", "test_named_paths", "test_public_names", "test_tree",
}  # fmt: skip

TESTED_ELSEWHERE = {
    "errors": ("pytest_plugin/test_errors.py", "an error is what the program does with it"),
    "testing": ("core/test_metrics.py", "its strategies draw the examples of the core's tests"),
    # checkpoints
    "checkpoints/assemble": ("checkpoints/formats", "every format's SAE is assembled by it"),
    "checkpoints/hub": ("checkpoints/test_reference.py", "where references are fetched from"),
    "checkpoints/inspect": ("cli/test_cli.py", "the text of `sae-guard inspect`"),
    "checkpoints/declarations": ("checkpoints/formats", "what formats share to declare"),
    "checkpoints/formats/__init__": ("checkpoints/test_format.py", "the list of formats"),
    "checkpoints/formats/deepseek": ("checkpoints/formats/test_goodfire.py", "the same files"),
    "checkpoints/formats/openmoss_config": (
        "checkpoints/formats/test_openmoss.py", "a config is tested with its weights",
    ),
    "checkpoints/formats/overcomplete_module": (
        "checkpoints/formats/test_overcomplete.py", "a part of the format",
    ),
    # model, specs
    "model/suffix": ("model/test_language_model.py", "a run from a block on beside a whole one"),
    "specs/values": ("specs/test_messages.py", "a wrong value and what is said of it"),
    # engine
    "engine/sae_run": ("engine/test_measure.py", "its columns beside the definition"),
    "engine/sweep": ("engine/test_measure_until.py", "a sweep is a measurement"),
    # examination
    "examination/variants": ("examination/test_examine_planted_faults.py", "each undoes a fault"),
    # history, render
    "history/export": ("cli/test_history.py", "what `sae-guard history --export` writes"),
    "render/tightening": ("cli/test_tighten.py", "what `sae-guard tighten` prints"),
}  # fmt: skip
"""Module → where below tests/ its tests are, and why they are not at its own path."""


def has_code(path: Path) -> bool:
    """Say whether a module holds more than its docstring, imports and ``__all__``."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        if not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"):
            return True
    return False


def modules() -> Iterator[str]:
    """Name the modules with code in the rooms that are mirrored; ``api``, ``core/verdicts``."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").as_posix()
        excluded = name.split("/")[0] in {"__init__", *WHOLE_PROGRAM}
        if not excluded and has_code(path):
            yield name


def files_of_tests() -> Iterator[str]:
    """Name the test modules of the mirrored rooms as `modules` does; ``core/test_verdicts``."""
    for path in sorted(TESTS.rglob("test_*.py")):
        name = path.relative_to(TESTS).with_suffix("").as_posix()
        if name.split("/")[0] not in WHOLE_PROGRAM | OTHER_FOLDERS | WHOLE_PROJECT:
            yield name


def misplaced(modules: Iterable[str], tests: Iterable[str]) -> list[str]:
    """Find the test modules whose name does not begin with that of a module at the same path."""
    known_names = {*modules}
    return [name for name in tests if not any(is_of(name, module) for module in known_names)]


def is_of(test: str, module: str) -> bool:
    """Say whether the name is the module's, or the module's and an aspect of it."""
    own = own_tests(module)
    return test == own or test.startswith(f"{own}_")


def own_tests(module: str) -> str:
    """``core/verdicts`` → ``core/test_verdicts``."""
    path = PurePosixPath(module)
    return str(path.with_name(f"test_{path.name}"))


def untested(modules: Iterable[str], tests: Iterable[str], elsewhere: Iterable[str]) -> list[str]:
    """Find the modules without tests of their own that are not said to be tested elsewhere."""
    own, excused = {*tests}, {*elsewhere}
    return [name for name in modules if own_tests(name) not in own and name not in excused]


def superfluous(
    modules: Iterable[str], tests: Iterable[str], elsewhere: Iterable[str]
) -> list[str]:
    """Find what is said to be tested elsewhere and is no module, or has tests of its own."""
    known_names, own = {*modules}, {*tests}
    return [name for name in elsewhere if name not in known_names or own_tests(name) in own]


def imported_tests(source: str) -> list[str]:
    """Find the test modules that this one imports, at its top or within a function."""
    imports = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            imports += [module, *(f"{module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
    return [name for name in imports if is_test_module(name)]


def is_test_module(name: str) -> bool:
    """Say whether a dotted name is one of a module of tests; that of what it holds is not."""
    path = ROOT / PurePosixPath(*name.split(".")).with_suffix(".py")
    return path.name.startswith("test_") and path.is_relative_to(TESTS) and path.exists()


def test_what_does_not_mirror_is_found() -> None:
    names = ["api", "core/verdicts", "core/pareto", "core/__init__", "specs/load"]
    tests = ["test_api", "core/test_verdicts", "core/test_verdicts_change", "specs/test_load_twice"]
    assert misplaced(names, tests) == []
    assert misplaced(names, ["core/test_api", "core/test_verdict", "core/test_verdictschange"]) == [
        "core/test_api", "core/test_verdict", "core/test_verdictschange",
    ]  # fmt: skip
    assert untested(names, tests, ["core/__init__"]) == ["core/pareto", "specs/load"]
    assert superfluous(names, tests, ["core/pareto", "core/gone", "api"]) == ["core/gone", "api"]


def test_test_files_begin_with_the_name_of_their_module() -> None:
    assert misplaced(modules(), files_of_tests()) == []


def test_every_module_has_a_test_file() -> None:
    assert untested(modules(), files_of_tests(), TESTED_ELSEWHERE) == []


def test_what_is_tested_elsewhere_is_a_module_without_a_test_file() -> None:
    assert superfluous(modules(), files_of_tests(), TESTED_ELSEWHERE) == []
    for module, (place, reason) in TESTED_ELSEWHERE.items():
        assert (TESTS / place).exists(), f"{module}: tests/{place}"
        assert reason, module


def test_every_folder_of_tests_is_a_room_or_known() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    folders = {path.parent.relative_to(TESTS).parts[0] for path in TESTS.glob("*/*.py")}
    assert folders <= rooms | OTHER_FOLDERS
    assert {path.stem for path in TESTS.glob("test_*.py")} >= WHOLE_PROJECT


def test_what_test_modules_import_is_found() -> None:
    for line in (
        "from tests.test_api import anything",
        "from tests import helpers, test_api",
        "import tests.test_api as api",
        "def test() -> None:\n    from tests.test_api import anything",
    ):
        assert imported_tests(line) == ["tests.test_api"], line
    for line in ("from tests.helpers.naive import test_api", "from sae_guard import test_api"):
        assert imported_tests(line) == [], line


def test_no_module_imports_from_a_test_module() -> None:
    imports = {
        path.relative_to(ROOT).as_posix(): imported_tests(path.read_text(encoding="utf-8"))
        for path in TESTS.rglob("*.py")
    }
    assert {path: names for path, names in imports.items() if names} == {}
