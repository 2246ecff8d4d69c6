"""The project that the tests of the plugin gate: write it, and run pytest in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import transformer_lens.model_bridge  # noqa: F401 pytester unloads what only a run imports

import sae_guard
import sae_guard.api  # imported here for the same reason
from sae_guard.core.report import CONTROLS, PARETO, CaseReport, RunReport
from sae_guard.core.report_json import report_from_json
from sae_guard.core.statistics import Estimate
from sae_guard.core.verdicts import Verdict
from sae_guard.errors import Contract
from sae_guard.history import History
from sae_guard.sae.controls import identity_sae
from tests.helpers.checkpoint_files import config_of, tensors_of, write_saelens
from tests.helpers.tiny_models import TEXT

HOOK = "blocks.1.hook_resid_post"
SPEC = """\
name: tiny
model: {{name: {model}, aliases: [tiny]}}
hook: {hook}
data: {{text: ../text.txt, context: 16, sequences: 8, prepend_bos: true}}
thresholds:
  kl: {{max: 0.1}}
  l0: {{min: 1, max: 40}}
  explained_variance: {{min: 0.9}}
"""
LONG_SPEC = f"""\
name: tiny
model: {{name: {{model}}, aliases: [tiny]}}
hook: {HOOK}
data: {{text: ../long.txt, context: 64, sequences: 192, prepend_bos: true}}
thresholds:
  kl: {{max: 0.1}}
  l0: {{min: 1, max: 90}}
  explained_variance: {{min: 0.9}}
"""
"""Spec with 3 shards of 64 windows; the first ones decide all thresholds."""
CONTRACT = tuple(f"load.{part}" for part in get_args(Contract))
PARTS = len(CONTRACT)
"""Number of tests of the load contract, which come before the thresholds of a checkpoint."""
in_every_mode = pytest.mark.parametrize("mode", ["plain", "no xdist", "-n0", "-n2"], indirect=True)
"""Marker: run a test in every ``mode``, and in that with workers not only among slow tests."""
METADATA = {"sae_lens_version": "6.0.0", "model_name": "tiny", "hook_name": HOOK}


@dataclass
class Project:
    """A project in a temporary folder, and runs of pytest in it."""

    pytester: pytest.Pytester
    model: Path

    @property
    def path(self) -> Path:
        """The root folder."""
        return self.pytester.path

    @property
    def spec(self) -> str:
        """The text of the spec."""
        return SPEC.format(model=self.model, hook=HOOK)

    def write_spec(self, text: str, name: str = "tiny.yaml") -> None:
        """Replace a spec file."""
        (self.path / "thresholds" / name).write_text(text, encoding="utf-8")

    def run(self, *args: str) -> pytest.RunResult:
        """Run pytest in the project: in this process, or in a subprocess if it has workers."""
        if any(arg.startswith("-n") and arg != "-n0" for arg in args):
            return self.pytester.runpytest_subprocess(*args)
        return self.pytester.runpytest_inprocess(*args)

    def run_damaged(self, damage: str, *args: str) -> pytest.RunResult:
        """Run pytest in a subprocess with ``damage`` as its conftest.

        ``import canned`` in it replaces measuring, which saves seconds.
        """
        source = Path(__file__).with_name("canned.py").read_text(encoding="utf-8")
        (self.path / "canned.py").write_text(source, encoding="utf-8")
        self.pytester.makeconftest(damage)
        return self.pytester.runpytest_subprocess(*args)

    def report(self) -> RunReport:
        """Read what ``--sae-json out.json`` wrote."""
        return report_from_json((self.path / "out.json").read_bytes(), file="out.json")

    def cases(self) -> dict[str, CaseReport]:
        """Return the reports of the cases by member, in a project with one spec."""
        return {case.case.member: case for case in self.report().cases}

    def outcomes(self) -> dict[str, Verdict]:
        """Return the verdicts by threshold and checkpoint, such as ``kl[good]``."""
        return {
            case.case.test_name(verdict.target): verdict
            for case in self.report().cases
            for verdict in case.verdicts
        }

    def estimates(self) -> dict[str, Estimate]:
        """Return the judged estimates by threshold and checkpoint."""
        return {
            name: verdict.estimate
            for name, verdict in self.outcomes().items()
            if verdict.estimate is not None
        }

    def verdicts(self, kind: str = "threshold") -> dict[str, str]:
        """Return statuses by test and checkpoint, for one kind of tests, such as ``pareto``."""
        return {
            case.case.test_name(test): status
            for case in self.report().cases
            for test, status in case.statuses.items()
            if kind_of(test) == kind
        }


def kind_of(test: str) -> str:
    """Return the kind of a test of a case."""
    if test in (PARETO, CONTROLS):
        return test
    return "contract" if test in CONTRACT else "threshold"


def make_project(pytester: pytest.Pytester, model: Path) -> Project:
    """Write a project with text, a spec and two SAEs."""
    project = Project(pytester, model)
    pytester.makefile(".ini", pytest="[pytest]\n")
    (project.path / "text.txt").write_text(TEXT * 40, encoding="utf-8")
    (project.path / "thresholds").mkdir()
    project.write_spec(project.spec)
    sae = identity_sae(32)
    config = config_of(sae, metadata=METADATA)
    write_saelens(project.path / "good", sae, config=config)
    nothing = {**tensors_of(sae), "W_dec": torch.zeros(64, 32)}
    write_saelens(project.path / "bad", sae, config=config, tensors=nothing)
    return project


def write_likely_tokens(project: Project) -> None:
    """Write tokens that the random model finds likely: ablation hurts it as it hurts real ones."""
    model = sae_guard.load_model(project.model)
    tokens = torch.arange(8, 16).view(8, 1)
    for _ in range(15):
        logits = model.logits(torch.cat([torch.zeros_like(tokens[:, :1]), tokens], dim=1))[:, -1]
        likely = logits[:, 1:].argmax(dim=-1, keepdim=True) + 1  # any but BOS
        tokens = torch.cat([tokens, likely], dim=1)
    np.save(project.path / "tokens.npy", tokens.numpy())


def history(project: Project) -> History:
    """Open the history of the project."""
    return History(str(project.path / ".sae_guard/history"))
