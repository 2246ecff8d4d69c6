"""Outcomes → the terminal table. Pure: nothing is written here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby

from sae_guard.core.controls import CHECKPOINT
from sae_guard.core.diagnosis import Diagnosis, Spelling
from sae_guard.core.pareto import ParetoVerdict
from sae_guard.core.report import Outcome
from sae_guard.render.numbers import number
from sae_guard.render.pareto import not_compared
from sae_guard.render.words import bounds, headline, sample, shown
from sae_guard.tables import table_lines


def summary(
    outcomes: Sequence[Outcome], notes: Sequence[str] = (), *, spelling: Spelling | None = None
) -> Iterator[str]:
    """Draw the terminal table: one block per spec and checkpoint, then the notes.

    ``spelling`` is how the shell spells the options that a diagnosis names.
    """
    for (spec, name, checkpoint), block in groupby(
        outcomes, key=lambda o: (o.spec, o.name, o.checkpoint)
    ):
        yield from _block(f"{spec}::{name} [{checkpoint}]", list(block), spelling)
        yield ""
    yield from notes


def _block(title: str, outcomes: Sequence[Outcome], spelling: Spelling | None) -> Iterator[str]:
    measured = max(
        (o for o in outcomes if o.n_tokens is not None), key=lambda o: o.n_tokens or 0, default=None
    )
    yield title + (f"  {sample(measured)}" if measured else "")
    yield from path_lines(measured)
    yield from _contract([o for o in outcomes if o.kind == "contract"])
    thresholds = [o for o in outcomes if o.kind == "threshold"]
    if thresholds:
        yield from _table(thresholds)
        yield from _since(thresholds)
        yield from _prefix(thresholds)
    for outcome in outcomes:
        if outcome.kind == "pareto":
            yield from _pareto(outcome)
    yield from _diagnosis(thresholds, spelling)
    for outcome in outcomes:
        if outcome.kind == "controls":
            yield from _controls(outcome)


def path_lines(measured: Outcome | None) -> Iterator[str]:
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


def _pareto(outcome: Outcome) -> Iterator[str]:
    """The verdict, and of a pass what it was not compared with; of others their failures tell."""
    yield f"  {verdict_words(outcome)}: {headline(outcome)}"
    if outcome.verdict == "pass" and outcome.pareto:
        yield from (f"    {line}" for line in not_compared(ParetoVerdict.of_json(outcome.pareto)))


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


def _since(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Which version the changes are from."""
    for baseline in dict.fromkeys(o.baseline for o in outcomes if o.baseline):
        yield f"  changes since {baseline}, on the same sequences"


def _prefix(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What an early verdict means, and why what is let through has none."""
    for outcome in outcomes:
        if outcome.verdict == "undecided" and outcome.passes:
            yield f"  {outcome.metric} is undecided: {outcome.message}"
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
        label = outcome.checkpoint if name == CHECKPOINT else name
        rows.append((label, *("-" if value is None else number(value) for value in values)))
    yield from table_lines(rows, right=range(1, 1 + len(columns)), indent="  ")
    if outcome.message:
        yield f"  WARNING: {outcome.message}"


def _diagnosis(thresholds: Sequence[Outcome], spelling: Spelling | None) -> Iterator[str]:
    """Warn of what is suspected of a checkpoint that passes; of others their failures tell."""
    diagnosis = next((o.diagnosis for o in thresholds if o.diagnosis), "")
    if diagnosis and all(o.passes for o in thresholds):
        lines = Diagnosis.of_json(diagnosis).lines("WARNING", spelling)
        yield from (f"  {line}" for line in lines)


def _table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    rows = [("metric", "value", "± 95 %", "bound", "headroom", "verdict")]
    rows += [_row(outcome) for outcome in outcomes]
    yield from table_lines(rows, right=range(1, 5), indent="  ")


def _row(outcome: Outcome) -> tuple[str, str, str, str, str, str]:
    return (
        outcome.metric,
        shown(outcome),
        half(outcome),
        bounds(outcome, short=True),
        "-" if outcome.headroom is None else _distance(outcome, outcome.headroom, "+.3g"),
        verdict_words(outcome),
    )


def half(outcome: Outcome) -> str:
    """Half of the interval, where there is one."""
    if outcome.low is None or outcome.high is None:
        return ""
    return _distance(outcome, (outcome.high - outcome.low) / 2, ".2g")


def _distance(outcome: Outcome, value: float, digits: str) -> str:
    return f"{100 * value:{digits}}%" if outcome.change == "share" else f"{value:{digits}}"


def verdict_words(outcome: Outcome) -> str:
    """The verdict, in capitals where it is no pass, and what is to be known of it."""
    word = outcome.verdict if outcome.verdict == "pass" else outcome.verdict.upper()
    near = outcome.marginal and outcome.verdict in ("pass", "warn", "fail")
    notes = ["marginal"] if near else []
    if outcome.seen_sequences is not None:
        notes.append(f"after {outcome.seen_sequences:,}")
    if outcome.note:
        notes.append(outcome.note)
    if outcome.audit:
        notes.append(f"early: {outcome.audit}")
    return f"{word} ({'; '.join(notes)})" if notes else word
