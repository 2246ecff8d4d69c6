"""Read the pages of the documentation, and run what they show."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from sae_guard.cli import main
from sae_guard.demo import HELD_OUT, MODEL, SAES

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_STEP = re.compile(
    r"^<!-- (?P<hidden>run|after|copy|file|without|edit): (?P<value>.*?) -->$"
    r"|^```(?P<language>\w*)\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)


def pages() -> list[Path]:
    """List README.md, CONTRIBUTING.md and all pages in docs/."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    """Give the path of a page from the root, for ids and messages."""
    return page.relative_to(ROOT).as_posix()


def read(path: str) -> str:
    """Read a page by its path from the root."""
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """List the fenced blocks of a language."""
    matches = FENCE.findall(page.read_text(encoding="utf-8"))
    return [text for name, text in matches if name == language]


@dataclass(frozen=True)
class Command:
    """A command of a console block and the output that the page shows."""

    line: str
    output: tuple[str, ...] = ()


@dataclass(frozen=True)
class NewFile:
    """A file that the page tells the reader to write."""

    path: str
    text: str


@dataclass(frozen=True)
class Deletion:
    """A file of the project that the reader of this page does not have."""

    path: str


@dataclass(frozen=True)
class Edit:
    """A change of a file of the project, which the page describes in words."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Copy:
    """A folder that the reader copies, as the page says in words."""

    source: str
    target: str


Step = Command | Copy | NewFile | Deletion | Edit


def steps(page: Path) -> list[Step]:
    """List what a reader of the page does, in order.

    Comments are steps that the page need not show: ``<!-- run: COMMAND -->``,
    ``<!-- edit: PATH: OLD -> NEW -->``, ``<!-- copy: FROM -> TO -->``, ``<!-- without: PATH -->``,
    and ``<!-- after: PAGE -->`` for the files that the reader of another page has.
    ``<!-- file: PATH -->`` names the file that the next block holds.
    """
    matches: list[Step] = []
    path = ""
    for match in _STEP.finditer(page.read_text(encoding="utf-8")):
        if match["hidden"] == "run":
            matches.append(Command(match["value"]))
        elif match["hidden"] == "after":
            earlier = steps(ROOT / match["value"])
            matches.extend(step for step in earlier if not isinstance(step, Command))
        elif match["hidden"] == "copy":
            matches.append(Copy(*match["value"].split(" -> ")))
        elif match["hidden"] == "without":
            matches.append(Deletion(match["value"]))
        elif match["hidden"] == "edit":
            edited, _, change = match["value"].partition(": ")
            matches.append(Edit(edited, *change.split(" -> ")))
        elif match["hidden"] == "file":
            path = match["value"]
        elif path:
            matches.append(NewFile(path, match["text"]))
            path = ""
        elif match["language"] == "console":
            matches.extend(_commands(match["text"]))
    return matches


def _commands(block: str) -> Iterator[Command]:
    assert block.startswith("$ "), f"a console block begins with a command: {block}"
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, *output = part.splitlines()
        yield Command(line, tuple(output))


def make_project(folder: Path) -> None:
    """Make the project that pages are about: the demo's SAEs, model, text and spec."""
    shutil.copytree(SAES, folder / "releases")
    shutil.copytree(MODEL, folder / "model")
    shutil.copy(HELD_OUT, folder / "held_out.jsonl")
    spec = (ROOT / "thresholds" / "demo.yaml").read_text(encoding="utf-8")
    spec = spec.replace("sae_guard/demo/saes", "releases").replace("sae_guard/demo/", "")
    (folder / "thresholds").mkdir()
    (folder / "thresholds" / "demo.yaml").write_text(spec, encoding="utf-8")


def import_libraries() -> None:
    """Import what a run of pytest in this process would import and forget; torch bears it once."""
    for module in ("transformer_lens.model_bridge", "sae_guard.api", "pyarrow.parquet"):
        importlib.import_module(module)


class Reader:
    """Somebody who does what a page says."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester
        self._exit_code = 0

    def do(self, step: Step) -> None:
        """Do it; the output has to be the one of the page."""
        folder = self._pytester.path
        if isinstance(step, NewFile):
            (folder / step.path).parent.mkdir(exist_ok=True)
            (folder / step.path).write_text(step.text, encoding="utf-8")
        elif isinstance(step, Copy):
            shutil.copytree(folder / step.source, folder / step.target)
        elif isinstance(step, Deletion):
            (folder / step.path).unlink()
        elif isinstance(step, Edit):
            text = (folder / step.path).read_text(encoding="utf-8")
            assert step.old in text
            text = text.replace(step.old, step.new)
            (folder / step.path).write_text(text, encoding="utf-8")
        else:
            printed = self._run(step.line).replace(str(folder), "/home/me")
            missing = missing_line(step.output, printed.splitlines())
            assert missing is None, f"$ {step.line}\n{missing}\nis not printed:\n{printed}"

    def _run(self, line: str) -> str:
        name, *arguments = shlex.split(line, comments=True)
        if name == "echo":
            assert arguments == ["$?"]
            return f"{self._exit_code}\n"
        if name == "pytest":
            result = self._pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)
            self._exit_code = int(result.ret)
            return result.stdout.str() + result.stderr.str()
        assert name == "sae-guard", f"{line}: a page shows pytest and sae-guard alone"
        answer = CliRunner().invoke(main, arguments)
        self._exit_code = answer.exit_code
        return answer.output


def missing_line(expected: Sequence[str], printed: Sequence[str]) -> str | None:
    """Find the first expected line that is not printed after those before it; None if all are.

    Lines of ``...`` stand for others. Spaces, rules, ids, dates and times do not matter, and
    numbers may differ by what another machine changes.
    """
    remaining = iter([_words(line) for line in printed])
    for line in expected:
        if line.strip() in ("", "..."):
            continue
        words = _words(line)
        if not any(_matches(words, other) for other in remaining):
            return line
    return None


_CHANGING = (
    (r"[=_]{3,}", ""),
    (r"\d{8}T\d{6}Z", "TIME"),
    (r"\d{4}-\d\d-\d\d( \d\d:\d\d)?", "DATE"),
    (r"\b[0-9a-f]{12}\b", "ID"),
    (r"in \d+\.\d+s.*", ""),
)
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def _words(line: str) -> list[str]:
    for pattern, word in _CHANGING:
        line = re.sub(pattern, word, line)
    return re.findall(rf"{_NUMBER.pattern}|[^\W\d]+|\S", line)


def _matches(expected: Sequence[str], printed: Sequence[str]) -> bool:
    if expected[-3:] == [".", ".", "."] and printed[-3:] != expected[-3:]:  # the rest of the line
        expected = expected[:-3]
        printed = printed[: len(expected)]
    return len(expected) == len(printed) and all(map(_same, expected, printed))


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    if not (_NUMBER.fullmatch(one) and _NUMBER.fullmatch(other)):
        return False
    a, b = (float(text.replace(",", "")) for text in (one, other))
    if 0 < a < 1e-6 and 0 < b < 1e-6:  # p-values, which are of any size, and what rounding leaves
        return True
    return abs(a - b) <= max(0.02 * max(abs(a), abs(b)), 1e-6)
