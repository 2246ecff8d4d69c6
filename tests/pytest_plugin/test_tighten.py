"""Gate, tighten the bounds to the report, and gate again."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from sae_guard.cli import main
from sae_guard.sae.controls import identity_sae
from tests.helpers.checkpoint_files import config_of, tensors_of, write_saelens
from tests.pytest_plugin.projects import METADATA, Project

BOUNDS = """\
thresholds:
  kl: {max: 9, p99: {max: 99, warn: 98}, worst_sequence: {max: 9}}  # by v1
  l0: {min: 1, max: 40}
  explained_variance: {min: 0.1, warn: 0.2}
slices: [{position: ..8, thresholds: {kl: {max: 9, confidence: 0.99}}}]
"""


def test_a_spec_tightened_from_a_report_passes_with_less_headroom(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = identity_sae(32)
    shrunk = {**tensors_of(sae), "W_dec": tensors_of(sae)["W_dec"] * 0.9}
    write_saelens(
        project.path / "v1", sae, config=config_of(sae, metadata=METADATA), tensors=shrunk
    )
    project.write_spec(project.spec.partition("thresholds:")[0] + BOUNDS)
    assert project.run("--sae", "v1", "--sae-json", "out.json").ret == 0
    before = project.outcomes()

    monkeypatch.chdir(project.path / "thresholds")
    arguments = ["tighten", "tiny.yaml", "--from", "../out.json", "--margin", "10%"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "9 bounds tightened\n" in result.output
    assert "}}  # by v1\n" in (project.path / "thresholds" / "tiny.yaml").read_text()

    monkeypatch.chdir(project.path)
    assert project.run("--sae", "v1", "--sae-json", "out.json").ret == 0
    after = project.outcomes()
    assert len(after) == 6
    for name, new in after.items():
        old = before[name]
        assert (new.status, new.value) == ("pass", old.value)
        assert new.headroom is not None
        assert old.headroom is not None
        assert 0 < new.headroom < old.headroom
    l0 = after["l0[v1]"].threshold
    assert (l0.min, l0.max) == (28, 36)
