"""`--sae-controls`: controls and null models beside a checkpoint, in every mode of running."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sae_guard.core.report import ControlsResult
from sae_guard.errors import InfrastructureError
from sae_guard.gate.cases import CONTROLS
from sae_guard.sae.controls import identity_sae
from tests.helpers.checkpoint_files import config_of, write_saelens
from tests.pytest_plugin.projects import METADATA, PARTS, Project, write_likely_tokens

ROWS = [
    "checkpoint", "random error", "permuted decoder", "random directions", "mean", "zero",
    "identity",
]  # fmt: skip
KNOWN = sum(map(len, CONTROLS.values()))


@pytest.fixture
def trained(project: Project) -> Project:
    """Project in which ``good`` has an error, and ablation hurts the model."""
    sae = identity_sae(32)
    config = config_of(sae, metadata=METADATA)
    write_saelens(project.path / "good", replace(sae, W_dec=sae.W_dec * 0.9), config=config)
    write_likely_tokens(project)
    project.write_spec(project.spec.replace("text: ../text.txt", "tokens: ../tokens.npy"))
    return project


def controls(project: Project, checkpoint: str = "good") -> ControlsResult:
    """Return the result of the test of controls."""
    result = project.cases()[checkpoint].controls
    assert result is not None
    return result


def test_controls_are_reported_beside_the_checkpoint(
    trained: Project, mode: tuple[str, ...]
) -> None:
    result = trained.run("--sae=good", "--sae-controls", "--sae-json=out.json", *mode)
    assert result.ret == 0
    result.assert_outcomes(passed=PARTS + 3 + 1 + KNOWN)
    assert set(trained.verdicts().values()) == {"pass"}
    result_of_controls = controls(trained)
    assert result_of_controls.status == "pass"
    rows, own = result_of_controls.rows, trained.outcomes()
    assert list(rows) == ROWS
    for name in ("kl", "l0", "explained_variance"):
        assert rows["checkpoint"][name] == own[f"{name}[good]"].value
    assert rows["identity"] == {
        "kl": 0, "reconstruction_score": 1, "l0": 32.0, "explained_variance": 1,
    }  # fmt: skip
    assert rows["permuted decoder"]["l0"] == own["l0[good]"].value
    assert rows["random directions"]["l0"] == pytest.approx(32, abs=2)  # not all 32 are positive
    assert rows["random error"]["kl"]
    result.stdout.fnmatch_lines(
        ["  explained_variance * pass", "  controls * kl * reconstruction_score * l0 *"]
        + [f"  {name} *" for name in ("good", *ROWS[1:])]
        + [f"*::tiny [[]control:{name}] *" for name in ("identity", "zero", "mean")]
    )


def test_the_numbers_are_the_same_on_the_plain_path(trained: Project) -> None:
    rows = []
    for options in ((), ("--sae-reference",)):
        result = trained.run("--sae=good", "--sae-controls", "--sae-json=out.json", *options)
        assert result.ret == 0
        rows.append(controls(trained).rows)
    fast, plain = rows
    assert list(fast) == list(plain)
    for name, row in fast.items():
        for metric, value in row.items():
            same = value if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)
            assert plain[name][metric] == same


def test_a_checkpoint_worse_than_a_null_model_is_a_warning(project: Project) -> None:
    """The decoder of ``bad`` is zero, and so is the permuted one."""
    result = project.run("--sae=bad", "--sae-controls", "--sae-json=out.json", "-k", "controls")
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    result_of_controls = controls(project, "bad")
    assert (result_of_controls.status, result_of_controls.message.partition(",")[0]) == (
        "warn", "KL 0.874 is not below that of the permuted decoder",
    )  # fmt: skip
    result.stdout.fnmatch_lines(["  WARNING: KL 0.874 is not below that of the permuted decoder*"])
    assert project.report().verdict == "pass"


def test_a_control_that_cannot_be_measured_is_an_error(
    trained: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **more: object) -> None:
        raise InfrastructureError("no room for directions")

    monkeypatch.setattr("sae_guard.sae.controls.random_directions", broken)
    result = trained.run("--sae=good", "--sae-controls", "--sae-json=out.json")
    assert result.ret == 2
    result_of_controls = controls(trained)
    assert (result_of_controls.status, result_of_controls.cause) == ("error", "infrastructure")
    assert not result_of_controls.rows
    assert set(trained.verdicts().values()) == {"pass"}
    result.stdout.fnmatch_lines(
        ["  controls: no numbers (infrastructure error): no room for directions"]
    )


def test_a_checkpoint_without_kl_has_no_comparison(
    trained: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sae_guard.engine.token_metrics.kl_divergence",
        lambda p, q: torch.full(p.shape[:-1], torch.nan),
    )
    options = ("--sae=good", "--sae-controls", "--sae-json=out.json", "-k", "controls")
    result = trained.run(*options)
    assert result.ret == 2
    result_of_controls = controls(trained)
    assert (result_of_controls.status, result_of_controls.cause) == ("error", "load")
    assert result_of_controls.message.startswith("good: kl = ")


def test_a_spec_can_bound_kl_relative_to_that_of_a_random_error(trained: Project) -> None:
    text = trained.spec.replace("kl: {max: 0.1}", "kl_vs_random_error: {max: 1000}")
    trained.write_spec(text + "slices: [{position: 4.., thresholds: {kl_random_error: {min: 1}}}]")
    result = trained.run("--sae=good", "--sae-json=out.json")
    assert result.ret == 1
    verdicts = trained.verdicts()
    assert verdicts["kl_vs_random_error[good]"] == "pass"
    assert verdicts["kl_random_error@position=4..[good]"] == "fail"
    ratio = trained.estimates()["kl_vs_random_error[good]"]
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low < ratio.value < ratio.high
