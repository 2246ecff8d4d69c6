"""Real measurements in random orders, as `benchmarks/early.py` takes early verdicts on them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from engine_tools import count
from transformers import AutoTokenizer

from sae_guard.checkpoints.load import load
from sae_guard.core.early_verdicts import early_verdict, needs_mean
from sae_guard.core.measurement import Measurement, TokenTable
from sae_guard.core.metrics import metric
from sae_guard.core.statistics.sequential import Rule
from sae_guard.core.targets import Target, estimate
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import judge
from sae_guard.corpus import Corpus
from sae_guard.demo import MODEL, SAES, held_out_texts
from sae_guard.engine import Intervention, measure, measure_until
from sae_guard.model import LanguageModel, load_model

METRICS = ("kl", "ce_increase", "reconstruction_score", "l0", "explained_variance", "kl.p99")
EVERY = 32


class Subject(NamedTuple):
    """An SAE that was measured whole."""

    name: str
    model: LanguageModel
    patch: Intervention
    corpus: Corpus
    measurement: Measurement
    metrics: Sequence[str] = METRICS


class Early(NamedTuple):
    """What early verdicts in random orders came to."""

    wrong: int
    median: float
    """Share of the sequences that was used."""


def subjects(sequences: int, *, smollm2: bool) -> Iterator[Subject]:
    """The demo's SAEs and, if asked for, one of SmolLM2-135M."""
    model = load_model(MODEL)
    corpus = _corpus(MODEL, held_out_texts(), sequences)
    for name in ("v1", "v2", "v3"):
        yield _measured(f"demo {name}", model, SAES / name, "blocks.2.hook_resid_post", corpus)
    if smollm2:
        import smollm2 as smol
        import train_smollm2

        hook = "blocks.15.hook_resid_pre"
        corpus = _corpus(smol.folder(), list(smol.english()), min(sequences, 512))
        model = load_model(smol.folder())
        yield _measured(smol.NAME, model, train_smollm2.sae(hook=hook), hook, corpus)


def _corpus(folder: Path, texts: Sequence[str], sequences: int) -> Corpus:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    corpus = Corpus.from_texts(texts, tokenizer, context=128, prepend_bos=True)
    return dataclasses.replace(corpus, tokens=corpus.tokens[:sequences], sources=())


def _measured(name: str, model: LanguageModel, sae: Path, hook: str, corpus: Corpus) -> Subject:
    patch = Intervention(load(sae), hook)
    measurement = measure(model, patch.sae, corpus, hook)
    return Subject(
        f"{name}, {measurement.n_sequences} sequences", model, patch, corpus, measurement
    )


def flop_share(subject: Subject) -> Callable[[float, str], float]:
    """Share of the sequences, and metric → share of the FLOPs of a cold measurement.

    Counted of 128 and 256 windows, measured whole and until 64 and 192 were seen; all are linear in
    their numbers. What is about μ takes it from runs up to the hook point over all sequences first.
    """
    model, patch, n = subject.model, subject.patch, subject.measurement.n_sequences

    def whole(windows: int) -> int:
        return count(partial(measure, model, patch.sae, some(windows), patch.hook))

    def after(seen: int, *, centred: bool) -> int:
        def look(measurement: Measurement) -> bool:
            return measurement.n_sequences >= seen

        return count(partial(measure_until, model, patch, some(256), look, centred=centred))

    def some(windows: int) -> Corpus:
        tokens = subject.corpus.tokens[:windows]
        return dataclasses.replace(subject.corpus, tokens=tokens, sources=())

    few, many = whole(128), whole(256)
    all_of_them = many + (many - few) / 128 * (n - 256)
    soon, later = after(64, centred=False), after(192, centred=False)
    each, mean = (later - soon) / 128, (after(64, centred=True) - soon) / 256

    def share(of_sequences: float, name: str) -> float:
        spent = soon + each * (of_sequences * n - 64)
        if needs_mean([Threshold(name, max=0.0)]):
            spent += mean * n
        return spent / all_of_them

    return share


def early_and_whole(
    measurement: Measurement, name: str, margin: float, rule: Rule, shuffles: int, *, kept: bool
) -> Early:
    """Early verdicts on a bound that is this far on one side of the value, in random orders."""
    threshold = bounded(measurement, name, margin, kept=kept)
    whole, generator = judge(measurement, threshold).status, np.random.default_rng(0)
    used, wrong = [], 0
    for _ in range(shuffles):
        order, total = generator.permutation(measurement.n_sequences), measurement.n_sequences
        for n in range(64, total, EVERY):
            found = early_verdict(rows(measurement, np.sort(order[:n])), threshold, rule, 1)
            if found is not None:
                used.append(n / total)
                wrong += found.status != whole
                break
        else:
            used.append(1.0)
    return Early(wrong, float(np.median(used)))


def bounded(measurement: Measurement, name: str, margin: float, *, kept: bool) -> Threshold:
    """A threshold of this margin: of scores and explained variance, of 1 − value."""
    target = Target.parse(name)
    chosen, value = metric(target.metric), estimate(measurement, target).value
    side = chosen.sides[0]
    away = margin * abs(value - chosen.tail_from)
    sign = 1 if (side == "max") == kept else -1
    bound = value + sign * away
    return Threshold(name, max=bound) if side == "max" else Threshold(name, min=bound)


def rows(measurement: Measurement, chosen: np.ndarray) -> Measurement:
    """Some rows of a whole measurement, which stays part of it."""
    table = measurement.tokens
    assert table is not None
    return dataclasses.replace(
        measurement,
        sequences=np.arange(len(chosen)),  # drawn with replacement, they repeat
        sums={name: column[chosen] for name, column in measurement.sums.items()},
        sources=(),
        whole_sq_deviation=float(measurement.sums["sq_deviation"].sum()),
        tokens=TokenTable(
            table.scored[chosen], {name: values[chosen] for name, values in table.columns.items()}
        ),
    )


def covered(measurement: Measurement, name: str, *, resamples: int = 1000, n: int = 256) -> float:
    """How often the interval of n sequences, drawn with replacement, holds the value of all.

    NaN where all sequences have the same, as L0 of TopK SAEs: that is no interval.
    """
    target, generator = Target.parse(name), np.random.default_rng(1)
    whole, hits = estimate(measurement, target), 0
    if whole.low == whole.high:
        return math.nan
    value = whole.value
    for _ in range(resamples):
        part = rows(measurement, generator.integers(0, measurement.n_sequences, n))
        found = estimate(part, target, whole=False)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= value <= found.high
    return hits / resamples
