"""What the keys of a spec say together, found out when it is read and not when all is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_guard.errors import SpecError
from sae_guard.spec import load_specs

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
