"""`--sae-controls`: what stands beside a checkpoint, the same however pytest is run."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

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
    """``good`` is no identity any more, so that its error is one; ablation hurts the model."""
    sae = identity_sae(32)
    config = config_of(sae, metadata=METADATA)
    write_saelens(project.path / "good", replace(sae, W_dec=sae.W_dec * 0.9), config=config)
    write_likely_tokens(project)
    project.write_spec(project.spec.replace("text: ../text.txt", "tokens: ../tokens.npy"))
    return project


def controls(project: Project) -> dict[str, Any]:
    (row,) = (row for row in project.outcomes() if row["kind"] == "controls")
    return row


def test_the_controls_stand_beside_the_checkpoint(trained: Project, mode: tuple[str, ...]) -> None:
    result = trained.run("--sae=good", "--sae-controls", "--sae-json=out.json", *mode)
    assert result.ret == 0
    result.assert_outcomes(passed=PARTS + 3 + 1 + KNOWN)
    assert set(trained.verdicts().values()) == {"pass"}
    found = controls(trained)
    assert (found["metric"], found["verdict"], found["checkpoint"]) == ("controls", "pass", "good")
    rows = found["controls"]
    assert list(rows) == ROWS
    own = {row["metric"]: row["value"] for row in trained.outcomes() if row["checkpoint"] == "good"}
    for name in ("kl", "l0", "explained_variance"):
        assert rows["checkpoint"][name] == own[name]
    assert rows["identity"] == {
        "kl": 0, "reconstruction_score": 1, "l0": 32.0, "explained_variance": 1,
    }  # fmt: skip
    assert rows["permuted decoder"]["l0"] == own["l0"]
    assert rows["random directions"]["l0"] == pytest.approx(32, abs=2)  # not all 32 are positive
    assert rows["random error"]["kl"] > 0
    result.stdout.fnmatch_lines(
        ["  explained_variance * pass", "  controls * kl * reconstruction_score * l0 *"]
        + [f"  {name} *" for name in ("good", *ROWS[1:])]
        + ["*::tiny [[]identity control] *", "*::tiny [[]zero control] *"]
        + ["*::tiny [[]mean control] *"]
    )


def test_the_numbers_are_the_same_on_the_plain_path(trained: Project) -> None:
    found = []
    for options in ((), ("--sae-reference",)):
        result = trained.run("--sae=good", "--sae-controls", "--sae-json=out.json", *options)
        assert result.ret == 0
        found.append(controls(trained)["controls"])
    fast, plain = found
    assert list(fast) == list(plain)
    for name, row in fast.items():
        for metric, value in row.items():
            same = value if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)
            assert plain[name][metric] == same


def test_a_checkpoint_that_does_not_beat_a_baseline_is_warned_about(project: Project) -> None:
    """Whose decoder is nothing, so that a permuted one is nothing too."""
    result = project.run("--sae=bad", "--sae-controls", "--sae-json=out.json", "-k", "controls")
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    found = controls(project)
    assert (found["verdict"], found["message"].partition(",")[0]) == (
        "warn", "KL 0.874 is not below that of the permuted decoder",
    )  # fmt: skip
    result.stdout.fnmatch_lines(["  WARNING: KL 0.874 is not below that of the permuted decoder*"])
    document = json.loads((project.path / "out.json").read_text(encoding="utf-8"))
    assert document["verdict"] == "pass"


def test_a_control_that_cannot_be_measured_is_an_error(
    trained: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **more: object) -> None:
        raise InfrastructureError("no room for directions")

    monkeypatch.setattr("sae_guard.sae.controls.random_directions", broken)
    result = trained.run("--sae=good", "--sae-controls", "--sae-json=out.json")
    assert result.ret == 2
    found = controls(trained)
    assert (found["verdict"], found["cause"]) == ("error", "infrastructure")
    assert found["controls"] is None
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
    found = controls(trained)
    assert (found["verdict"], found["cause"]) == ("error", "load")
    assert found["message"].startswith("good: kl = ")


def test_a_spec_may_bound_the_harm_beside_that_of_a_random_error(trained: Project) -> None:
    text = trained.spec.replace("kl: {max: 0.1}", "kl_vs_random_error: {max: 1000}")
    trained.write_spec(text + "slices: [{position: 4.., thresholds: {kl_random_error: {min: 1}}}]")
    result = trained.run("--sae=good", "--sae-json=out.json")
    assert result.ret == 1
    verdicts = trained.verdicts()
    assert verdicts["kl_vs_random_error[good]"] == "pass"
    assert verdicts["kl_random_error@position=4..[good]"] == "fail"
    (row,) = (row for row in trained.outcomes() if row["metric"] == "kl_vs_random_error")
    assert row["low"] < row["value"] < row["high"]
