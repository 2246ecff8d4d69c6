"""What the keys of a spec say together, found out when it is read and not when all is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae_guard.corpus import Corpus
from sae_guard.errors import SpecError
from sae_guard.specs import load_specs

SPEC = """\
model: gpt2
hook: blocks.8.hook_resid_pre
data: {DATA}
thresholds:
  LATENTS: {max: 0.1}
  kl: {max: 0.1}
"""
SLICE = """\
slices:
  - position: ..8
    thresholds: {kl: {max: 1}}
  - source: GLOB
    thresholds: {kl: {max: 1}}
"""


def problem(folder: Path, text: str) -> str | None:
    """What is wrong with the spec, if anything is."""
    (folder / "spec.yaml").write_text(text)
    try:
        load_specs(folder / "spec.yaml", display="spec.yaml")
    except SpecError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("data", "latents", "needed"),
    [
        ("context: 128, sequences: 79, prepend_bos: true", "dead_latents", 80),
        ("context: 128, sequences: 78, prepend_bos: false", "dead_latents", 79),
        ("context: 128, sequences: 78, prepend_bos: true, special_tokens: include",
         "dead_latents", 79),
        ("context: 128, sequences: 78, prepend_bos: true, special_tokens: [0]",
         "dead_latents", 79),
        ("context: 11, sequences: 99, prepend_bos: false", "dense_latents", 100),
        ("context: 3, sequences: 1, prepend_bos: true", "dense_latents", 1000),
    ],
)  # fmt: skip
def test_too_few_tokens_for_a_share_of_latents(
    tmp_path: Path, data: str, latents: str, needed: int
) -> None:
    text = SPEC.replace("DATA", f"text: a.txt, {data}").replace("LATENTS", latents)
    found = problem(tmp_path, text)
    budget = {"dead_latents": "10,000", "dense_latents": "1,000"}[latents]
    assert found is not None
    assert found.startswith(f"spec.yaml:5: {latents} needs {budget} scored tokens, ")
    assert found.endswith(f"; `sequences: {needed}` would do")
    sequences = next(part for part in data.split(", ") if part.startswith("sequences"))
    assert problem(tmp_path, text.replace(sequences, f"sequences: {needed}")) is None


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("special", ["exclude", "include"])
def test_no_window_has_more_scored_tokens_than_are_counted(
    tmp_path: Path, bos: bool, special: str
) -> None:
    """A budget that a corpus of this policy could reach is never refused."""
    excluded = frozenset({0}) if special == "exclude" else frozenset()
    window = torch.arange(11)[None] if bos else torch.arange(1, 12)[None]
    scored = int(Corpus(window, excluded).scored.sum())
    enough = -(-1_000 // scored)
    for sequences, refused in ((enough, False), (enough - 1, True)):
        data = (
            f"text: a.txt, context: 11, sequences: {sequences}, prepend_bos: {str(bos).lower()}, "
            f"special_tokens: {special}"
        )
        text = SPEC.replace("DATA", data).replace("LATENTS", "dense_latents")
        assert (problem(tmp_path, text) is not None) == refused


@pytest.mark.parametrize(
    ("data", "glob", "message"),
    [
        ("modules: [argparse, csv]", "arg*", None),
        ("modules: [argparse, csv]", "calendar",
         "`slices.1.source` 'calendar' is none of the sources; allowed: argparse, csv"),
        ("text: [books/a.txt, ./arxiv.txt]", "arxiv*", None),
        ("text: [books/a.txt, ./arxiv.txt]", "arxiv",
         "none of the sources; did you mean arxiv.txt? allowed: arxiv.txt, books/a.txt"),
        ("text: books/*.txt", "arxiv*", None),
        ("text: /corpora/books.txt", "arxiv*", None),
        ("text: ~/books.txt", "arxiv*", None),
        ("jsonl: pile.jsonl", "arxiv*",
         "none of the sources; allowed: pile.jsonl; `data.source_field` names that of each row"),
        ("jsonl: pile.jsonl, source_field: meta.set", "arxiv*", None),
        ("dataset: NeelNanda/pile-10k", "ArXiv",
         "allowed: NeelNanda/pile-10k; `data.source_field` names that of each row"),
        ("dataset: NeelNanda/pile-10k", "NeelNanda/*", None),
        ("dataset: NeelNanda/pile-10k, source_field: meta.pile_set_name", "ArXiv", None),
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_there(
    tmp_path: Path, data: str, glob: str, message: str | None
) -> None:
    text = SPEC.replace("DATA", f"{data}, prepend_bos: true").replace("LATENTS", "dead_latents")
    found = problem(tmp_path, text + SLICE.replace("GLOB", glob))
    if message is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith("spec.yaml:10: ")
        assert message in found


def test_a_bound_that_a_slice_has_already(tmp_path: Path) -> None:
    text = SPEC.replace("DATA", "text: a.txt, prepend_bos: true").replace("LATENTS", "dead_latents")
    again = SLICE.replace("source: GLOB", "position: 0..8")
    assert problem(tmp_path, text + again) == (
        "spec.yaml:11: kl@position=0..8 is bounded in `slices.0` already"
    )


def test_a_bound_that_the_spec_has_already(tmp_path: Path) -> None:
    text = SPEC.replace("DATA", "text: a.txt, prepend_bos: true").replace("LATENTS", "dead_latents")
    assert problem(tmp_path, text + "  kl.mean: {max: 1}\n") == (
        "spec.yaml:6: kl is bounded in `thresholds` already"
    )
