"""``--sae-fast`` and the other options of early verdicts, in every mode of running pytest."""

from __future__ import annotations

import pytest

from sae_guard.core.verdicts import Progress
from tests.pytest_plugin.projects import LONG_SPEC, Project


def test_early_verdicts_equal_those_on_the_whole_token_set(
    long: Project, mode: tuple[str, ...]
) -> None:
    arguments = ("--sae", "good", "--sae", "bad", "--sae-json", "out.json", *mode)
    assert long.run(*arguments).ret == 1
    final = long.verdicts()
    result = long.run(*arguments, "--sae-fast")
    assert result.ret == 1
    assert long.verdicts() == final
    assert {verdict.progress for verdict in long.outcomes().values()} == {Progress(64, 192, 0.001)}
    assert {estimate.n_sequences for estimate in long.estimates().values()} == {64}
    result.stdout.fnmatch_lines(
        [
            "kl ~* > 0.1 nats (95 % interval * to *, 3,968 tokens in 64 of 192 sequences)",
            "thresholds/tiny.yaml::tiny [[]good]  3,968 tokens in 64 of 192 sequences",
            "  kl * ~* <= 0.1 * pass (after 64)",
            "  ~ estimates; each verdict is that on all 192 sequences with a chance of 0.999 "
            "or more",
        ]
    )
    tables = [line for line in result.stdout.lines if line.startswith(("  ~ ", "  kl "))]
    assert 0 < max(map(len, tables)) <= 100


def alphas(project: Project) -> set[float | None]:
    """Return α of the early verdicts; None for a verdict on all sequences."""
    progresses = [verdict.progress for verdict in project.outcomes().values()]
    return {progress.alpha if progress else None for progress in progresses}


def test_a_spec_can_turn_on_early_verdicts(long: Project) -> None:
    text = LONG_SPEC.replace("{model}", str(long.model))
    long.write_spec(text.replace("thresholds:", "fast: true\nalpha: 0.01\nthresholds:"))
    assert long.run("--sae", "good", "--sae-json", "out.json").ret == 0
    assert alphas(long) == {0.01}
    assert long.run("--sae", "good", "--sae-json", "out.json", "--sae-alpha", "0.002").ret == 0
    assert alphas(long) == {0.002}


def test_an_audit_checks_early_verdicts_on_all_sequences(
    long: Project, mode: tuple[str, ...]
) -> None:
    result = long.run("--sae", "good", "--sae-json", "out.json", "--sae-audit", *mode)
    assert result.ret == 0
    verdicts = long.outcomes().values()
    assert {verdict.audit for verdict in verdicts} == {"pass after 64 of 192 sequences, held"}
    assert {verdict.progress for verdict in verdicts} == {None}
    assert {estimate.n_sequences for estimate in long.estimates().values()} == {192}
    result.stdout.fnmatch_lines(["  kl * pass (early: pass after 64 of 192 sequences, held)"])


def test_a_budget_leaves_open_verdicts_undecided(long: Project, mode: tuple[str, ...]) -> None:
    text = LONG_SPEC.replace("{model}", str(long.model)).replace(
        "max: 0.1", "max: 0.1, confidence: 0.9"
    )
    long.write_spec(text)
    budget = ("--sae-max-sequences", "70", "--sae-json", "out.json", *mode)
    result = long.run("--sae", "good", *budget)
    assert result.ret == 1
    assert long.verdicts() == {
        "kl[good]": "undecided", "l0[good]": "pass", "explained_variance[good]": "pass",
    }  # fmt: skip
    result.stdout.fnmatch_lines(
        ["kl * is undecided: the limit of 70 sequences ended the run after 128 of 192 sequences"]
    )
    long.write_spec(text.replace("0.9}", "0.9, on_undecided: warn}", 1))
    let_through = long.run("--sae", "good", *budget)
    assert let_through.ret == 0
    let_through.stdout.fnmatch_lines(
        ["  kl is undecided: the limit of 70 sequences ended the run*"]
    )
    seconds = long.run("--sae", "bad", "--sae-max-seconds", "0.000001", *mode)
    assert seconds.ret == 1
    seconds.stdout.fnmatch_lines(["  kl * UNDECIDED (after 64)"])


def test_a_nan_is_an_error_in_an_early_run_too(long: Project) -> None:
    damage = """
        import torch
        from sae_guard.engine import token_metrics as tokens

        tokens.kl_divergence = lambda p, q: torch.full(p.shape[:-1], float("nan"))
        """
    result = long.run_damaged(damage, "--sae", "good", "--sae-json", "out.json", "--sae-fast")
    assert result.ret == 2
    assert long.verdicts()["kl[good]"] == "error"


def test_the_fixture_has_the_measurement_of_all_sequences(long: Project) -> None:
    long.pytester.makepyfile(
        test_mine="def test_mine(sae_measurement): assert sae_measurement.n_sequences == 192"
    )
    result = long.run("--sae", "good", "--sae-fast", "test_mine.py")
    assert result.ret == 0
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sae-alpha", "1"), "--sae-alpha '1'; allowed: a number above 0 and below 0.5"),
        (("--sae-alpha", "x"), "--sae-alpha 'x'; allowed: a number above 0 and below 0.5"),
        (("--sae-max-seconds", "0"), "--sae-max-seconds '0'; allowed: a number above 0"),
        (("--sae-max-sequences", "1.5"), "--sae-max-sequences '1.5'; allowed: a whole number*"),
    ],
)
def test_an_invalid_value_is_a_usage_error(
    project: Project, arguments: tuple[str, ...], message: str
) -> None:
    result = project.run("--sae", "good", *arguments)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"*{message}"])
