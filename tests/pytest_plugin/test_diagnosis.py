"""Probable causes: in the first failure of a checkpoint, or in the summary of a pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sae_guard.demo import HELD_OUT, MODEL, SAES
from tests.helpers.checkpoint_files import config_of, write_saelens
from tests.pytest_plugin.projects import Project, make_project

SPEC = f"""\
model: {MODEL}
hook: blocks.2.hook_resid_post
data: {{jsonl: {HELD_OUT}, context: 64, sequences: 16, prepend_bos: true}}
thresholds:
  kl: {{max: 0.03}}
  explained_variance: {{min: 0.9}}
"""
BOTH = ("kl[v1]", "explained_variance[v1]")


@pytest.fixture
def demo(pytester: pytest.Pytester) -> Project:
    """Project that gates the SAEs of the demo."""
    project = make_project(pytester, MODEL)
    project.write_spec(SPEC)
    return project


def write(project: Project, name: str, **changes: object) -> None:
    """Write v1 of the demo with changes, and without its hook point."""
    from sae_guard.api import load_sae

    sae = replace(load_sae(SAES / "v1"), **changes)  # type: ignore[arg-type]
    config = config_of(sae, metadata={"sae_lens_version": "6.0.0"})
    write_saelens(project.path / name, sae, config=config)


def permuted(project: Project) -> None:
    """Write v1 with the rows of its decoder permuted."""
    import torch

    from sae_guard.api import load_sae

    W_dec = load_sae(SAES / "v1").W_dec
    order = torch.randperm(len(W_dec), generator=torch.Generator().manual_seed(0))
    write(project, "v1", W_dec=W_dec[order])


def scaled(project: Project) -> None:
    """Write v1 with a decoder that is 10 % too large."""
    from sae_guard.api import load_sae

    write(project, "v1", W_dec=load_sae(SAES / "v1").W_dec * 1.1)


def test_the_first_failure_of_a_checkpoint_has_the_probable_cause(
    demo: Project, mode: tuple[str, ...]
) -> None:
    permuted(demo)
    result = demo.run("--sae", "v1", "--sae-json", "out.json", *mode)
    assert result.ret == 1
    assert demo.verdicts() == dict.fromkeys(BOTH, "fail")
    lines = result.stdout.lines
    (at,) = [n for n, line in enumerate(lines) if "probable cause: decoder-permuted: " in line]
    assert lines[at + 1].startswith("  try: the decoder's rows are in another order")
    assert lines[at - 2].endswith("kl: max 0.03")
    assert "WARNING" not in result.stdout.str()
    diagnosis = demo.cases()["v1"].diagnosis
    assert diagnosis is not None
    assert [suspicion.name for suspicion in diagnosis.suspicions] == ["decoder-permuted"]


def test_the_summary_of_a_pass_has_the_probable_cause(demo: Project, mode: tuple[str, ...]) -> None:
    scaled(demo)
    result = demo.run("--sae", "v1", "--sae-json", "out.json", *mode)
    assert result.ret == 0
    assert demo.verdicts() == dict.fromkeys(BOTH, "pass")
    result.stdout.fnmatch_lines(
        [
            "  explained_variance * pass",
            "  WARNING: scale: the best factor for x̂ is 0.9*; decoder rows have norms from 1.1*",
            "    try: the decoder seems to be multiplied by 1.1*",
        ]
    )


def test_a_sound_checkpoint_has_no_warning(demo: Project) -> None:
    write(demo, "v1")
    result = demo.run("--sae", "v1", "--sae-json", "out.json", "--sae-controls")
    assert result.ret == 0
    assert "WARNING" not in result.stdout.str()
    assert {case.diagnosis for case in demo.report().cases} == {None}


def test_the_option_diagnose_shows_what_was_tried(demo: Project) -> None:
    write(demo, "v1")
    other = SPEC.replace("blocks.2", "blocks.1")
    demo.write_spec(other)
    result = demo.run("--sae", "v1", "--sae-diagnose")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "probable cause: other-layer: with hook: blocks.2.hook_resid_post *, KL 0.*",
            "  try: `hook: blocks.2.hook_resid_post` in the spec, * for one run "
            "(`--sae-hook blocks.2.hook_resid_post`)",
            "tried on 992 tokens; hook: blocks.2.hook_resid_post fits",
            " * EV  factor  constant * L0 * KL",
            "as loaded * 0.* 16.0 * 0.*",
            "hook: blocks.2.hook_resid_post <- fits * 16.0 * 0.*",
        ]
    )
    demo.write_spec(SPEC)
    healthy = demo.run("--sae", "v1", "--sae-diagnose")
    assert healthy.ret == 0
    healthy.stdout.fnmatch_lines(
        [
            "  explained_variance * pass",
            "  tried on 992 tokens; nothing fits better than what was loaded",
            "  as loaded *",
        ]
    )
    assert "WARNING" not in healthy.stdout.str()


def test_a_checkpoint_that_cannot_be_examined_has_verdicts_nevertheless(demo: Project) -> None:
    few = SPEC.replace("context: 64, sequences: 16", "context: 8, sequences: 4")
    demo.write_spec(few.replace("0.03", "9").replace("0.9", "-9"))
    write(demo, "v1")
    result = demo.run("--sae", "v1", "--sae-diagnose")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["  nothing could be tried: the batch has too few tokens*"])


@pytest.mark.slow
def test_each_checkpoint_is_examined_once(demo: Project) -> None:
    damage = """
        from pathlib import Path
        from sae_guard import examination

        examine = examination.examine

        def counted(*args, **kwargs):
            with Path("count.txt").open("a") as file:
                file.write("examined\\n")
            return examine(*args, **kwargs)

        examination.examine = counted
        """
    scaled(demo)
    demo.run_damaged(damage, "--sae", "v1", "-n2", "--dist", "load")
    assert (demo.path / "count.txt").read_text().splitlines() == ["examined"]
