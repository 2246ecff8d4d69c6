"""Comparison of two versions → lines of a terminal, and JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from sae_guard.core.comparison import Comparison, MetricMove, Moved, MovedSequence, MovedToken
from sae_guard.core.comparison.metric_move import SPARSITY
from sae_guard.core.statistics import NOISE
from sae_guard.history.record import finite
from sae_guard.render.excerpts import COLUMNS, clipped, sequence_lines, token_lines
from sae_guard.render.numbers import distinct_numbers, number
from sae_guard.tables import table_lines

_LEAST_P = 1e-300
"""Least p-value that is written; floats cannot tell smaller ones from 0."""
_VERSION_WIDTH = 24
"""Maximum width of a version's name in the lists of tokens and sequences, in characters."""


def verdict_line(comparison: Comparison) -> str:
    """Write the verdict, then the change of the two metrics that it follows from."""
    before, after = comparison.before, comparison.after
    if comparison.verdict is None:
        return f"no verdict on {after} against {before}: {comparison.no_verdict}"
    verdict_metrics = (comparison.quality, SPARSITY)
    same = f"no difference of {after} from {before} was found at alpha {comparison.alpha:g}"
    if any(_is_within_margin(comparison, comparison[name]) for name in verdict_metrics):
        same = f"{after} is no further from {before} than the {_margin(comparison)} margin"
    verdict = {
        "dominates": f"{after} dominates {before}",
        "dominated": f"{after} is dominated by {before}",
        "trade-off": f"{after} is a trade-off against {before}",
        "same": same,
    }[comparison.verdict]
    return f"{verdict}: {'; '.join(_change(comparison, name) for name in verdict_metrics)}"


def comparison_lines(comparison: Comparison, *, title: str = "") -> Iterator[str]:
    """Write the verdict, a table of the metrics, and the sequences and tokens that changed most.

    Args:
        comparison: What is written.
        title: What the versions have in common, such as the spec.
    """
    yield verdict_line(comparison)
    hook = comparison.hook
    if comparison.hook_out:
        hook += f" → {comparison.hook_out}"
    sample = f"{comparison.n_tokens:,} tokens in {comparison.n_sequences:,} sequences"
    yield ", ".join(filter(None, (title, hook, sample)))
    yield from _table(comparison)
    yield from _remarks(comparison)
    yield from _sequences(comparison)
    if comparison.no_tokens:
        yield ""
        yield comparison.no_tokens
    yield from _tokens(comparison)


def _change(comparison: Comparison, name: str) -> str:
    """Write by how much a metric changed, and how sure that is."""
    move = comparison[name]
    text = f"{name} {signed(move.difference)}"
    if move.share is not None:
        text += f" ({percent(move.share)})"
    if move.outcome == "same" and abs(move.difference) <= _noise(move):
        return text if move.difference == 0 else f"{text}, numeric noise"
    if move.p_value is None:
        return text
    if _is_within_margin(comparison, move):
        return f"{text}, within the {_margin(comparison)} margin"
    interval = ""
    if move.outcome == "same" and move.low is not None and move.high is not None:
        interval = f" [{signed(move.low)}, {signed(move.high)}]"
    p = probability(move.p_value)
    return f"{text}{interval}, p {p if p.startswith('<') else f'= {p}'}"


def _is_within_margin(comparison: Comparison, move: MetricMove) -> bool:
    """Return True if the metric changed for sure, but by too little to count."""
    is_significant = move.p_value is not None and move.p_value < comparison.alpha
    return move.outcome == "same" and is_significant and abs(move.difference) > _noise(move)


def _margin(comparison: Comparison) -> str:
    return f"{100 * comparison.margin:.3g} %"


def _noise(move: MetricMove) -> float:
    """Return the difference that devices and batch sizes can make."""
    return NOISE * max(abs(move.before.value), abs(move.after.value))


def _table(comparison: Comparison) -> Iterator[str]:
    """Write a row for each metric that changed; the others are listed by name below."""
    rows = {
        move.metric: _row(move)
        for move in comparison.metrics
        if move.metric in (comparison.quality, SPARSITY) or abs(move.difference) > _noise(move)
    }
    versions = (clipped(name, 9, keep_end=True) for name in (comparison.before, comparison.after))
    interval = f"{100 * comparison.confidence:.12g} % interval"
    titles = ("metric", *versions, "change", interval, "", "p", "")
    yield from table_lines([titles, *rows.values()], right=range(1, 7), indent="  ")
    unchanged = [move.metric for move in comparison.metrics if move.metric not in rows]
    if unchanged:
        text = f"the same in both: {', '.join(unchanged)}"
        yield from wrap(text, COLUMNS, initial_indent="  ", subsequent_indent="    ")


def _row(move: MetricMove) -> tuple[str, ...]:
    interval = "-"
    if move.low is not None and move.high is not None:
        interval = f"{signed(move.low)} to {signed(move.high)}"
    return (
        move.metric,
        number(move.before.value),
        number(move.after.value),
        signed(move.difference),
        interval,
        "" if move.share is None else percent(move.share),
        "-" if move.p_value is None else probability(move.p_value),
        move.outcome or "",
    )


def _remarks(comparison: Comparison) -> Iterator[str]:
    """Write what could not be compared, what the pairing of sequences gains, and the notes."""
    for reason in _reasons({**comparison.refused, **comparison.undefined}):
        yield "  " + clipped(f"not compared: {reason}", COLUMNS - 2)
    ratios = {move.metric: move.variance_ratio for move in comparison.metrics}
    ratio = ratios.get(comparison.quality)
    if ratio is not None:
        # The ratio is one of variances, so its square root is one of widths.
        yield (
            f"  pairing: on different texts the interval of {comparison.quality} would be "
            f"{ratio**0.5:.2g} times as wide (variance ratio {ratio:.2g})"
        )
    for line in comparison.noted:
        yield f"  note: {line}"


def _reasons(by_metric: Mapping[str, str]) -> Iterator[str]:
    """Write the reasons; a reason that several metrics share is written once, after their names."""
    names_by_reason: dict[str, list[str]] = {}
    for name, reason in by_metric.items():
        if reason.startswith(f"{name} "):
            names_by_reason.setdefault(reason.removeprefix(name), []).append(name)
        else:
            yield reason
    for reason, names in names_by_reason.items():
        yield f"{', '.join(names)}{reason}"


def _sequences(comparison: Comparison) -> Iterator[str]:
    """List the sequences whose mean KL rose most, and those whose mean KL fell most."""
    moves = comparison.sequences
    for direction, sequences in (("rose", moves.worse), ("fell", moves.better)):
        yield from _heading(f"sequences whose mean KL {direction} most, in nats:", sequences)
        for sequence in sequences:
            change = signed(sequence.after - sequence.before, digits=3)
            yield from sequence_lines(
                f"mean KL {change} over {sequence.n_tokens:,} tokens",
                sequence.text,
                _before_and_after(comparison, sequence.before, sequence.after),
                sequence.source,
                f"sequence {sequence.sequence}",
            )


def _tokens(comparison: Comparison) -> Iterator[str]:
    """List the tokens whose KL rose most, and those whose KL fell most."""
    moves = comparison.tokens
    for direction, tokens in (("rose", moves.worse), ("fell", moves.better)):
        yield from _heading(f"tokens whose KL {direction} most, in nats:", tokens)
        for token in tokens:
            yield from token_lines(
                f"KL {signed(token.after - token.before, digits=3)}",
                token.around,
                _before_and_after(comparison, token.before, token.after),
                token.source,
                f"sequence {token.sequence}, position {token.position}",
            )


def _heading(text: str, items: Sequence[object]) -> Iterator[str]:
    if items:
        yield ""
        yield text


def _before_and_after(comparison: Comparison, before: float, after: float) -> str:
    """Write a value of both versions, such as ``0.00532 in v2, 9.77 in v3``."""
    old, new = distinct_numbers(before, after, digits=3)
    before_name, after_name = (
        clipped(name, _VERSION_WIDTH, keep_end=True)
        for name in (comparison.before, comparison.after)
    )
    return f"{old} in {before_name}, {new} in {after_name}"


def signed(value: float, *, digits: int = 4) -> str:
    """Write a number with its sign."""
    return f"{value:+.{digits}g}" if value else "0"


def percent(share: float) -> str:
    """Write a share in percent with its sign, with two digits below 10 %."""
    value = 100 * share
    if not value:
        return "0 %"
    # 9.95 in two digits is 10
    return f"{value:+.2g} %" if abs(value) < 9.95 else f"{value:+,.0f} %"


def probability(p: float) -> str:
    """Write a p-value with two digits, or as below the least one that floats tell from 0."""
    return f"{p:.2g}" if p >= _LEAST_P else f"< {_LEAST_P:.0e}"


SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ComparisonResult:
    """Two versions at one spec and their comparison, or why they cannot be compared."""

    spec: str
    """``file::name`` of the spec; of two specs, both."""
    before: Mapping[str, Any]
    """The older version: its ``name``, and its ``record`` or ``checkpoint``."""
    after: Mapping[str, Any]
    """The newer version, likewise."""
    comparison: Comparison | None = None
    """None if the versions are not comparable."""
    refused: tuple[str, ...] = ()
    """Reasons why the versions are not comparable."""


def comparison_json(results: Sequence[ComparisonResult]) -> bytes:
    """Write comparisons as strict JSON; `docs/reference/report-json.md` explains its keys.

    Numbers that are not finite are null.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "comparisons": [_plain(result) for result in results],
    }
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    # Names of files need not be UTF-8: Python has surrogates there, which JSON writes as escapes.
    return (text + "\n").encode(errors="backslashreplace")


_COPIED = (
    "quality", "alpha", "confidence", "margin", "hook", "hook_out", "tokens_sha256", "n_tokens",
    "n_sequences",
)  # fmt: skip
"""Attributes of a comparison that are written under the same names."""


def _plain(result: ComparisonResult) -> dict[str, Any]:
    head = {"spec": result.spec, "before": dict(result.before), "after": dict(result.after)}
    comparison = result.comparison
    if comparison is None:
        return {**head, "verdict": None, "not_comparable": list(result.refused)}
    no_tokens = comparison.no_tokens
    return {
        **head,
        "verdict": comparison.verdict,
        "no_verdict": comparison.no_verdict or None,
        **{name: getattr(comparison, name) for name in _COPIED},
        "metrics": {move.metric: _plain_metric(move) for move in comparison.metrics},
        "undefined": dict(comparison.undefined),
        "other_formula": dict(comparison.refused),
        "noted": list(comparison.noted),
        "sequences": _plain_moves(comparison.sequences),
        "tokens": None if no_tokens else _plain_moves(comparison.tokens),
        "no_tokens": no_tokens or None,
    }


def _plain_metric(move: MetricMove) -> dict[str, Any]:
    return {
        "unit": move.unit,
        "before": finite(move.before.value),
        "before_low": finite(move.before.low),
        "before_high": finite(move.before.high),
        "after": finite(move.after.value),
        "after_low": finite(move.after.low),
        "after_high": finite(move.after.high),
        "difference": finite(move.difference),
        "low": finite(move.low),
        "high": finite(move.high),
        "share": finite(move.share),
        "p": finite(move.p_value),
        "outcome": move.outcome,
        "variance_ratio": finite(move.variance_ratio),
    }


def _plain_moves(moves: Moved[Any]) -> dict[str, list[dict[str, Any]]]:
    directions = {"worse": moves.worse, "better": moves.better}
    return {name: [_plain_item(item) for item in items] for name, items in directions.items()}


def _plain_item(item: MovedSequence | MovedToken) -> dict[str, Any]:
    plain = {**vars(item), "before": finite(item.before), "after": finite(item.after)}
    if isinstance(item, MovedToken):
        text_before, token, following = plain.pop("around")
        plain |= {"text_before": text_before, "token": token, "next": following}
    return plain
