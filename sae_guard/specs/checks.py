"""Check the keys of a spec against each other; each of them alone is well-formed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from sae_guard.core.metrics import METRICS
from sae_guard.core.pareto import Pareto
from sae_guard.core.targets import Target
from sae_guard.errors import allowed
from sae_guard.specs.models import DataSpec, DocumentModel
from sae_guard.specs.strict_yaml import KeyPath
from sae_guard.specs.thresholds import BoundsModel, target_of

Problem = tuple[KeyPath, str]
"""Path of the key at fault, and a sentence about it."""


def problems(document: DocumentModel) -> Iterator[Problem]:
    """Yield each contradiction between keys that would leave a threshold without a verdict.

    These would otherwise come to light only after the whole measurement.
    """
    yield from _too_few_tokens(document.data, document.thresholds)
    yield from _unknown_sources(document)
    yield from _targets_bounded_twice(document)
    yield from _pareto_problems(document)


def _too_few_tokens(data: DataSpec, thresholds: Mapping[str, BoundsModel]) -> Iterator[Problem]:
    # The last token of a window has no next token to predict; an excluded BOS is not scored either.
    scored_per_window = data.context - 1 - (data.prepend_bos and data.special_tokens == "exclude")
    largest = data.sequences * scored_per_window
    for name in thresholds:
        metric = METRICS.get(target_of(name).metric)
        if metric is not None and largest < metric.min_tokens:
            needed_sequences = -(-metric.min_tokens // scored_per_window)  # rounded up
            yield (
                ("thresholds", name),
                f"{name} needs {metric.min_tokens:,} scored tokens, {data.sequences:,} windows of "
                f"{data.context:,} have {largest:,} at most; `sequences: {needed_sequences}` "
                "would do",
            )


def _unknown_sources(document: DocumentModel) -> Iterator[Problem]:
    sources = _sources(document.data)
    for index, part in enumerate(document.slices):
        if part.source is None or sources is None or any(part.slice.matches(sources)):
            continue
        read_by_row = document.data.jsonl or document.data.tokens or document.data.dataset
        advice = (
            "; to take the source of each row from one of its fields, set `data.source_field`"
            if read_by_row
            else ""
        )
        yield (
            ("slices", index, "source"),
            f"`slices.{index}.source` {part.source!r} matches no source of the data; "
            f"{allowed(part.source, sources)}{advice}",
        )


def _sources(data: DataSpec) -> tuple[str, ...] | None:
    """Return the sources that windows can come from; None where only reading the data tells."""
    if data.source_field is not None:
        return None
    if data.dataset is not None:
        return (data.dataset.path,)
    files = data.text or data.jsonl or data.tokens or ()
    # Globs and absolute paths depend on the machine that reads them.
    if any(set(path) & set("*?[~") or Path(path).is_absolute() for path in files):
        return None
    return data.modules or tuple(Path(path).as_posix() for path in files)


def _targets_bounded_twice(document: DocumentModel) -> Iterator[Problem]:
    first_block: dict[Target, KeyPath] = {}
    for block, thresholds, slice in document.blocks:
        for name in thresholds:
            target = target_of(name, slice)
            if target in first_block:
                earlier = ".".join(map(str, first_block[target] or ("thresholds",)))
                yield (*block, "thresholds", name), f"{target} is bounded in `{earlier}` already"
            first_block.setdefault(target, block)


def _pareto_problems(document: DocumentModel) -> Iterator[Problem]:
    axes = document.pareto
    problem = Pareto(axes.x, axes.y).problem() if axes is not None else None
    if problem is not None:
        yield ("thresholds", "pareto"), f"`thresholds.pareto`: {problem}"
