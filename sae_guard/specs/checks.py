"""What the keys of a spec say together, each of which alone is well-formed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from sae_guard.core.metrics import METRICS
from sae_guard.core.pareto import Pareto
from sae_guard.core.targets import Slice, Target
from sae_guard.errors import allowed
from sae_guard.specs.messages import Path as Keys
from sae_guard.specs.models import DataSpec, DocumentModel
from sae_guard.specs.thresholds import Bounds, target_of

Problem = tuple[Keys, str]
"""Where, and what is wrong there."""


def problems(document: DocumentModel) -> Iterator[Problem]:
    """What would end in no verdict, once everything had been measured."""
    yield from _too_few_tokens(document.data, document.thresholds)
    yield from _no_such_source(document)
    yield from _bounded_twice(document)
    yield from _no_axes(document)


def _too_few_tokens(data: DataSpec, thresholds: Mapping[str, Bounds]) -> Iterator[Problem]:
    # The last token of a window is not scored, nor is a BOS that is excluded.
    scored = data.context - 1 - (data.prepend_bos and data.special_tokens == "exclude")
    most = data.sequences * scored
    for name in thresholds:
        metric = METRICS.get(target_of(name).metric)
        if metric is not None and most < metric.min_tokens:
            enough = -(-metric.min_tokens // scored)
            yield (
                ("thresholds", name),
                f"{name} needs {metric.min_tokens:,} scored tokens, {data.sequences:,} windows of "
                f"{data.context:,} have {most:,} at most; `sequences: {enough}` would do",
            )


def _no_such_source(document: DocumentModel) -> Iterator[Problem]:
    known = _sources(document.data)
    for index, part in enumerate(document.slices):
        if part.source is None or known is None or any(part.slice.matches(known)):
            continue
        by_row = document.data.jsonl or document.data.tokens or document.data.dataset
        more = "; `data.source_field` names that of each row" if by_row else ""
        yield (
            ("slices", index, "source"),
            f"`slices.{index}.source` {part.source!r} is none of the sources; "
            f"{allowed(part.source, known)}{more}",
        )


def _sources(data: DataSpec) -> tuple[str, ...] | None:
    """What windows can come from, by the spec alone; None where reading has to tell."""
    if data.source_field is not None:
        return None
    if data.dataset is not None:
        return (data.dataset.path,)
    files = data.text or data.jsonl or data.tokens or ()
    if any(set(path) & set("*?[~") or Path(path).is_absolute() for path in files):
        return None
    return data.modules or tuple(Path(path).as_posix() for path in files)


def _bounded_twice(document: DocumentModel) -> Iterator[Problem]:
    first: dict[Target, Keys] = {}
    lists: list[tuple[Keys, Mapping[str, Bounds], Slice | None]] = [((), document.thresholds, None)]
    for index, part in enumerate(document.slices):
        lists.append((("slices", index), part.thresholds, part.slice))
    for at, thresholds, by in lists:
        for name in thresholds:
            target = target_of(name, by)
            if target in first:
                where = ".".join(map(str, first[target] or ("thresholds",)))
                yield (*at, "thresholds", name), f"{target} is bounded in `{where}` already"
            first.setdefault(target, at)


def _no_axes(document: DocumentModel) -> Iterator[Problem]:
    given = document.pareto
    why = Pareto(given.x, given.y).problem() if given is not None else None
    if why is not None:
        yield ("thresholds", "pareto"), f"`thresholds.pareto`: {why}"
