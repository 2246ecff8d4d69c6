"""Measuring from Python, without pytest and without a spec file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from sae_guard import engine
from sae_guard.checkpoints.contract import check
from sae_guard.checkpoints.load import load_checkpoint
from sae_guard.checkpoints.options import NOTHING_SAID, SaeOptions, merged
from sae_guard.checkpoints.reference import resolve
from sae_guard.corpus import Corpus, build_corpus
from sae_guard.errors import Contract, SetupError
from sae_guard.measurement import Measurement
from sae_guard.model import LanguageModel, load_model
from sae_guard.sae import SAE
from sae_guard.spec import read_data

__all__ = ["load_sae", "measure"]


def load_sae(
    reference: str | Path,
    options: SaeOptions | None = None,
    *,
    device: str | torch.device = "cpu",
) -> SAE:
    """Load one checkpoint exactly, or refuse it.

    Args:
        reference: A path, ``path#name``, ``hf://organisation/repository/path@revision`` or
            ``sae_lens://release/id``.
        options: What the checkpoint does not say of itself; it may not be contradicted.
        device: Where the weights go.

    Raises:
        SetupError: It names no checkpoint, or several.
        LoadError: Unreadable, ambiguous, contradicted, of a format that is not read, or breaking
            another part of the load contract.
        InfrastructureError: It has to be downloaded and cannot be.
    """
    found = resolve(str(reference), Path.cwd())
    if len(found) != 1:
        raise SetupError(f"{reference} names {len(found)} checkpoints, expected one")
    (checkpoint,) = found
    said = merged(("the registry", checkpoint.options), ("options", options or NOTHING_SAID))
    sae = load_checkpoint(checkpoint, said, device=device)
    for contract in get_args(Contract):
        check(contract, sae, said)
    return sae


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
        sae: A loaded SAE, or what `load_sae` takes, if it needs no further options.
        corpus: A corpus, or the `data` block of a spec as a mapping, whose relative paths start
            from the current folder.
        hook: Hook point that the SAE reads and replaces, such as ``blocks.8.hook_resid_pre``.
        hook_out: Hook point that a transcoder replaces instead.
        batch_size: Token windows per forward pass; by default as their length and the device allow.
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
