"""Measuring from Python, without pytest and without a spec file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_guard import engine
from sae_guard.checkpoints.load import load as load_sae
from sae_guard.corpus import Corpus, build_corpus
from sae_guard.measurement import Measurement
from sae_guard.model import LanguageModel, load_model
from sae_guard.sae import SAE
from sae_guard.spec import read_data

__all__ = ["load_sae", "measure"]


def measure(
    *,
    model: LanguageModel | str | Path,
    sae: SAE | str | Path,
    corpus: Corpus | Mapping[str, Any],
    hook: str,
    hook_out: str | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Measurement:
    """Measure an SAE patched into a language model: ``measure(...)["kl"]``.

    Args:
        model: A loaded model, or what `load_model` takes; for another device, dtype or processing
            load it yourself.
        sae: A loaded SAE, or a checkpoint that needs no further options; else use `load_sae`.
        corpus: A corpus, or the `data` block of a spec as a mapping, whose relative paths start
            from the current folder.
        hook: Hook point that the SAE reads and replaces, such as ``blocks.8.hook_resid_pre``.
        hook_out: Hook point that a transcoder replaces instead.
        batch_size: Token windows per forward pass; chosen from the vocabulary size by default.
        progress: Draw a progress bar on stderr.

    Raises:
        SaeGuardError: With its ``cause``: ``setup``, ``load`` or ``infrastructure``.
    """
    if not isinstance(model, LanguageModel):
        model = load_model(model)
    if not isinstance(sae, SAE):
        sae = load_sae(sae, device=model.device)
    if not isinstance(corpus, Corpus):
        corpus = build_corpus(read_data(corpus), model.tokenizer, Path.cwd())
    return engine.measure(
        model,
        sae,
        corpus,
        hook,
        hook_out=hook_out,
        batch_size=batch_size,
        progress=sys.stderr if progress else None,
    )
