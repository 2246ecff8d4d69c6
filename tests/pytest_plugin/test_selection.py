"""What a run gates: checkpoints, specs, arguments, and pytest's own selection."""

from __future__ import annotations

from tests.pytest_plugin.projects import CONTRACT, HOOK, PARTS, Project

NAMES = (*CONTRACT, "kl", "l0", "explained_variance")
NODES = [f"thresholds/tiny.yaml::tiny::{name}[good]" for name in NAMES]


def node_ids(project: Project, *args: str) -> list[str]:
    result = project.run("--collect-only", "-q", *args)
    return [line for line in result.outlines if "::" in line]


def test_node_ids_are_stable_and_hold_no_values(project: Project) -> None:
    assert node_ids(project, "--sae", "good") == NODES
    project.write_spec(project.spec.replace("max: 0.1", "max: 0.2"))
    assert node_ids(project, "--sae", "good") == NODES


def test_a_document_without_a_name_is_called_by_its_hook(project: Project) -> None:
    project.write_spec(project.spec.replace("name: tiny\n", ""))
    named = [f"thresholds/tiny.yaml::{HOOK}::{name}[good]" for name in NAMES]
    assert node_ids(project, "--sae", "good") == named


def test_sae_repeats_and_takes_globs(project: Project) -> None:
    both = node_ids(project, "--sae", "good", "--sae", "bad")
    assert len(both) == 2 * len(NODES)
    assert sorted(node_ids(project, "--sae", "*d")) == sorted(both)
    assert node_ids(project, "--sae", "good", "--sae", "goo*") == NODES  # one checkpoint, once


def test_only_the_gate_runs_with_sae_alone(project: Project) -> None:
    project.pytester.makepyfile(test_other="def test_other(): assert False")
    assert node_ids(project, "--sae", "good") == NODES
    assert node_ids(project) == ["test_other.py::test_other"]
    named = node_ids(project, "--sae", "good", "test_other.py", "thresholds/tiny.yaml")
    assert named == ["test_other.py::test_other", *NODES]


def test_a_node_id_can_be_run(project: Project) -> None:
    result = project.run("--sae", "bad", "thresholds/tiny.yaml::tiny::l0[bad]")
    assert result.ret == 0
    result.assert_outcomes(passed=1)


def test_k_x_and_lf(project: Project) -> None:
    project.run("--sae", "bad", "-k", "l0").assert_outcomes(passed=1, deselected=PARTS + 2)
    first = project.run("--sae", "bad", "-x")
    assert first.ret == 1
    first.assert_outcomes(passed=PARTS, failed=1)
    project.run("--sae", "bad")
    again = project.run("--sae", "bad", "--lf")
    assert again.ret == 1
    again.assert_outcomes(failed=2)


def test_quiet_and_verbose(project: Project) -> None:
    quiet = project.run("--sae", "good", "-q")
    quiet.stdout.fnmatch_lines(["thresholds/tiny.yaml::tiny [[]good]*", "  kl * pass"])
    quiet.stdout.no_fnmatch_line("*PASSED*")
    verbose = project.run("--sae", "good", "-v")
    verbose.stdout.fnmatch_lines([f"{NODES[0].replace('[', '[[]')} PASSED*"])


def test_the_default_checkpoint_runs_and_others_say_why_they_do_not(project: Project) -> None:
    project.write_spec(project.spec.replace("hook:", "checkpoint: ../good\nhook:"))
    project.write_spec(project.spec.replace("name: tiny", "name: idle"), "idle.yaml")
    result = project.run()
    assert result.ret == 0
    result.assert_outcomes(passed=PARTS + 3)
    result.stdout.fnmatch_lines(
        ["not gated: thresholds/idle.yaml::idle: it names no default checkpoint, *"]
    )
    assert node_ids(project, "--sae", "bad")[0] == "thresholds/idle.yaml::idle::load.readable[bad]"


def test_a_project_that_gates_nothing_says_so(project: Project) -> None:
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
        found = node_ids(project, "--sae", "good", "--sae-spec", spec)
        assert found[0] == "thresholds/second.yaml::second::load.readable[good]"
        assert len(found) == len(NODES)
    result = project.run("--sae", "good", "--sae-spec", "secnd")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*: 'secnd' is no file*did you mean second?* (--sae-spec)"])


def test_specs_elsewhere_by_ini_option(project: Project) -> None:
    (project.path / "thresholds").rename(project.path / "gates")
    project.pytester.makefile(".ini", pytest="[pytest]\nsae_specs = gates/*.yaml\n")
    assert node_ids(project, "--sae", "good")[0] == "gates/tiny.yaml::tiny::load.readable[good]"


def test_several_documents_and_checkpoints_of_other_hooks(project: Project) -> None:
    other = project.spec.replace(HOOK, "blocks.0.hook_mlp_out").replace("name: tiny", "name: mlp")
    project.write_spec(project.spec + "---\n" + other)
    assert node_ids(project, "--sae", "good") == NODES
    result = project.run("--sae", "good", "-v")
    result.stdout.fnmatch_lines(
        [f"not gated: thresholds/tiny.yaml::mlp [[]good]: its hook point is {HOOK}, the spec's*"]
    )


def test_from_a_folder_below(project: Project) -> None:
    below = project.path / "below"
    below.mkdir()
    project.pytester.makefile(".ini", pytest="[pytest]\n")
    project.pytester._request.getfixturevalue("monkeypatch").chdir(below)
    assert node_ids(project, "--sae", "../good") == NODES


def test_a_spec_outside_of_the_root_folder(project: Project) -> None:
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
