"""`measure`: which path is taken, and what is checked before and after."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from typing import NamedTuple, NoReturn, TextIO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sae_guard.corpus import Corpus
from sae_guard.engine import plain
from sae_guard.engine.fast import Sweep
from sae_guard.engine.place import Place
from sae_guard.engine.proof import difference
from sae_guard.errors import InfrastructureError, SetupError
from sae_guard.measurement import Measurement, Provenance
from sae_guard.metrics.table import COLUMNS, METRICS
from sae_guard.model import LanguageModel, Suffix
from sae_guard.sae import SAE

# Elements of one logits tensor of the plain path, of which about eight are alive at once in
# float32: 256 MB each on an accelerator; on a CPU what is larger than its cache takes three times
# as long.
_LOGITS_PER_BATCH = {"cpu": 2**23}
_LOGITS_PER_BATCH_ELSEWHERE = 2**26
# The fast path has no such tensor.
_TOKENS_PER_BATCH = {"cpu": 2**12}
_TOKENS_PER_BATCH_ELSEWHERE = 2**15

# What a model that is built otherwise raises where blocks are taken out of it.
_OF_OTHER_MODELS = (SetupError, AttributeError, LookupError, TypeError, ValueError, RuntimeError)


class _Run(NamedTuple):
    """What a path over the whole corpus found."""

    sums: Mapping[str, Tensor]
    firings: Tensor
    mean: Float[Tensor, " d_out"]
    paths: dict[str, str]
    """Which path was taken for what, and why not a faster one."""


def measure(
    model: LanguageModel,
    sae: SAE,
    corpus: Corpus,
    hook: str,
    *,
    hook_out: str | None = None,
    batch_size: int | None = None,
    expect_clean_ce: tuple[float, float] | None = None,
    reference: bool = False,
    progress: TextIO | None = None,
) -> Measurement:
    """Measure every metric of the SAE at ``hook`` of the model on the corpus.

    Args:
        model: Runs on its own device.
        sae: May lie on another device than the model.
        corpus: The fixed token set.
        hook: Hook point that the SAE reads, and whose activation the reconstruction replaces.
        hook_out: Hook point that a transcoder replaces instead.
        batch_size: Windows per forward pass; None picks one by the number of tokens. It changes
            the result by rounding only.
        expect_clean_ce: Lowest and highest clean cross-entropy, in nats, that a sane setup has.
        reference: Run the whole model for everything, as an audit of the fast path.
        progress: Where to draw a progress bar, once the measurement takes longer than 2 s.

    Raises:
        SetupError: Unknown hook point, a window longer than the model's context, tokens outside
            its vocabulary, a clean loss outside ``expect_clean_ce``, or a hook point without
            effect on the logits.
        LoadError: The SAE's width is not the width of the hook point, or a transcoder is given
            without ``hook_out``, or the other way round.
        InfrastructureError: Out of memory.
    """
    at = Place.of(sae, hook, hook_out)
    for name in at.hooks:
        model.check_hook(name)
    _check_tokens(model, corpus)
    suffix = None if reference else Suffix.of(model, *at.hooks)
    run: _Run | str = "asked for" if reference else "the hook points are in no block"
    if suffix is not None:
        run = _fast(suffix, sae, corpus, at, _Batches(model, corpus, batch_size, progress, at))
    if isinstance(run, str):
        batches = _Batches(model, corpus, batch_size, progress, at, plain=True)
        run = _plain(model, sae, corpus, at, batches, because=run)
    sums = {name: run.sums[name].numpy() for name in COLUMNS}
    _check_clean_ce(sums["ce_clean"].sum() / sums["n_tokens"].sum(), expect_clean_ce)
    if np.array_equal(sums["ce_zero"], sums["ce_clean"]):
        raise SetupError(
            f"zeros at hook point {at.replaced!r} of {model.name} leave every loss as it was: "
            "replacing this activation has no effect, so nothing can be measured here"
        )
    return Measurement(
        np.arange(len(corpus.tokens), dtype=np.int64),
        sums,
        run.firings.numpy(),
        _provenance(model, sae, corpus, at, run),
    )


class _Batches:
    """Slices of the corpus, with a bar that tells how far they are."""

    def __init__(
        self,
        model: LanguageModel,
        corpus: Corpus,
        size: int | None,
        progress: TextIO | None,
        at: Place,
        *,
        plain: bool = False,
    ) -> None:
        self._rows = len(corpus.tokens)
        self._size = size or _default_batch_size(model, corpus, plain=plain)
        self._progress = progress
        self._name = at.read

    def __iter__(self) -> Iterator[slice]:
        batches = [slice(row, row + self._size) for row in range(0, self._rows, self._size)]
        bar: tqdm[NoReturn] = tqdm(
            total=len(batches), desc=self._name, unit="batch", delay=2, file=self._progress,
            leave=False, disable=self._progress is None,
        )  # fmt: skip
        with bar:
            for batch in batches:
                yield batch
                bar.update()


def _fast(suffix: Suffix, sae: SAE, corpus: Corpus, at: Place, batches: _Batches) -> _Run | str:
    """The fast path, once it is proved on the first sequences; or why it cannot be taken."""
    sweep, proved = Sweep(suffix, sae, corpus, at), False
    for rows in batches:
        if proved:
            _in_halves(sweep, rows)
            continue
        try:
            _in_halves(sweep, rows)
            reason, proved = _reason(sweep, rows)
        except _OF_OTHER_MODELS as error:
            return f"{type(error).__name__}: {error}".partition("\n")[0]
        if reason is not None:
            return reason
    mean = sweep.finish()
    ablations = "each sequence" if sweep.shared is None else "one row"
    paths = {"forward": f"from block {suffix.block} on", "ablations": ablations}
    return _Run(sweep.sums, sweep.firings, mean, paths)


def _reason(sweep: Sweep, rows: slice) -> tuple[str | None, bool]:
    """Why the plain path is to be taken, by the first scored sequences; and whether there are."""
    scored = (sweep.sums["n_tokens"][rows] > 0).nonzero()[:2, 0] + rows.start
    return (difference(sweep, scored), True) if len(scored) else (None, False)


def _in_halves(sweep: Sweep, rows: slice) -> None:
    """The batch, in as many parts as fit the memory."""
    try:
        sweep.batch(rows)
        return
    except torch.OutOfMemoryError as error:
        rows = slice(rows.start, min(rows.stop, len(sweep.corpus.tokens)))
        if rows.stop - rows.start < 2:
            raise InfrastructureError(f"out of memory with a single window: {error}") from error
    torch.cuda.empty_cache()
    middle = (rows.start + rows.stop) // 2
    for half in (slice(rows.start, middle), slice(middle, rows.stop)):
        _in_halves(sweep, half)


def _plain(
    model: LanguageModel, sae: SAE, corpus: Corpus, at: Place, batches: _Batches, *, because: str
) -> _Run:
    try:
        mean = plain.mean_activation(model, sae, corpus, at, batches)
        found = [plain.batch_sums(model, sae, corpus, at, rows, mean) for rows in batches]
    except torch.OutOfMemoryError as error:
        raise InfrastructureError(f"out of memory: {error}") from error
    sums = {name: torch.cat([columns[name] for columns, _ in found]) for name in COLUMNS}
    firings = torch.stack([firings for _, firings in found]).sum(dim=0)
    return _Run(sums, firings, mean, {"forward": "whole model", "because": because})


def _default_batch_size(model: LanguageModel, corpus: Corpus, *, plain: bool) -> int:
    length, kind = corpus.tokens.shape[1], model.device.type
    if not plain:
        tokens = _TOKENS_PER_BATCH.get(kind, _TOKENS_PER_BATCH_ELSEWHERE)
        return max(2, tokens // length)
    budget = _LOGITS_PER_BATCH.get(kind, _LOGITS_PER_BATCH_ELSEWHERE)
    return max(1, budget // (length * model.vocabulary_size))


def _check_tokens(model: LanguageModel, corpus: Corpus) -> None:
    if not bool(corpus.scored[:, :-1].any()):
        raise SetupError("no token is scored: every position holds an excluded token")
    length, largest = corpus.tokens.shape[1], int(corpus.tokens.max())
    if length > model.context_size:
        raise SetupError(
            f"windows of {length} tokens, but {model.name} has {model.context_size} positions"
        )
    if largest >= model.vocabulary_size or int(corpus.tokens.min()) < 0:
        raise SetupError(
            f"token id {largest} is outside the vocabulary of {model.name} "
            f"({model.vocabulary_size} tokens): the tokens are another tokenizer's"
        )


def _check_clean_ce(clean_ce: float, expected: tuple[float, float] | None) -> None:
    if expected is not None and not expected[0] <= clean_ce <= expected[1]:
        raise SetupError(
            f"clean cross-entropy is {clean_ce:.4f} nats, expect_clean_ce allows "
            f"[{expected[0]}, {expected[1]}]: wrong text, tokenizer, BOS or model"
        )


def _provenance(model: LanguageModel, sae: SAE, corpus: Corpus, at: Place, run: _Run) -> Provenance:
    packages = ("sae-guard", "torch", "transformers", "transformer-lens")
    return Provenance(
        model=model.identity,
        checkpoint=sae.identity,
        corpus=corpus.identity,
        hook=at.read,
        hook_out=None if at.read == at.replaced else at.replaced,
        mean_sha256=hashlib.sha256(run.mean.numpy().tobytes()).hexdigest(),
        formula_versions={name: metric.version for name, metric in METRICS.items()},
        versions={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        device=str(model.device),
        paths=run.paths,
    )
