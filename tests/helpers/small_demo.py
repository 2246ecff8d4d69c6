"""A project whose spec measures the demo's SAEs on a little text."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sae_guard.cli import main
from sae_guard.demo import HELD_OUT, MODEL

SMALL = f"""\
name: small
model: {{name: {MODEL}, aliases: [sae-guard-demo]}}
hook: blocks.2.hook_resid_post
data: {{jsonl: {HELD_OUT}, source_field: source, context: 64, sequences: 8, prepend_bos: true}}
thresholds:
  kl: {{max: 0.25, p99: {{max: 9}}}}
  l0: {{min: 8, max: 24}}
slices:
  - position: ..8
    thresholds: {{kl: {{max: 3}}}}
"""


def make_small(root: Path, text: str = SMALL) -> Path:
    """The project, with an ini file that says where its root is."""
    (root / "thresholds").mkdir(parents=True)
    (root / "thresholds" / "small.yaml").write_text(text, encoding="utf-8")
    (root / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    return root


def run(*arguments: str | Path, code: int = 0) -> Result:
    """Run the command; the exit code has to be this one."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@contextmanager
def recording_in(root: Path) -> Iterator[Path]:
    """Work in the project, without a cache and with its own history."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAE_GUARD_CACHE", "off")
        patch.delenv("SAE_GUARD_HISTORY", raising=False)
        patch.chdir(root)
        yield root


def enter_copy(recorded: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the project, which a test can then change, and make it the current folder."""
    root = folder / "project"
    shutil.copytree(recorded, root)
    monkeypatch.chdir(root)
    return root
