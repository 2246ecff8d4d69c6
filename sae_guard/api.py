"""Gating and measuring from Python, without pytest."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from sae_guard import engine
from sae_guard.cache import Cache, chosen_root
from sae_guard.checkpoints.contract import check
from sae_guard.checkpoints.load import load_checkpoint
from sae_guard.checkpoints.options import NOTHING_SAID, SaeOptions, merged
from sae_guard.checkpoints.reference import resolve
from sae_guard.core.diagnosis import Diagnosis
from sae_guard.core.diagnosis import diagnose as diagnosis_of
from sae_guard.core.measurement import Measurement
from sae_guard.core.report import RunReport
from sae_guard.corpus import Corpus, build_corpus
from sae_guard.errors import Contract, SetupError
from sae_guard.examination import examine
from sae_guard.gate.options import EarlyOptions, GateOptions
from sae_guard.gate.project import root_of
from sae_guard.gate.run_report import run_gate as gate
from sae_guard.model import LanguageModel, load_model
from sae_guard.sae import SAE
from sae_guard.specs import read_data

__all__ = ["diagnose", "load_sae", "measure", "measure_all", "run_gate"]


def run_gate(
    checkpoints: Sequence[str | Path] = (),
    *,
    specs: Sequence[str | Path] = (),
    folder: str | Path = ".",
    hook: str | None = None,
    sae: SaeOptions | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    controls: bool = False,
    diagnose: bool = False,
    early: EarlyOptions | None = None,
    baseline: str | None = None,
    record: str | None = None,
    history: str | None = None,
    cache: bool | str | Path = False,
) -> RunReport:
    """Run the gate as ``pytest --sae CHECKPOINT`` does, and return its report.

    ``report.verdict`` is ``pass``, ``fail`` or ``error``; ``"\\n".join(summary(report))`` is what
    pytest prints.

    Args:
        checkpoints: Paths, globs and references; without any, each spec gates its own default.
        specs: Files or names of specs; without any, all of the project.
        folder: Where the project is, and what relative paths start from.
        hook: ``HOOK``, or ``HOOK:HOOK_OUT`` of transcoders, of checkpoints that do not name it.
        sae: What checkpoints do not say of themselves.
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.
        batch_size: Token windows per forward pass, at most.
        controls: Also measure controls beside the checkpoints.
        diagnose: Also try what else a checkpoint could be.
        early: Whether verdicts may be reached before the whole token set is measured.
        baseline: Recorded version that changes are since; ``none`` where there is none yet.
        record: Keep what is measured as a record of this version.
        history: Folder or URL of the records; None for the usual one.
        cache: Whether, or where, to remember clean runs and measurements.

    Raises:
        SaeGuardError: There is nothing to gate, or it cannot be planned. What goes wrong later is
            in the report.
    """
    here = Path(folder).absolute()
    used_cache = None if cache is True else "off" if cache is False else str(cache)
    return gate(
        GateOptions(
            root=root_of(here),
            here=here,
            checkpoints=tuple(map(str, checkpoints)),
            specs=tuple(map(str, specs)),
            hook=hook,
            sae=sae.model_dump(exclude_none=True) if sae else {},
            device=device,
            batch_size=batch_size,
            cache=used_cache,
            controls=controls,
            diagnose=diagnose,
            early=early or EarlyOptions(),
            baseline=baseline,
            record=record,
            history=history,
        )
    )


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
    random_error: bool = False,
    cache: bool | str | Path = False,
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
        batch_size: Token windows per forward pass; by default as their length and the memory allow.
        random_error: Also measure what ``kl_vs_random_error`` needs.
        cache: Whether to remember the clean run and the measurement in the user's cache folder (or
            ``$SAE_GUARD_CACHE``), or in which folder.
        progress: Draw a progress bar on stderr.

    Raises:
        SaeGuardError: With its ``cause``: ``setup``, ``load`` or ``infrastructure``.
    """
    (measurement,) = measure_all(
        model=model, saes=[(sae, hook, hook_out)], corpus=corpus, batch_size=batch_size,
        random_error=random_error, cache=cache, progress=progress,
    )  # fmt: skip
    return measurement


def measure_all(
    *,
    model: LanguageModel | str | Path,
    saes: Sequence[tuple[SAE | str | Path, str] | tuple[SAE | str | Path, str, str | None]],
    corpus: Corpus | Mapping[str, Any],
    batch_size: int | None = None,
    random_error: bool = False,
    cache: bool | str | Path = False,
    progress: bool = False,
) -> list[Measurement]:
    """Measure several SAEs, each alone in the model, in one sweep: one clean run serves all.

    Args:
        model: As in `measure`, like the others.
        saes: Each with its hook point, and a transcoder with its hook_out; all are loaded at once.
        corpus: What all are measured on.
        batch_size: Token windows per forward pass.
        random_error: As in `measure`.
        cache: Whether, or where, to remember clean runs and measurements.
        progress: Draw a progress bar on stderr.

    Raises:
        SaeGuardError: With its ``cause``: ``setup``, ``load`` or ``infrastructure``.
    """
    if not isinstance(model, LanguageModel):
        model = load_model(model)
    device = model.device
    interventions = [
        engine.Intervention(sae if isinstance(sae, SAE) else load_sae(sae, device=device), *hooks)
        for sae, *hooks in saes
    ]
    if not isinstance(corpus, Corpus):
        corpus = build_corpus(read_data(corpus), model.tokenizer, Path.cwd())
    root = chosen_root(None if isinstance(cache, bool) else str(cache)) if cache else None
    return engine.measure_all(
        model,
        interventions,
        corpus,
        batch_size=batch_size,
        random_error=random_error,
        cache=Cache(root) if root else None,
        progress=sys.stderr if progress else None,
    )


def diagnose(
    *,
    model: LanguageModel | str | Path,
    sae: SAE | str | Path,
    corpus: Corpus | Mapping[str, Any],
    hook: str,
    hook_out: str | None = None,
) -> Diagnosis:
    """What else an SAE and its place could be: tried on one batch, as ``--sae-diagnose`` does.

    ``print(diagnose(...))`` shows what is suspected, with the numbers and what to change, and what
    was tried. Args as in `measure`.

    Raises:
        SaeGuardError: With its ``cause``: ``setup``, ``load`` or ``infrastructure``.
    """
    if not isinstance(model, LanguageModel):
        model = load_model(model)
    if not isinstance(sae, SAE):
        sae = load_sae(sae, device=model.device)
    if not isinstance(corpus, Corpus):
        corpus = build_corpus(read_data(corpus), model.tokenizer, Path.cwd())
    at = engine.HookSite.of(sae, hook, hook_out)
    return diagnosis_of(None, examine(model, sae, corpus, at, thorough=True))
