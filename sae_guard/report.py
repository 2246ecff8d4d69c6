"""Facts → lines and JSON. Pure: nothing is written here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from sae_guard.baselines import CHECKPOINT
from sae_guard.diagnosis import Suspicion
from sae_guard.wire import Outcome
from sae_guard.worst import Worst, WorstSequence, WorstToken

COLUMNS = 100
"""Of the lines that show text of the token set."""

JSON_SCHEMA_VERSION = 1


def number(value: float, *, beside: float | None = None) -> str:
    """Four significant digits, and more where they are needed to tell it from a bound."""
    digits = 4
    while beside is not None and value != beside and digits < 17:
        if float(f"{value:.{digits}g}") != beside:
            break
        digits += 1
    return f"{value:.{digits}g}"


def headline(outcome: Outcome) -> str:
    """Metric, value, bound, interval and tokens on one line; the reason for an error."""
    if outcome.value is None or outcome.bound is None:
        return f"{outcome.metric}: no verdict ({outcome.cause} error): {outcome.message}"
    unit = f" {outcome.unit}" if outcome.unit else ""
    value = number(outcome.value, beside=outcome.bound)
    if outcome.verdict == "undecided":
        bound = f"{outcome.side} {outcome.bound:.12g}{unit}"
        return f"{outcome.metric} {value} against {bound} is undecided: {outcome.message}"
    relation = {
        ("max", True): ">", ("max", False): "<=",
        ("min", True): "<", ("min", False): ">=",
    }[outcome.side or "max", outcome.verdict == "fail"]  # fmt: skip
    line = f"{outcome.metric} {value} {relation} {outcome.bound:.12g}"
    marginal = f"; marginal: the bound is {outcome.marginal}" if outcome.marginal else ""
    return f"{line}{unit} ({_interval(outcome)}{_sample(outcome)}{marginal})"


def failure(outcome: Outcome, suspicions: Sequence[Suspicion], worst: Worst | None = None) -> str:
    """The text of a failing threshold: headline, where it is set, what is probably wrong, and on
    which text it shows most."""
    lines = [headline(outcome), f"{outcome.where}: {_bounds(outcome)}"]
    for suspicion in suspicions:
        lines += ["", f"probable load error: {suspicion.evidence}", f"  try: {suspicion.remedy}"]
    lines += worst_lines(worst) if worst is not None else ()
    return "\n".join(lines)


def worst_lines(worst: Worst) -> Iterator[str]:
    """The worst tokens and sequences, each with its numbers and its text, in `COLUMNS`."""
    if worst.tokens:
        yield ""
        yield "the largest KL of single tokens, in nats:"
        for token in worst.tokens:
            numbers = f"CE {_change(token)}, entropy {number(token.entropy)}"
            place = f"sequence {token.sequence}, position {token.position}"
            yield _placed(f"  {number(token.kl)}  {numbers} ({place}", token.source)
            if token.next:
                # The end of what comes before is what tells most.
                known = f"«{_clipped(token.token, 24)}» → «{_clipped(token.next, 24)}»"
                yield f"    {_clipped(token.before, COLUMNS - 4 - len(known), end=True)}{known}"
    if worst.sequences:
        yield ""
        yield "the largest mean KL of sequences, in nats:"
        for sequence in worst.sequences:
            numbers = f"CE {_change(sequence)}, {sequence.n_tokens:,} tokens"
            place = f"sequence {sequence.sequence}"
            yield _placed(f"  {number(sequence.kl)}  {numbers} ({place}", sequence.source)
            if sequence.text:
                yield f"    {_clipped(sequence.text, COLUMNS - 4)}"


def _change(found: WorstToken | WorstSequence) -> str:
    return f"{number(found.ce_clean)} → {number(found.ce_patched)}"


def _placed(line: str, source: str) -> str:
    named = f", {_clipped(source, COLUMNS - 3 - len(line), end=True)}" if source else ""
    return f"{line}{named})"


def _clipped(text: str, width: int, *, end: bool = False) -> str:
    """Its start, or its end, in at most ``width`` letters; what is not printable is escaped."""
    letters = [
        letter if letter.isprintable() and letter != "\\" else repr(letter)[1:-1] for letter in text
    ]
    if sum(map(len, letters)) <= width:
        return "".join(letters)
    kept, left = list[str](), width - 1
    for letter in reversed(letters) if end else letters:
        left -= len(letter)
        if left < 0:
            break
        kept.append(letter)
    return "…" + "".join(reversed(kept)) if end else "".join(kept) + "…"


def summary(outcomes: Sequence[Outcome], notes: Sequence[str] = ()) -> Iterator[str]:
    """The terminal table: one block per spec and checkpoint, then the notes."""
    for (spec, name, checkpoint), block in groupby(
        outcomes, key=lambda o: (o.spec, o.name, o.checkpoint)
    ):
        yield from _block(f"{spec}::{name} [{checkpoint}]", list(block))
        yield ""
    yield from notes


def _block(title: str, outcomes: Sequence[Outcome]) -> Iterator[str]:
    measured = max(
        (o for o in outcomes if o.n_tokens is not None), key=lambda o: o.n_tokens or 0, default=None
    )
    yield title + (f"  {_sample(measured)}" if measured else "")
    yield from _path(measured)
    yield from _contract([o for o in outcomes if o.kind == "contract"])
    thresholds = [o for o in outcomes if o.kind == "threshold"]
    if thresholds:
        yield from _table(thresholds)
        yield from _prefix(thresholds)
    for outcome in outcomes:
        if outcome.kind == "controls":
            yield from _controls(outcome)


def _path(measured: Outcome | None) -> Iterator[str]:
    """What is out of the ordinary in how it was measured, unless it was asked for."""
    provenance = measured.provenance if measured else ""
    paths = json.loads(provenance).get("paths", {}) if provenance else {}
    because, clean = paths.get("because"), paths.get("clean run", "")
    if because not in (None, "asked for"):
        yield f"  the whole model ran for every number: {because}"
    if clean == "measured before":
        yield "  measured before, the same weights, tokens and code; --sae-cache=off measures anew"
    elif clean.startswith("run, and not remembered"):
        yield f"  clean run: {clean}"


def _contract(parts: Sequence[Outcome]) -> Iterator[str]:
    """The load contract on one line."""
    broken = [o.metric for o in parts if o.verdict == "error" and o.cause == "load"]
    kept = sum(o.verdict == "pass" for o in parts)
    rest = len(parts) - len(broken) - kept
    if broken:
        yield f"  load contract BROKEN: {', '.join(broken)}; {kept} kept, {rest} not checked"
    elif parts:
        unknown = f", {rest} not checked" if rest else ""
        yield f"  load contract: {kept} of {len(parts)} kept{unknown}"


def _prefix(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What an early verdict means."""
    early = [o for o in outcomes if o.seen_sequences is not None]
    if early:
        yield (
            f"  ~ estimates from the first sequences; the verdicts are those on all "
            f"{early[0].of_sequences:,} but for a chance of {early[0].alpha:g}"
        )


def _controls(outcome: Outcome) -> Iterator[str]:
    """The checkpoint beside its controls, and where it is not better than they are."""
    if outcome.verdict == "error":
        yield f"  controls: no numbers ({outcome.cause} error): {outcome.message}"
        return
    found = json.loads(outcome.controls)
    columns = list(next(iter(found.values())))
    rows = [("controls", *columns)]
    for name, row in found.items():
        values = (row[column] for column in columns)
        shown = outcome.checkpoint if name == CHECKPOINT else name
        rows.append((shown, *("-" if value is None else number(value) for value in values)))
    yield from _aligned(rows, left=(0,))
    if outcome.message:
        yield f"  WARNING: {outcome.message}"


def _table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    rows = [("metric", "value", "± 95 %", "bound", "headroom", "verdict")]
    rows += [_row(outcome) for outcome in outcomes]
    yield from _aligned(rows, left=(0, 5))


def _aligned(rows: Sequence[Sequence[str]], *, left: Sequence[int]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()


def _row(outcome: Outcome) -> tuple[str, str, str, str, str, str]:
    half = ""
    if outcome.low is not None and outcome.high is not None:
        half = f"{(outcome.high - outcome.low) / 2:.2g}"
    return (
        outcome.metric,
        _shown(outcome),
        half,
        _bounds(outcome, short=True),
        "-" if outcome.headroom is None else f"{outcome.headroom:+.3g}",
        _verdict(outcome),
    )


def _shown(outcome: Outcome) -> str:
    """The value; of some sequences only, it is marked."""
    if outcome.value is None:
        return "-"
    mark = "~" if outcome.seen_sequences is not None else ""
    return mark + number(outcome.value, beside=outcome.bound)


def _verdict(outcome: Outcome) -> str:
    shown = outcome.verdict if outcome.verdict == "pass" else outcome.verdict.upper()
    near = outcome.marginal and outcome.verdict in ("pass", "warn", "fail")
    notes = ["marginal"] if near else []
    if outcome.seen_sequences is not None:
        notes.append(f"after {outcome.seen_sequences:,}")
    if outcome.audit:
        notes.append(f"early: {outcome.audit}")
    return f"{shown} ({'; '.join(notes)})" if notes else shown


def _bounds(outcome: Outcome, *, short: bool = False) -> str:
    if short and outcome.min is not None and outcome.max is not None:
        return f"{outcome.min:.12g}..{outcome.max:.12g}"
    signs = {"min": ">= ", "max": "<= "} if short else {"min": "min ", "max": "max "}
    values = {"min": outcome.min, "max": outcome.max}
    joined = ", ".join(f"{signs[s]}{v:.12g}" for s, v in values.items() if v is not None)
    return joined if short else f"{outcome.metric}: {joined}"


def _interval(outcome: Outcome) -> str:
    if outcome.low is None or outcome.high is None:
        return "no interval, "
    return f"95 % interval {number(outcome.low)} to {number(outcome.high)}, "


def _sample(outcome: Outcome) -> str:
    of = "" if outcome.of_sequences is None else f"of {outcome.of_sequences:,} "
    return f"{outcome.n_tokens:,} tokens in {outcome.n_sequences:,} {of}sequences"


def to_json(outcomes: Iterable[Outcome], *, verdict: str, version: str) -> str:
    """All outcomes as strict JSON: a number that JSON cannot say is null beside its verdict."""
    rows = list(outcomes)
    document: dict[str, Any] = {
        "schema_version": JSON_SCHEMA_VERSION,
        "sae_guard": version,
        "verdict": verdict,
        "outcomes": [_json_row(outcome) for outcome in rows],
        "worst_cases": _worst_cases(rows),
    }
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _json_row(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = _finite(asdict(outcome))
    for name, text in (("provenance", outcome.provenance), ("controls", outcome.controls)):
        row[name] = json.loads(text) if text else None
    del row["worst"]
    return row


def _worst_cases(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Of each checkpoint at each spec, once: under xdist several workers may have told them."""
    told = {(o.spec, o.name, o.checkpoint): o.worst for o in outcomes if o.worst}
    return [
        {"spec": spec, "name": name, "checkpoint": checkpoint, **_finite(json.loads(worst))}
        for (spec, name, checkpoint), worst in told.items()
    ]


def _finite(value: Any) -> Any:
    """The value with None for each number in it that JSON cannot say."""
    if isinstance(value, dict):
        return {name: _finite(below) for name, below in value.items()}
    if isinstance(value, list):
        return [_finite(below) for below in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
