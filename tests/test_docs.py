"""The README is tested: its tables are complete, its specs load, its Python runs."""

from __future__ import annotations

import contextlib
import io
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
from sae_guard.errors import Contract
from sae_guard.pytest_plugin import fixtures
from sae_guard.pytest_plugin.options import EXIT_ERROR, add_options
from sae_guard.specs import json_schema, load_specs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
VERSIONS = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


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


def test_options_are_documented() -> None:
    parser = Parser()
    add_options(parser)  # type: ignore[arg-type]
    rows = set(re.findall(r"^\| `(--sae[a-z-]*)", README, re.MULTILINE))
    assert rows == {name for name in parser.names if name.startswith("--")}
    assert "`sae_specs`" in README


def test_the_load_contract_is_documented() -> None:
    rows = re.findall(r"^\| `load\.([a-z_]+)` \|", README, re.MULTILINE)
    assert tuple(rows) == get_args(Contract)


def test_suspicions_are_documented() -> None:
    section = README.partition("## Diagnosis")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE)) == NAMES


def test_fixtures_are_documented() -> None:
    listed = [name for name in vars(fixtures) if name.startswith("sae") and name != "sae_case"]
    assert listed
    for name in listed:
        assert f"`{name}`" in README


def test_the_metric_table_is_the_one_in_the_code() -> None:
    for metric in METRICS.values():
        unit = f" ({metric.unit})" if metric.unit else ""
        formula = metric.formula.replace("|", "\\|")
        if metric.min_tokens > 1:
            formula += f"; needs {metric.min_tokens:,} scored tokens"
        row = f"| `{metric.name}`{unit} | {', '.join(metric.sides)} | {formula} |"
        assert f"{row} {metric.also_called} |" in README


def test_every_key_of_a_spec_is_documented() -> None:
    documented = set(re.findall(r"^\| `([a-z_.]+)` \|", README, re.MULTILINE)) - METRICS.keys()
    assert set(keys(json_schema())) <= documented


def keys(schema: dict[str, Any]) -> Iterator[str]:
    blocks_of = {"model": "ModelSpec", "data": "DataSpec", "sae": "SaeOptions"}
    for key in schema["properties"]:
        if key != "data":
            yield key
        if key in blocks_of:
            for below in schema["$defs"][blocks_of[key]]["properties"]:
                yield f"{key}.{below}"


def test_the_schema_of_reports_is_the_file_in_docs() -> None:
    written = json.dumps(report_json.json_schema(), indent=2, ensure_ascii=False) + "\n"
    page = (ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8")
    assert page == written, "run `make docs`"


def test_specs_in_the_readme_load(tmp_path: Path) -> None:
    examples = blocks("yaml")
    assert examples
    for text in examples:
        (tmp_path / "spec.yaml").write_text(text)
        assert load_specs(tmp_path / "spec.yaml")


def test_python_in_the_readme_runs() -> None:
    examples = blocks("python")
    assert examples
    for code in examples:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, "README.md", "exec"), {})
        assert "Estimate(value=0.9" in printed.getvalue()


def test_exit_codes_are_documented() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d) \|", README, re.MULTILINE)}
    assert {
        0,
        EXIT_ERROR,
        *map(int, (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR)),
        int(pytest.ExitCode.NO_TESTS_COLLECTED),
    } == codes


@pytest.mark.parametrize("name", ["demo", "gpt2-small", "pythia-70m", "gemma-2-2b"])
def test_the_shipped_specs_load(name: str) -> None:
    specs = load_specs(ROOT / "thresholds" / f"{name}.yaml")
    assert all(spec.checkpoint is None for spec in specs) == (name != "demo")


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), target


def test_every_command_is_in_the_readme_and_its_options_in_the_docs() -> None:
    told = README + VERSIONS
    for name, command in main.commands.items():
        assert f"sae-guard {name}" in README, name
        if name in ("history", "promote", "compare", "tighten", "verify", "measure"):
            options = {opt for each in command.params for opt in each.opts if opt.startswith("--")}
            assert {opt for opt in options - COMMON if opt not in told} == set(), name


COMMON = {"--device", "--batch-size", "--cache", "--arch", "--k", "--pre-bias", "--norm", "--scale",
          "--hook", "--architecture", "--normalize"}  # fmt: skip
"""Which are those of pytest without ``sae-``, or keys of a spec."""


def test_links_between_the_docs_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)#?([^)\s]*)\)", text):
            file = page.parent / target if target else page
            assert file.exists(), f"{page}: {target}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {
                    re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles
                }
                assert anchor in slugs, f"{page}: {target}#{anchor}"
