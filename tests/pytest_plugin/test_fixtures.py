"""Tests of the user that use the fixtures run once per spec and checkpoint."""

from __future__ import annotations

import pytest

from tests.pytest_plugin.projects import HOOK, PARTS, Project

MINE = f"""
    def test_kl(sae_measurement):
        assert sae_measurement["kl"] < 0.1

    def test_parts(sae, sae_model, sae_corpus, sae_device):
        assert (sae.d_in, sae.d_sae) == (32, 64)
        assert sae_device == "cpu"
        assert sae_corpus.tokens.shape == (8, 16)
        logits, x = sae_model.logits_and_activation(sae_corpus.tokens[:1], "{HOOK}")
        assert sae(x).reconstruction.shape == x.shape

    def test_plain():
        pass
    """


def test_a_test_with_fixtures_runs_once_per_checkpoint(project: Project) -> None:
    project.pytester.makepyfile(test_mine=MINE)
    result = project.run("--sae", "good", "--sae", "bad", "test_mine.py", "-v")
    result.assert_outcomes(passed=4, failed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "test_mine.py::test_kl[[]tiny-good] PASSED*",
            "test_mine.py::test_parts[[]tiny-good] PASSED*",
            "test_mine.py::test_kl[[]tiny-bad] FAILED*",
        ]
    )


def test_tests_with_fixtures_run_beside_the_gate(project: Project) -> None:
    project.pytester.makepyfile(test_mine=MINE)
    result = project.run("--sae", "good", "thresholds/tiny.yaml", "test_mine.py")
    result.assert_outcomes(passed=PARTS + 6)


def test_without_a_checkpoint_tests_with_fixtures_are_skipped(project: Project) -> None:
    project.pytester.makepyfile(test_mine=MINE)
    result = project.run("-rs")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED * no checkpoint: *--sae CHECKPOINT*"])


def test_fixtures_use_the_default_checkpoint(project: Project) -> None:
    project.write_spec(project.spec.replace("hook:", "checkpoint: ../good\nhook:"))
    project.pytester.makepyfile(test_mine=MINE)
    project.run("test_mine.py").assert_outcomes(passed=3)


@pytest.mark.parametrize("damage", ["metadata", "W_enc"])
def test_a_broken_checkpoint_is_an_error_of_the_test(project: Project, damage: str) -> None:
    weights = project.path / "good" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes().replace(damage.encode(), b"x" * len(damage), 1)[:90])
    project.pytester.makepyfile(test_mine=MINE)
    result = project.run("--sae", "good", "test_mine.py")
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*LoadError: *sae_weights.safetensors: unreadable*"])
