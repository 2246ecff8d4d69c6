"""The documentation is tested: tables are complete, specs load, Python and commands run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from sae_guard.cli import main
from sae_guard.core import report_json
from sae_guard.core.diagnosis import NAMES
from sae_guard.core.metrics import METRICS
from sae_guard.core.targets import Slice, Target
from sae_guard.errors import Contract
from sae_guard.pytest_plugin import fixtures
from sae_guard.pytest_plugin.options import EXIT_ERROR, add_options
from sae_guard.specs import json_schema, load_specs
from tests.helpers.pages import (
    ROOT,
    Command,
    Reader,
    blocks,
    import_libraries,
    make_project,
    missing_line,
    name_of,
    pages,
    read,
    steps,
)

MOST_LINES = 150
"""Most lines of README.md, which is for a reader in a hurry."""


class Parser:
    """Takes the options that the plugin declares."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def getgroup(self, *args: str) -> Parser:
        return self

    def addoption(self, name: str, **kwargs: Any) -> None:
        self.names.add(name)

    def addini(self, name: str, *args: str, **kwargs: Any) -> None:
        self.names.add(name)


def declared_options() -> set[str]:
    parser = Parser()
    add_options(parser)  # type: ignore[arg-type]
    return parser.names


def test_the_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) <= MOST_LINES


def test_each_page_is_in_the_table_of_contents() -> None:
    contents = read("docs/README.md")
    for page in (ROOT / "docs").glob("*/*.md"):
        assert f"({page.relative_to(ROOT / 'docs').as_posix()})" in contents


def test_options_are_documented() -> None:
    page = read("docs/reference/options.md")
    rows = set(re.findall(r"^\| `((?:--)?sae[a-z_-]*)", page, re.MULTILINE))
    listed = [name for name in vars(fixtures) if name.startswith("sae") and name != "sae_case"]
    assert listed
    assert rows == declared_options() | set(listed)


def test_the_load_contract_is_documented() -> None:
    rows = re.findall(r"^\| `load\.([a-z_]+)` \|", read("docs/reference/load-contract.md"), re.M)
    assert tuple(rows) == get_args(Contract)


def test_diagnoses_are_documented() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", read("docs/reference/diagnoses.md"), re.MULTILINE)
    assert tuple(rows) == NAMES


def test_the_metric_table_is_the_one_in_the_code() -> None:
    page = read("docs/reference/metrics.md")
    for metric in METRICS.values():
        unit = f" ({metric.unit})" if metric.unit else ""
        formula = metric.formula.replace("|", "\\|")
        if metric.min_tokens > 1:
            formula += f"; needs {metric.min_tokens:,} scored tokens"
        row = f"| `{metric.name}`{unit} | {', '.join(metric.sides)} | {formula} |"
        assert f"{row} {metric.also_called} |" in page


def test_the_table_of_slices_and_quantiles_is_what_specs_allow() -> None:
    page = read("docs/reference/metrics.md")
    position, source = Slice("position", 0, 8), Slice("source", glob="a")
    for name in METRICS:
        targets = (
            Target(name, slice=position),
            Target(name, slice=source),
            Target(name, "p99"),
            Target(name, "worst_sequence"),
            Target(name, "worst_sequence", position),
        )
        cells = ("yes" if target.problem() is None else "–" for target in targets)
        assert f"| `{name}` | {' | '.join(cells)} |" in page


def test_every_key_of_a_spec_is_documented() -> None:
    page = read("docs/reference/specs.md")
    documented = set(re.findall(r"^\| `([a-z_.]+)` \|", page, re.MULTILINE))
    assert set(keys(json_schema())) <= documented


def keys(schema: dict[str, Any]) -> Iterator[str]:
    blocks_of = {"model": "ModelSpec", "data": "DataSpec", "sae": "SaeOptions"}
    for key in schema["properties"]:
        if key != "data":
            yield key
        if key in blocks_of:
            for nested in schema["$defs"][blocks_of[key]]["properties"]:
                yield f"{key}.{nested}"


def test_the_schema_of_reports_is_the_file_in_docs() -> None:
    written = json.dumps(report_json.json_schema(), indent=2, ensure_ascii=False) + "\n"
    assert read("docs/reference/report.schema.json") == written, "run `make docs`"


def test_exit_codes_are_documented() -> None:
    section = read("docs/reference/exit-codes.md").partition("## sae-guard")[0]
    codes = {int(code) for code in re.findall(r"^\| (\d) \|", section, re.MULTILINE)}
    assert {
        0,
        EXIT_ERROR,
        *map(int, (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR)),
        int(pytest.ExitCode.NO_TESTS_COLLECTED),
    } == codes


def test_commands_and_their_options_are_documented() -> None:
    page = read("docs/reference/commands.md")
    for name, command in main.commands.items():
        assert f"| `sae-guard {name}" in page, name
        options = {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)}
        in_page = set(re.findall(r"--[a-z-]+", page))
        assert {opt for opt in options if opt.startswith("--")} <= in_page, name


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_options_that_a_page_names_exist(page: Path) -> None:
    of_commands = {
        opt
        for command in main.commands.values()
        for parameter in command.params
        for opt in (*parameter.opts, *parameter.secondary_opts)
    }
    text = page.read_text(encoding="utf-8")
    in_page = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))
    assert in_page - of_commands - declared_options() - OTHERS == set()


OTHERS = {
    "--deselect", "--dist", "--help", "--junitxml", "--lf", "--tb",  # pytest's and pytest-xdist's
    "--no-deps", "--smollm2", "--runs", "--strict",  # of pip, of benchmarks, of mypy
}  # fmt: skip


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_specs_on_a_page_load(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "yaml"):
        (tmp_path / "spec.yaml").write_text(text, encoding="utf-8")
        assert load_specs(tmp_path / "spec.yaml")


@pytest.mark.parametrize("page", [page for page in pages() if blocks(page, "python")], ids=name_of)
def test_python_on_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec"), {"__name__": "page"})


@pytest.fixture(scope="module")
def _libraries() -> None:
    import_libraries()


AT_ONCE = ("README.md", "docs/tutorial/first-gate.md", "docs/reference/checkpoints.md")
"""Pages whose commands `make test` runs; the rest take long for what they hold."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=name_of(page),
            marks=() if name_of(page) in AT_ONCE else (pytest.mark.slow,),
        )
        for page in pages()
        if any(isinstance(step, Command) for step in steps(page))
    ],
)
@pytest.mark.usefixtures("_libraries")
def test_commands_on_a_page_print_what_it_shows(
    page: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    settings = pytester.path / ".gitconfig"
    settings.write_text("[user]\nname = Ada Lovelace\nemail = ada@example.org\n", encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    make_project(pytester.path)
    reader = Reader(pytester)
    for step in steps(page):
        reader.do(step)


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("kl 0.0576 > 0.02", "kl  0.0577 > 0.02", True),
        ("kl 0.05 > 0.02", "kl 0.06 > 0.02", False),
        ("p = 8.6e-81", "p = 1.2e-79", True),
        ("=== 2 passed in 6.47s ===", "===== 2 passed in 9.01s ====", True),
        ("2 passed", "3 passed", False),
        ("a FAIL", "a pass", False),
    ],
)
def test_a_line_that_differs_is_missed(expected: str, printed: str, *, same: bool) -> None:
    assert (missing_line([expected], ["before", printed]) is None) == same


@pytest.mark.parametrize("name", ["demo", "gpt2-small", "pythia-70m", "gemma-2-2b"])
def test_the_shipped_specs_load(name: str) -> None:
    specs = load_specs(ROOT / "thresholds" / f"{name}.yaml")
    assert all(spec.checkpoint is None for spec in specs) == (name != "demo")


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)#?([^)\s]*)\)", text):
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, f"{target}#{anchor}"
