"""Run the gate and measure SAEs from Python, without pytest."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from sae_guard import engine
from sae_guard.cache import Cache, root_from_option
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
    members: Mapping[str, str | Path] | None = None,
    release_root: str | Path | None = None,
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

    ``report.verdict`` is ``pass``, ``fail`` or ``error``; the lines of ``summary(report)`` are
    what pytest prints.

    Args:
        checkpoints: Paths, globs and references; without any (and without ``members``), each spec
            gates its own default.
        members: Name of a member of the release → its checkpoint.
        release_root: Folder of the release: the path of a checkpoint below it is its name.
        specs: Files or names of specs; if empty, all specs of the project.
        folder: Folder in the project; relative paths start from it.
        hook: Hook point of checkpoints that do not name theirs: ``HOOK``, or ``HOOK:HOOK_OUT`` for
            transcoders.
        sae: Properties of the checkpoints that their files do not state.
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.
        batch_size: Token windows per forward pass, at most; None chooses by window length and free
            memory.
        controls: True to measure control SAEs too.
        diagnose: True to search for a cause of bad numbers, such as a wrong hook point.
        early: Options for verdicts before the complete token set is measured; None for none.
        baseline: Recorded version to compare with; ``none`` if there is none yet.
        record: Version under which to record the measurements; None records nothing.
        history: Folder or URL of the records; None for the default one.
        cache: True to cache clean runs and measurements in the default folder, a path to cache them
            there, False for no cache.

    Returns:
        Report with the verdict of every test.

    Raises:
        SaeGuardError: There is nothing to gate, or the options contradict each other. Later errors
            are in the report.
    """
    start_folder = Path(folder).absolute()
    cache_option = None if cache is True else "off" if cache is False else str(cache)
    return gate(
        GateOptions(
            root=root_of(start_folder),
            here=start_folder,
            checkpoints=tuple(map(str, checkpoints)),
            members={name: str(checkpoint) for name, checkpoint in (members or {}).items()},
            release_root=None if release_root is None else str(release_root),
            specs=tuple(map(str, specs)),
            hook=hook,
            sae=sae.model_dump(exclude_none=True) if sae else {},
            device=device,
            batch_size=batch_size,
            cache=cache_option,
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
    """Load one checkpoint exactly, or raise an error.

    Args:
        reference: A path, ``path#name``, ``hf://organisation/repository/path@revision`` or
            ``sae_lens://release/id``.
        options: Properties that the checkpoint does not state; they must not contradict it.
        device: Device of the weights.

    Returns:
        SAE that fulfils the load contract.

    Raises:
        SetupError: The reference names no checkpoint, or several.
        LoadError: The checkpoint is unreadable, ambiguous, contradicts the options, has an unknown
            format, or breaks another part of the load contract.
        InfrastructureError: The checkpoint cannot be downloaded.
    """
    checkpoints = resolve(str(reference), Path.cwd())
    if len(checkpoints) != 1:
        raise SetupError(
            f"{reference} names {len(checkpoints)} checkpoints, expected one: name a single one"
        )
    (checkpoint,) = checkpoints
    sae_options = merged(("the registry", checkpoint.options), ("options", options or NOTHING_SAID))
    sae = load_checkpoint(checkpoint, sae_options, device=device)
    for contract in get_args(Contract):
        check(contract, sae, sae_options)
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
        model: A loaded model, or a folder or name for `load_model`; for another device, dtype or
            processing, load it first.
        sae: A loaded SAE, or a reference for `load_sae`, if it needs no options.
        corpus: A corpus, or the `data` block of a spec as a mapping, whose relative paths start
            from the current folder.
        hook: Hook point that the SAE reads and replaces, such as ``blocks.8.hook_resid_pre``.
        hook_out: Hook point that a transcoder replaces instead.
        batch_size: Token windows per forward pass, at most; None chooses by window length and free
            memory.
        random_error: True to measure also the column that ``kl_vs_random_error`` needs.
        cache: True to cache the clean run and the measurement in the user's cache folder (or
            ``$SAE_GUARD_CACHE``), a path to cache them there, False for no cache.
        progress: True to draw a progress bar on stderr.

    Returns:
        Measurement, from which ``measurement["kl"]`` computes a metric.

    Raises:
        SaeGuardError: Its ``cause`` is ``setup``, ``load`` or ``infrastructure``.
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
    """Measure several SAEs, each by itself in the model, in one sweep that shares the clean run.

    Args:
        model: As in `measure`.
        saes: (SAE, hook) of each SAE, or (SAE, hook, hook_out) of a transcoder. All are in memory
            at the same time.
        corpus: As in `measure`.
        batch_size: As in `measure`.
        random_error: As in `measure`.
        cache: As in `measure`.
        progress: As in `measure`.

    Returns:
        Measurement of each SAE, in the order of ``saes``.

    Raises:
        SaeGuardError: Its ``cause`` is ``setup``, ``load`` or ``infrastructure``.
    """
    model, corpus = _loaded(model, corpus)
    interventions = [engine.Intervention(_on_device(sae, model), *hooks) for sae, *hooks in saes]
    root = root_from_option(None if isinstance(cache, bool) else str(cache)) if cache else None
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
    """Try other settings and hook points of an SAE on one batch, as ``--sae-diagnose`` does.

    ``print(diagnose(...))`` shows the suspected mistakes, with numbers and the change that corrects
    them, and the settings that were tried.

    Args:
        model: As in `measure`.
        sae: As in `measure`.
        corpus: As in `measure`.
        hook: As in `measure`.
        hook_out: As in `measure`.

    Raises:
        SaeGuardError: Its ``cause`` is ``setup``, ``load`` or ``infrastructure``.
    """
    model, corpus = _loaded(model, corpus)
    sae = _on_device(sae, model)
    site = engine.HookSite.from_sae(sae, hook, hook_out)
    return diagnosis_of(None, examine(model, sae, corpus, site, thorough=True))


def _loaded(
    model: LanguageModel | str | Path, corpus: Corpus | Mapping[str, Any]
) -> tuple[LanguageModel, Corpus]:
    """Load the model and the corpus that are not loaded yet."""
    if not isinstance(model, LanguageModel):
        model = load_model(model)
    if not isinstance(corpus, Corpus):
        corpus = build_corpus(read_data(corpus), model.tokenizer, Path.cwd())
    return model, corpus


def _on_device(sae: SAE | str | Path, model: LanguageModel) -> SAE:
    """Load the SAE to the device of the model, if it is not loaded yet."""
    return sae if isinstance(sae, SAE) else load_sae(sae, device=model.device)
