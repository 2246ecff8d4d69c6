"""Which tests a run has: by checkpoints, specs, arguments and pytest's own selection."""

from __future__ import annotations

from tests.pytest_plugin.projects import CONTRACT, HOOK, PARTS, Project

NAMES = (*CONTRACT, "kl", "l0", "explained_variance")
NODES = [f"thresholds/tiny.yaml::tiny::{name}[good]" for name in NAMES]


def node_ids(project: Project, *args: str) -> list[str]:
    """Return the node ids that pytest collects."""
    result = project.run("--collect-only", "-q", *args)
    return [line for line in result.outlines if "::" in line]


def test_node_ids_do_not_depend_on_the_bounds(project: Project) -> None:
    assert node_ids(project, "--sae", "good") == NODES
    project.write_spec(project.spec.replace("max: 0.1", "max: 0.2"))
    assert node_ids(project, "--sae", "good") == NODES


def test_a_spec_without_a_name_is_named_by_its_hook_point(project: Project) -> None:
    project.write_spec(project.spec.replace("name: tiny\n", ""))
    nodes = [f"thresholds/tiny.yaml::{HOOK}::{name}[good]" for name in NAMES]
    assert node_ids(project, "--sae", "good") == nodes


def test_the_option_sae_can_be_repeated_and_takes_globs(project: Project) -> None:
    both = node_ids(project, "--sae", "good", "--sae", "bad")
    assert len(both) == 2 * len(NODES)
    assert sorted(node_ids(project, "--sae", "*d")) == sorted(both)
    assert node_ids(project, "--sae", "good", "--sae", "goo*") == NODES  # one checkpoint, once


def test_with_sae_and_no_arguments_only_the_gate_runs(project: Project) -> None:
    project.pytester.makepyfile(test_other="def test_other(): assert False")
    assert node_ids(project, "--sae", "good") == NODES
    assert node_ids(project) == ["test_other.py::test_other"]
    nodes = node_ids(project, "--sae", "good", "test_other.py", "thresholds/tiny.yaml")
    assert nodes == ["test_other.py::test_other", *NODES]


def test_a_node_id_can_be_run(project: Project) -> None:
    result = project.run("--sae", "bad", "thresholds/tiny.yaml::tiny::l0[bad]")
    assert result.ret == 0
    result.assert_outcomes(passed=1)


def test_the_options_k_x_and_lf_of_pytest_work(project: Project) -> None:
    project.run("--sae", "bad", "-k", "l0").assert_outcomes(passed=1, deselected=PARTS + 2)
    first = project.run("--sae", "bad", "-x")
    assert first.ret == 1
    first.assert_outcomes(passed=PARTS, failed=1)
    project.run("--sae", "bad")
    again = project.run("--sae", "bad", "--lf")
    assert again.ret == 1
    again.assert_outcomes(failed=2)


def test_quiet_and_verbose_output(project: Project) -> None:
    quiet = project.run("--sae", "good", "-q")
    quiet.stdout.fnmatch_lines(["thresholds/tiny.yaml::tiny [[]good]*", "  kl * pass"])
    quiet.stdout.no_fnmatch_line("*PASSED*")
    verbose = project.run("--sae", "good", "-v")
    verbose.stdout.fnmatch_lines([f"{NODES[0].replace('[', '[[]')} PASSED*"])


def test_specs_without_a_default_checkpoint_are_reported_as_not_gated(project: Project) -> None:
    project.write_spec(project.spec.replace("hook:", "checkpoint: ../good\nhook:"))
    project.write_spec(project.spec.replace("name: tiny", "name: idle"), "idle.yaml")
    result = project.run()
    assert result.ret == 0
    result.assert_outcomes(passed=PARTS + 3)
    result.stdout.fnmatch_lines(
        ["not gated: thresholds/idle.yaml::idle: it names no default checkpoint, *"]
    )
    assert node_ids(project, "--sae", "bad")[0] == "thresholds/idle.yaml::idle::load.readable[bad]"


def test_a_project_that_gates_nothing_is_reported(project: Project) -> None:
    result = project.run()
    assert result.ret == 5  # pytest's code for no tests
    result.stdout.fnmatch_lines(["not gated: thresholds/tiny.yaml::tiny: it names no default*"])


def test_a_named_spec_that_gates_nothing_is_an_error(project: Project) -> None:
    for args in (("thresholds/tiny.yaml",), ("--sae-spec", "tiny")):
        result = project.run(*args)
        assert result.ret not in (0, 5)
        text = result.stdout.str() + result.stderr.str()
        assert "thresholds/tiny.yaml gates nothing" in text


def test_sae_spec_selects_by_name_or_path(project: Project) -> None:
    project.write_spec(project.spec.replace("name: tiny", "name: second"), "second.yaml")
    assert len(node_ids(project, "--sae", "good")) == 2 * len(NODES)
    for spec in ("second", "second.yaml", "thresholds/second.yaml"):
        nodes = node_ids(project, "--sae", "good", "--sae-spec", spec)
        assert nodes[0] == "thresholds/second.yaml::second::load.readable[good]"
        assert len(nodes) == len(NODES)
    result = project.run("--sae", "good", "--sae-spec", "secnd")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*: 'secnd' is no file*did you mean second?* (--sae-spec)"])


def test_the_ini_option_names_the_folder_of_specs(project: Project) -> None:
    (project.path / "thresholds").rename(project.path / "gates")
    project.pytester.makefile(".ini", pytest="[pytest]\nsae_specs = gates/*.yaml\n")
    assert node_ids(project, "--sae", "good")[0] == "gates/tiny.yaml::tiny::load.readable[good]"


def test_a_checkpoint_is_not_gated_by_specs_of_other_hook_points(project: Project) -> None:
    other = project.spec.replace(HOOK, "blocks.0.hook_mlp_out").replace("name: tiny", "name: mlp")
    project.write_spec(project.spec + "---\n" + other)
    assert node_ids(project, "--sae", "good") == NODES
    result = project.run("--sae", "good", "-v")
    result.stdout.fnmatch_lines(
        [f"not gated: thresholds/tiny.yaml::mlp [[]good]: its hook point is {HOOK}, the spec's*"]
    )


def test_a_run_in_a_subfolder_gates_the_project(project: Project) -> None:
    folder = project.path / "below"
    folder.mkdir()
    project.pytester.makefile(".ini", pytest="[pytest]\n")
    project.pytester._request.getfixturevalue("monkeypatch").chdir(folder)
    assert node_ids(project, "--sae", "../good") == NODES


def test_a_spec_outside_the_root_folder_is_gated(project: Project) -> None:
    root = project.path / "root"
    root.mkdir()
    (root / "pytest.ini").write_text("[pytest]\n")
    outside = str(project.path / "thresholds" / "tiny.yaml")
    for spec in (outside, f"{root}/../thresholds/tiny.yaml"):
        args = ("-c", str(root / "pytest.ini"), "--sae", "bad", "--sae-spec", spec)
        result = project.run(*args, "--sae-json", "out.json")
        assert result.ret == 1
        assert project.verdicts()["kl[bad]"] == "fail"
        result.stdout.fnmatch_lines(["FAILED *thresholds/tiny.yaml::tiny::kl[[]bad]*"])
