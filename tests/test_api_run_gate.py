"""The gate from Python, on a release of several SAEs: each is held to its own earlier self."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import sae_guard
from sae_guard.core.report import RunReport
from sae_guard.demo import HELD_OUT, MODEL, SAES

SPEC = f"""
name: l2
model: {{name: {MODEL}, aliases: [sae-guard-demo]}}
hook: blocks.2.hook_resid_post
data: {{jsonl: {HELD_OUT}, sequences: 16, prepend_bos: true}}
thresholds:
  kl: {{max: 1, max_increase: 2%}}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose version v1 has k16 (worse than v2's) and k32 (better than v2's)."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (folder / "thresholds").mkdir()
    (folder / "thresholds" / "l2.yaml").write_text(SPEC)
    for version, k16, k32 in (("v1", "v1", "v2"), ("v2", "v2", "v3")):
        shutil.copytree(SAES / k16, folder / version / "k16")
        shutil.copytree(SAES / k32, folder / version / "k32")
    assert gate_of(folder)(["v1/*"], record="v1", baseline="none").verdict == "pass"
    return folder


def gate_of(folder: Path) -> Callable[..., RunReport]:
    def gate(checkpoints: list[str], **options: object) -> RunReport:
        return sae_guard.run_gate(
            checkpoints,
            folder=folder,
            cache=folder / "cache",
            device="cpu",
            **options,  # type: ignore[arg-type]
        )

    return gate


def statuses(report: RunReport) -> dict[str, str]:
    return {case.case.member: case.statuses.get("kl.change", "-") for case in report.cases}


def test_a_damaged_member_is_not_compared_with_a_sibling(project: Path) -> None:
    report = gate_of(project)(["v2/*"], baseline="v1")
    # v2's k32 is far worse than v1's k32, and its k16 better than v1's k16.
    assert statuses(report) == {"k16": "pass", "k32": "fail"}
    assert (report.verdict, report.exit_code) == ("fail", 1)


def test_a_missing_member_is_named(project: Path) -> None:
    report = gate_of(project)(["v2/k16"], baseline="v1")
    assert (report.verdict, report.exit_code) == ("error", 2)
    (problem,) = report.incomplete
    assert problem.member == "thresholds/l2.yaml::l2 [k32]"
    assert "is in v1 and not in this run" in problem.reason
    assert any(line.startswith("INCOMPLETE: ") for line in sae_guard.summary(report))


def test_members_are_named_by_the_user_or_by_the_root_folder(project: Path) -> None:
    gate = gate_of(project)
    swapped = gate([], members={"k16": "v2/k32", "k32": "v2/k16"}, baseline="v1")
    assert statuses(swapped) == {"k16": "fail", "k32": "pass"}
    named = gate(["v2/*"], release_root="v2", baseline="v1")
    assert statuses(named) == {"k16": "pass", "k32": "fail"}
    other = gate(["v2/*"], release_root=project, baseline="v1")
    assert other.exit_code == 2
    assert [problem.member.rpartition(" ")[2] for problem in other.incomplete] == [
        "[k16]", "[k32]", "[v2/k16]", "[v2/k32]",
    ]  # fmt: skip
