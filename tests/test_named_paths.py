"""Every path that a document, the Makefile or a configuration names is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *("Makefile", "pyproject.toml", "CONTRIBUTING.md", "README.md", ".ci/run"),
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")),
    *(
        "benchmarks/README.md",
        *sorted(f"benchmarks/{p.name}" for p in ROOT.glob("benchmarks/*.py")),
    ),
]
FOLDERS = ("sae_guard", "tests", "benchmarks", "docs", "thresholds")
NAMED = re.compile(rf"(?<![\w./~<-])(?:{'|'.join(FOLDERS)})/[\w./*-]*")

EXAMPLES = {
    "thresholds/*.yml": "the default of an ini option; this project's specs end in .yaml",
    "thresholds/gpt2.yaml": "a reader writes it",
    "thresholds/spec.schema.json": "a reader writes it",
    "thresholds/tiny.yaml": "a reader writes it",
}
"""Paths that are named and need not be there, and why."""


def paths_in(text: str) -> Iterator[str]:
    """Yield the paths below one of the folders, without the full stop of a sentence."""
    for match in NAMED.finditer(text):
        yield match[0].rstrip(".")


def is_there(path: str) -> bool:
    """Say whether there is such a file or folder, of which a name that ends in / is one."""
    if "*" in path:
        return any(ROOT.glob(path))
    return (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).exists()


@pytest.mark.parametrize("page", PAGES)
def test_paths_that_are_named_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [path for path in paths_in(text) if path not in EXAMPLES and not is_there(path)] == []


def test_every_example_is_named() -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert set(EXAMPLES) <= set(paths_in(text))


def test_paths_are_found_in_prose_code_and_commands() -> None:
    sample = """\
    | a metric | `sae_guard/core/metrics.py`; `sae_guard/sae/` | `tests/core/test_measurement.py` |
    See [the figures](benchmarks/README.md#engine) and docs/versions.md. Not mine: my/tests/x.py,
    ../docs/y.md, https://example.org/docs/z, ~/thresholds/w.yaml.
    FAILED thresholds/demo.yaml::demo::kl[v3] thresholds/demo.yaml:20, `thresholds/*.yaml`
    \t.venv/bin/pytest tests/cli tests/model/test_suffix.py > docs/formats.md
    """
    assert list(paths_in(sample)) == [
        "sae_guard/core/metrics.py",
        "sae_guard/sae/",
        "tests/core/test_measurement.py",
        "benchmarks/README.md",
        "docs/versions.md",
        "thresholds/demo.yaml",
        "thresholds/demo.yaml",
        "thresholds/*.yaml",
        "tests/cli",
        "tests/model/test_suffix.py",
        "docs/formats.md",
    ]


def test_what_is_not_there_is_found() -> None:
    assert is_there("tests/test_named_paths.py")
    assert is_there("tests/")
    assert is_there("tests/test_named_*.py")
    assert not is_there("tests/test_of_nothing.py")
    assert not is_there("tests/test_named_paths.py/")
    assert not is_there("tests/*_of_nothing.py")
