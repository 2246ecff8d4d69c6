"""The demo: a tiny language model and three releases of a sparse autoencoder on one of its hooks.

All of it is trained by ``python -m sae_guard.demo.train`` on documents of a small made-up language
(`sae_guard.demo.grammar`): recipes, letters, a ship's log, market reports. The text is the same on
every machine, and the entropy of each of its words is known. The three releases tell the story that
a gate is for:

* ``v1``, a decent first release (TopK);
* ``v2``, better at the same number of active latents (BatchTopK, saved as JumpReLU);
* ``v3``, a regression: v2's recipe, stopped far too early. The file is in order, the SAE is not.

This module holds names and paths, so that importing it costs nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

MODEL = Path(__file__).parent / "model"
"""Folder of the model and its tokenizer, in the format of Hugging Face."""

SAES = Path(__file__).parent / "saes"
"""Folder of the SAEs, one folder each (``v1``, ``v2``, ``v3``), in the format of SAELens 6."""

HOOK_NAME = "blocks.2.hook_resid_post"
"""Where all three SAEs read and write, as TransformerLens names it."""

HELD_OUT = Path(__file__).parent / "held_out.jsonl"
"""Documents that neither the model nor the SAEs saw: JSON lines with id, source and text."""

CONTEXT_SIZE = 128
"""Tokens in a window, the beginning-of-sequence token included."""


def held_out_texts() -> list[str]:
    """Return the text of each held-out document."""
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]
