"""The report of a run does not depend on the order of the tests, or on their process."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from sae_guard.pytest_plugin.spelling import spelled_options
from sae_guard.render.terminal_summary import summary
from tests.pytest_plugin.projects import Project

SHUFFLED = """
    import os
    import random

    def pytest_collection_modifyitems(items):
        random.Random(1).shuffle(items)

    def pytest_runtest_setup(item):
        with open("order.txt", "a") as file:
            file.write(f"{os.environ.get('PYTEST_XDIST_WORKER')} {item.name}\\n")
    """
MANY = ("-n2", "--dist", "load")
ARGS = (
    "--sae", "good", "--sae", "bad", "--sae-json", "out.json", "--junitxml", "junit.xml",
)  # fmt: skip


def section(result: pytest.RunResult) -> list[str]:
    """Return the lines of the summary of the gate."""
    (start,) = (n for n, line in enumerate(result.outlines) if line.strip("=") == " sae guard ")
    after = result.outlines[start + 1 :]
    return after[: next(n for n, line in enumerate(after) if line.startswith("="))]


def junit(project: Project) -> dict[str | None, Any]:
    """Return properties and errors by test; of an error only its first line."""
    root = ET.parse(project.path / "junit.xml").getroot()
    return {
        case.get("name"): (
            [(p.get("name"), p.get("value")) for p in case.iter("property")],
            [
                (tag, str(element.get("message")).partition("\n")[0])
                for tag in ("failure", "error")
                for element in case.iter(tag)
            ],
        )
        for case in root.iter("testcase")
    }


def rendered(project: Project) -> list[str]:
    """Return the summary that is rendered from the JSON report."""
    return list(summary(project.report(), spelling=spelled_options))


def output(project: Project, result: pytest.RunResult) -> tuple[Any, ...]:
    """Return all results of a run: exit code, terminal, JSON and JUnit."""
    return result.ret, section(result), (project.path / "out.json").read_bytes(), junit(project)


@pytest.mark.parametrize("workers", [(), MANY], ids=["plain", "-n2"])
def test_results_do_not_depend_on_the_order_or_process_of_tests(
    project: Project, workers: tuple[str, ...]
) -> None:
    ordered = output(project, project.run(*ARGS))
    names = list(junit(project))
    project.pytester.makeconftest(SHUFFLED)
    shuffled = output(project, project.run(*ARGS, *workers))
    lines = (project.path / "order.txt").read_text().splitlines()
    ran = [line.split(" ", 1) for line in lines]
    assert sorted(name for _, name in ran) == sorted(filter(None, names))
    assert [name for _, name in ran] != names
    if workers:
        for checkpoint in ("[good]", "[bad]"):  # each case is judged by both
            of_case = {worker for worker, name in ran if name.endswith(checkpoint)}
            assert of_case == {"gw0", "gw1"}
    assert shuffled == ordered
    assert rendered(project) == shuffled[1]


def test_the_json_report_renders_to_the_summary_of_the_run(project: Project) -> None:
    """The report has every optional part; `test_modes` compares it with that of workers."""
    project.write_spec(project.spec.replace("name: tiny", "name: idle"), "idle.yaml")
    (project.path / "broken").mkdir()
    result = project.run(*ARGS, "--sae", "broken", "--sae-controls", "--sae-diagnose")
    assert result.ret == 2
    assert rendered(project) == section(result)
