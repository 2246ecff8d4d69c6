"""The demo: a tiny language model and three releases of a sparse autoencoder on one of its hooks.

All of it is trained by ``python -m sae_guard.demo.train`` on documents of a small invented language
(`sae_guard.demo.grammar`): recipes, letters, ship's logs and market reports. The text is the same
on every machine, and the probability of each of its words is known. The three releases show what a
release gate is for:

* ``v1`` is a decent first release (TopK);
* ``v2`` is better at the same number of active latents (BatchTopK, saved as JumpReLU);
* ``v3`` is a regression: v2's recipe, stopped far too early. Its file is fine, but the SAE is bad.

This module holds only names and paths: importing it loads neither torch nor the model.
"""

from __future__ import annotations

import json
from pathlib import Path

MODEL = Path(__file__).parent / "model"
"""Folder of the model and its tokenizer, in the format of Hugging Face."""

SAES = Path(__file__).parent / "saes"
"""Folder of the SAEs, one folder each (``v1``, ``v2``, ``v3``), in the format of SAELens 6."""

HOOK_NAME = "blocks.2.hook_resid_post"
"""TransformerLens's name of the hook point that all three SAEs read and replace."""

HELD_OUT = Path(__file__).parent / "held_out.jsonl"
"""File of the documents that nothing was trained on: JSON lines with id, source and text."""

CONTEXT_SIZE = 128
"""Tokens in a window, the beginning-of-sequence token included."""


def held_out_texts() -> list[str]:
    """Return the text of each held-out document."""
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]
