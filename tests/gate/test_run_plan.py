"""The plan of a run: its spec files, its checkpoints, and plans that are errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sae_guard.errors import SetupError, SpecError
from sae_guard.gate.options import GateOptions
from sae_guard.gate.planning import Plan
from sae_guard.gate.run_plan import RunPlan
from tests.helpers.canned_session import write_checkpoint
from tests.helpers.planned import spec

HERE, THERE = "blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre"
"""Hook points of the checkpoints ``here`` and ``there``."""


@pytest.fixture
def options(tmp_path: Path) -> GateOptions:
    """Options in a project with two checkpoints, spec a (of both hook points) and spec b."""
    for name, hook in (("here", HERE), ("there", THERE)):
        write_checkpoint(tmp_path / "saes" / name, hook)
    write(tmp_path, "thresholds/a.yaml", spec("first", hook=HERE), spec("second", hook=THERE))
    write(tmp_path, "thresholds/b.yml", spec("third", hook=HERE))
    return GateOptions(tmp_path, tmp_path / "saes")


def write(root: Path, name: str, *documents: str) -> Path:
    """Write a file of the project."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("---\n".join(documents), encoding="utf-8")
    return path


def names(plan: Plan) -> list[str]:
    """Return the names of the cases, as in reports."""
    return [str(case.ref) for case in plan.cases]


def test_without_names_all_specs_of_the_project_are_read(options: GateOptions) -> None:
    run = RunPlan(replace(options, checkpoints=("here", "there")))
    assert [run.display(path) for path in run.spec_files] == ["thresholds/a.yaml",
                                                              "thresholds/b.yml"]  # fmt: skip
    assert names(run.plan) == [
        "thresholds/a.yaml::first [here]",
        "thresholds/a.yaml::second [there]",
        "thresholds/b.yml::third [here]",
    ]
    assert len(run.plan.idle) == 3
    assert RunPlan(replace(options, spec_globs=("thresholds/*.yml",))).spec_files == (
        options.root / "thresholds" / "b.yml",
    )


@pytest.mark.parametrize("name", ["b", "b.yml", "../thresholds/b.yml"])
def test_specs_are_named_by_stem_file_or_path(options: GateOptions, name: str) -> None:
    run = RunPlan(replace(options, checkpoints=("here",), specs=(name, "b")))
    assert run.spec_files == (options.root / "thresholds" / "b.yml",)
    assert names(run.plan) == ["thresholds/b.yml::third [here]"]
    assert run.project_specs == (
        options.root / "thresholds" / "a.yaml", options.root / "thresholds" / "b.yml",
    )  # fmt: skip


def test_a_spec_outside_of_the_project_keeps_its_path(options: GateOptions, tmp_path: Path) -> None:
    outside = write(tmp_path.parent / f"{tmp_path.name}-outside", "c.yaml", spec("c"))
    run = RunPlan(replace(options, checkpoints=("here",), specs=(str(outside),)))
    assert names(run.plan) == [f"{outside}::c [here]"]


def test_a_name_of_no_spec_is_an_error(options: GateOptions) -> None:
    with pytest.raises(SetupError, match=r"^'c' .* allowed: a, b$") as error:
        _ = RunPlan(replace(options, checkpoints=("here",), specs=("c",))).plan
    assert error.value.options == ("spec",)


def test_a_checkpoint_in_a_project_without_specs_is_an_error(
    options: GateOptions, tmp_path: Path
) -> None:
    empty = replace(options, root=tmp_path / "saes", checkpoints=("here",))
    with pytest.raises(SetupError) as error:
        _ = RunPlan(empty).plan
    assert str(error.value).startswith(
        f"no spec gates here: no file in {tmp_path / 'saes'} matches thresholds/*.yaml, "
        "thresholds/*.yml"
    )
    assert error.value.options == ("spec",)
    assert RunPlan(replace(empty, checkpoints=())).plan == Plan((), ())


def test_a_malformed_spec_is_an_error_or_skipped(options: GateOptions) -> None:
    file = write(options.root, "thresholds/c.yaml", "name: c\nmodel: [\n")
    gate = replace(options, checkpoints=("here",))
    with pytest.raises(SpecError, match=r"^thresholds/c\.yaml:\d+: "):
        _ = RunPlan(gate).plan
    run = RunPlan(gate, skip_malformed=True)
    assert names(run.plan) == ["thresholds/a.yaml::first [here]", "thresholds/b.yml::third [here]"]
    assert file in run.spec_files
    with pytest.raises(SpecError):
        run.documents(file)


def test_a_malformed_spec_hides_the_errors_of_the_plan(options: GateOptions) -> None:
    write(options.root, "thresholds/c.yaml", "name: c\nmodel: [\n")
    gate = replace(options, checkpoints=("there",), specs=("b", "c"))
    assert RunPlan(gate, skip_malformed=True).plan == Plan((), ())
    with pytest.raises(SetupError, match="no spec gates"):
        _ = RunPlan(replace(gate, specs=("b",)), skip_malformed=True).plan


def test_without_checkpoints_each_spec_gates_its_default(options: GateOptions) -> None:
    own = f"checkpoint: ../saes/here\n{spec('own', hook=HERE)}"
    write(options.root, "thresholds/a.yaml", own)
    run = RunPlan(options)
    assert names(run.plan) == ["thresholds/a.yaml::own [here]"]
    (idle,) = run.plan.idle
    assert (idle.spec.name, idle.member) == ("third", None)
    assert idle.reason == "it names no default checkpoint, and none was given"


def test_a_default_checkpoint_is_gated_by_its_own_spec_only(options: GateOptions) -> None:
    write(options.root, "thresholds/a.yaml",
          f"checkpoint: ../saes/here\n{spec('own', hook=HERE)}",
          f"checkpoint: ../saes/there\n{spec('other', hook=THERE)}")  # fmt: skip
    run = RunPlan(options)
    assert names(run.plan) == ["thresholds/a.yaml::own [here]", "thresholds/a.yaml::other [there]"]
    # If the options name a checkpoint, defaults do not count.
    assert names(RunPlan(replace(options, checkpoints=("here",))).plan) == [
        "thresholds/a.yaml::own [here]", "thresholds/b.yml::third [here]",
    ]  # fmt: skip


def test_a_named_spec_that_gates_nothing_is_an_error(options: GateOptions) -> None:
    gate = replace(options, checkpoints=("there",))
    assert names(RunPlan(gate).plan) == ["thresholds/a.yaml::second [there]"]
    expected = (
        f"thresholds/b.yml gates nothing:\n  there: its hook point is {THERE}, the spec's is {HERE}"
    )
    with pytest.raises(SetupError) as error:
        _ = RunPlan(replace(gate, specs=("a", "b"))).plan
    assert str(error.value) == expected
    file = options.root / "thresholds" / "b.yml"
    with pytest.raises(SetupError) as error:
        _ = RunPlan(gate, named_files=[file]).plan
    assert str(error.value) == expected
    with pytest.raises(SetupError, match="no checkpoint: it names no default checkpoint"):
        _ = RunPlan(replace(options, specs=("b",))).plan


def test_controls_and_thresholds_on_changes_follow_the_options(options: GateOptions) -> None:
    text = spec("third", hook=HERE).replace("max: 0.1", "max: 0.1, max_increase: 2%")
    write(options.root, "thresholds/b.yml", text)
    gate = replace(options, checkpoints=("here",), specs=("b",))

    def targets(options: GateOptions) -> list[str]:
        return [str(t.target) for t in RunPlan(options).plan.cases[0].thresholds]

    assert targets(gate) == targets(replace(gate, baseline="v1")) == ["kl", "kl.change", "l0"]
    assert targets(replace(gate, baseline="none")) == ["kl", "l0"]
    (case,) = RunPlan(gate).plan.cases
    assert not case.compared
    controls = RunPlan(replace(gate, controls=True)).plan.cases
    assert [case.member for case in controls] == [
        "here", "control:identity", "control:zero", "control:mean",
    ]  # fmt: skip
    assert controls[0].compared


def test_options_for_loading_and_hook_points_reach_the_case(options: GateOptions) -> None:
    gate = replace(options, checkpoints=("here",), specs=("b",), sae={"k": 4})
    (case,) = RunPlan(gate).plan.cases
    assert case.sae.k == 4
    with pytest.raises(SetupError, match=f"declares hook point {HERE}, .* {THERE}") as error:
        _ = RunPlan(replace(gate, hook=THERE)).plan
    assert error.value.options == ("hook",)


def test_a_missing_checkpoint_is_an_error(options: GateOptions) -> None:
    with pytest.raises(SetupError, match="nowhere"):
        _ = RunPlan(replace(options, checkpoints=("nowhere",))).plan


def test_specs_and_plan_are_read_once(options: GateOptions) -> None:
    run = RunPlan(replace(options, checkpoints=("here",)))
    plan = run.plan
    for path in run.spec_files:
        path.unlink()
    assert run.plan is plan
    assert [spec.name for path in run.spec_files for spec in run.documents(path)] == [
        "first", "second", "third",
    ]  # fmt: skip
