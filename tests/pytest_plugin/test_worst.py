"""The worst tokens and sequences, in failures and in the JSON, and slices by source."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import sae_guard
from sae_guard.core.report_json import report_from_json
from sae_guard.core.worst_tokens import Worst, worst
from tests.pytest_plugin.projects import HOOK, Project

BLOCKS = ("the largest KL of single tokens, in nats:", "the largest mean KL of sequences, in nats:")
EVERY_WORKER = ("-n2", "--dist", "load")


def worst_cases(project: Project) -> dict[tuple[str, str], Worst]:
    """Return the worst tokens and sequences in the report, by document and checkpoint."""
    return {
        (case.case.document, case.case.member): case.worst
        for case in project.report().cases
        if case.worst
    }


def measured(project: Project, checkpoint: str) -> sae_guard.Measurement:
    """Measure the checkpoint in this process."""
    corpus = {
        "text": str(project.path / "text.txt"), "context": 16, "sequences": 8, "prepend_bos": True,
    }  # fmt: skip
    path = project.path / checkpoint
    return sae_guard.measure(model=project.model, sae=path, corpus=corpus, hook=HOOK)


def test_the_first_failure_of_a_loss_shows_worst_tokens_and_sequences(
    project: Project, mode: tuple[str, ...]
) -> None:
    project.write_spec(project.spec.replace("  l0", "  ce_patched: {max: 1}\n  l0"))
    result = project.run("--sae", "bad", "--sae-json", "out.json", *mode)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "kl * > 0.1 nats (*",
            "thresholds/tiny.yaml:6: kl: max 0.1",
            "",
            BLOCKS[0],
            '  KL * after "*", next "*":',
            "    loss * clean, * patched (../text.txt, sequence *, position *)",
            "",
            BLOCKS[1],
            '  mean KL * over 14 tokens of "*":',
            "    loss * clean, * patched (../text.txt, sequence *)",
            "ce_patched * > 1 nats *",
        ]
    )
    assert [result.outlines.count(block) for block in BLOCKS] == [1, 1]
    expected = worst(measured(project, "bad"))
    (case,) = worst_cases(project).values()
    assert list(worst_cases(project)) == [("tiny", "bad")]
    assert (len(case.tokens), len(case.sequences)) == (10, 5)
    for read, sequence in zip(case.sequences, expected.sequences, strict=True):
        assert read.kl == pytest.approx(sequence.kl)
        assert (read.sequence, read.text) == (sequence.sequence, sequence.text)
    for reported, token in zip(case.tokens, expected.tokens, strict=True):
        assert reported.kl == pytest.approx(token.kl)
        assert (reported.sequence, reported.position) == (token.sequence, token.position)
        assert (reported.before, reported.token, reported.next) == (
            token.before,
            token.token,
            token.next,
        )
        assert reported.next
        assert reported.source == "../text.txt"


def test_only_the_json_has_the_worst_tokens_of_a_passing_checkpoint(project: Project) -> None:
    result = project.run("--sae", "good", "--sae", "bad", "--sae-json", "out.json", "-k", "l0")
    assert result.ret == 0
    assert not any(block in result.stdout.str() for block in BLOCKS)
    assert list(worst_cases(project)) == [("tiny", "good"), ("tiny", "bad")]


@pytest.mark.slow
def test_the_json_of_several_workers_has_the_worst_tokens_once(project: Project) -> None:
    result = project.run("--sae", "bad", "--sae-json", "out.json", *EVERY_WORKER)
    assert result.ret == 1
    assert list(worst_cases(project)) == [("tiny", "bad")]


def test_specs_that_share_a_measurement_have_worst_tokens_each(project: Project) -> None:
    again = project.spec.replace("name: tiny\n", "name: again\n")
    project.write_spec(f"{project.spec}---\n{again}")
    project.run("--sae", "bad", "--sae-json", "out.json")
    assert list(worst_cases(project)) == [("tiny", "bad"), ("again", "bad")]


def test_a_nan_is_shown_with_its_position(project: Project) -> None:
    damage = """
        import torch
        from sae_guard.engine import token_metrics as tokens

        tokens.kl_divergence = lambda p, q: torch.full(p.shape[:-1], float("nan"))
        """
    result = project.run_damaged(damage, "--sae", "good", "--sae-json", "out.json")
    assert result.ret == 2
    nan = ["  KL nan after *", "    loss * (../text.txt, sequence 0, position 1)"]
    result.stdout.fnmatch_lines([BLOCKS[0], *nan])
    assert math.isnan(worst_cases(project)["tiny", "good"].tokens[0].kl)


# Slices by source.


@pytest.fixture
def sources(project: Project) -> Project:
    """Project with text of two sources, named in the rows of one file."""
    letters, words = "abcdefgh", (project.path / "text.txt").read_text(encoding="utf-8")
    other = " ".join(letters[i % 8] + letters[i % 5] for i in range(900))
    rows = [{"text": words, "meta": {"set": "words"}}, {"text": other, "meta": {"set": "x"}}]
    (project.path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = "jsonl: ../rows.jsonl, source_field: meta.set"
    project.write_spec(project.spec.replace("text: ../text.txt", text).replace("s: 8", "s: 16"))
    return project


def with_slice(project: Project, glob: str, bounds: str) -> None:
    """Add a slice by source to the spec."""
    spec = (project.path / "thresholds" / "tiny.yaml").read_text(encoding="utf-8")
    project.write_spec(f"{spec}slices:\n  - source: {glob!r}\n    thresholds: {bounds}\n")


def test_a_slice_by_source_is_a_test_of_its_own(sources: Project, mode: tuple[str, ...]) -> None:
    with_slice(sources, "w*[dr]s", "{kl: {max: 0.1, p99: {max: 0.1}}, fvu: {max: 0.5}}")
    result = sources.run("--sae", "bad", "--sae-json", "out.json", *mode)
    assert result.ret == 1
    verdicts = sources.verdicts()
    for name in ("kl", "kl.p99", "fvu"):
        assert verdicts[f"{name}@source=w*[dr]s[bad]"] == "fail"
    part, full = (sources.estimates()[f"kl{name}[bad]"] for name in ("@source=w*[dr]s", ""))
    assert 0 < part.n_sequences < full.n_sequences == 16
    assert part.n_tokens == 14 * part.n_sequences


def test_a_slice_by_source_is_selected_and_shown_alone(sources: Project) -> None:
    with_slice(sources, "w*[dr]s", "{kl: {max: 0.1}}")
    name = "thresholds/tiny.yaml::tiny::kl@source=w*[dr]s[bad]"
    result = sources.run("--sae", "bad", name)
    result.assert_outcomes(failed=1)
    lines = [line for line in result.outlines if line.startswith("    loss ")]
    assert len(lines) == 5
    assert all(" patched (words, sequence " in line for line in lines)
    result = sources.run("--sae", "bad", "--lf", "thresholds")
    result.assert_outcomes(failed=1)


def test_a_source_without_text_is_a_setup_error(sources: Project) -> None:
    with_slice(sources, "arxiv*", "{kl: {max: 0.1}}")
    result = sources.run("--sae", "good", "--sae-json", "out.json")
    assert result.ret == 2
    verdicts = sources.verdicts()
    assert verdicts.pop("kl@source=arxiv*[good]") == "error"
    assert set(verdicts.values()) == {"pass"}
    result.stdout.fnmatch_lines(
        [
            "kl@source=arxiv[*]: no verdict (setup error): source=arxiv[*]: no sequence comes from "
            "this source; allowed: words, x"
        ]
    )


DEMO = Path(sae_guard.__file__).parents[1] / "thresholds" / "demo.yaml"


@pytest.mark.parametrize("workers", [(), EVERY_WORKER], ids=["plain", "-n2"])
def test_the_demo_by_source(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """Gate v3 of the demo, whose failures show the text of their documents."""
    text = DEMO.read_text(encoding="utf-8").replace("../sae_guard", f"{DEMO.parents[1]}/sae_guard")
    pytester.mkdir("thresholds").joinpath("demo.yaml").write_text(
        text + "slices:\n  - source: k*\n    thresholds: {kl: {max: 0.02}, fvu: {max: 0.05}}\n"
    )
    pytester.makefile(".ini", pytest="[pytest]\n")
    release = DEMO.parents[1] / "sae_guard" / "demo" / "saes" / "v3"
    args = (f"--sae={release}", "--sae-json", "out.json", "-k", "kl or fvu")
    result = pytester.runpytest_subprocess(*args, *workers)
    assert result.ret == 1
    for line in ("kl@source=k* > 0.02 nats *", "fvu@source=k* > 0.05 *", *BLOCKS):
        result.stdout.fnmatch_lines([line])
    assert all(len(line) <= 100 for line in result.outlines if "KL" in line or "loss" in line)
    (case,) = report_from_json(Path("out.json").read_bytes(), file="out.json").cases
    assert case.worst is not None
    values = [token.kl for token in case.worst.tokens]
    assert values == sorted(values, reverse=True)
    assert all(token.next and token.source for token in case.worst.tokens)
