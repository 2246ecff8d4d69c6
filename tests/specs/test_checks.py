"""Contradictions between the keys of a spec are found before anything is measured."""

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
    """Return the message of the error in a spec, or None if it is valid."""
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
def test_too_few_tokens_for_a_share_of_latents_are_refused(
    tmp_path: Path, data: str, latents: str, needed: int
) -> None:
    text = SPEC.replace("DATA", f"text: a.txt, {data}").replace("LATENTS", latents)
    message = problem(tmp_path, text)
    min_tokens = {"dead_latents": "10,000", "dense_latents": "1,000"}[latents]
    assert message is not None
    assert message.startswith(f"spec.yaml:5: {latents} needs {min_tokens} scored tokens")
    assert f"`sequences: {needed}`" in message
    sequences = next(part for part in data.split(", ") if part.startswith("sequences"))
    assert problem(tmp_path, text.replace(sequences, f"sequences: {needed}")) is None


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("special", ["exclude", "include"])
def test_enough_tokens_are_never_refused(tmp_path: Path, bos: bool, special: str) -> None:
    """The spec counts as many scored tokens per window as a corpus of this policy has."""
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
         "`slices.1.source` 'calendar' matches no source of the data; allowed: argparse, csv"),
        ("text: [books/a.txt, ./arxiv.txt]", "arxiv*", None),
        ("text: [books/a.txt, ./arxiv.txt]", "arxiv",
         "matches no source of the data; did you mean arxiv.txt? allowed: arxiv.txt, books/a.txt"),
        ("text: books/*.txt", "arxiv*", None),
        ("text: /corpora/books.txt", "arxiv*", None),
        ("text: ~/books.txt", "arxiv*", None),
        ("jsonl: pile.jsonl", "arxiv*",
         "allowed: pile.jsonl; to take the source of each row from one of its fields, set "
         "`data.source_field`"),
        ("jsonl: pile.jsonl, source_field: meta.set", "arxiv*", None),
        ("dataset: NeelNanda/pile-10k", "ArXiv",
         "allowed: NeelNanda/pile-10k; to take the source of each row from one of its fields, set "
         "`data.source_field`"),
        ("dataset: NeelNanda/pile-10k", "NeelNanda/*", None),
        ("dataset: NeelNanda/pile-10k, source_field: meta.pile_set_name", "ArXiv", None),
    ],
)  # fmt: skip
def test_a_slice_by_a_source_that_the_data_lack_is_refused(
    tmp_path: Path, data: str, glob: str, message: str | None
) -> None:
    text = SPEC.replace("DATA", f"{data}, prepend_bos: true").replace("LATENTS", "dead_latents")
    reported = problem(tmp_path, text + SLICE.replace("GLOB", glob))
    if message is None:
        assert reported is None
    else:
        assert reported is not None
        assert reported.startswith("spec.yaml:10: ")
        assert message in reported


def test_a_target_that_a_slice_bounds_already_is_refused(tmp_path: Path) -> None:
    text = SPEC.replace("DATA", "text: a.txt, prepend_bos: true").replace("LATENTS", "dead_latents")
    again = SLICE.replace("source: GLOB", "position: 0..8")
    assert problem(tmp_path, text + again) == (
        "spec.yaml:11: kl@position=0..8 is bounded in `slices.0` already"
    )


def test_a_target_that_the_spec_bounds_already_is_refused(tmp_path: Path) -> None:
    text = SPEC.replace("DATA", "text: a.txt, prepend_bos: true").replace("LATENTS", "dead_latents")
    assert problem(tmp_path, text + "  kl.mean: {max: 1}\n") == (
        "spec.yaml:6: kl is bounded in `thresholds` already"
    )
