"""The worst tokens and sequences, by sorting all of them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from sae_guard.core.measurement import (
    TOKEN_COLUMNS,
    Around,
    Excerpts,
    Measurement,
    Provenance,
    TokenTable,
)
from sae_guard.core.metrics import COLUMNS
from sae_guard.core.targets import Slice
from sae_guard.core.worst_tokens import Worst, worst

# Few values: many are equal. Some are none.
KL = [0.0, 0.25, 1.0, 8.0, math.nan, math.inf]


@st.composite
def measured(draw: st.DrawFn) -> Measurement:
    """Some rows of a corpus of 20 windows; sequences may be without a scored token."""
    n, length = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    scored = draw(npst.arrays(np.bool_, (n, length)))
    columns = {
        name: np.where(scored, draw(npst.arrays(np.float32, (n, length), elements=values)), 0)
        for name, values in (
            ("kl", st.sampled_from(KL)),
            ("entropy", st.sampled_from([0.0, 1.0, 4.0])),
            ("ce_clean", st.integers(0, 9)),
            ("ce_patched", st.integers(0, 9)),
        )
    }
    rest = {name: np.zeros((n, length), dtype=np.float32) for name in TOKEN_COLUMNS}
    table = TokenTable(scored, rest | {k: v.astype(np.float32) for k, v in columns.items()})
    sums = {name: np.zeros(n) for name in COLUMNS} | table.sums(scored)
    sequences = draw(st.lists(st.integers(0, 19), min_size=n, max_size=n, unique=True))
    return Measurement(
        np.array(sorted(sequences)), sums, np.zeros(4, dtype=np.int64), PROVENANCE, table,
        tuple(f"source {row % 2}" for row in sorted(sequences)),
    )  # fmt: skip


PROVENANCE = Provenance(
    model={}, checkpoint={}, corpus={"n_sequences": 20}, hook="h", mean_sha256="",
    formula_versions={}, versions={}, device="cpu",
)  # fmt: skip

slices = st.sampled_from(
    [None, Slice("position", 1, 3), Slice("entropy", 1.0), Slice("source", glob="*1")]
)
most = st.integers(0, 8)


def badness(kl: float) -> float:
    return kl if math.isfinite(kl) else math.inf


def inside(m: Measurement, part: Slice | None, row: int, position: int) -> bool:
    assert m.tokens is not None
    if part is None:
        return True
    if part.by == "source":
        return m.sources[row] == "source 1"
    by = position if part.by == "position" else m.tokens.columns["entropy"][row, position]
    return bool(part.low <= by < part.high)


def slow(m: Measurement, tokens: int, sequences: int, part: Slice | None) -> Any:
    """The places with their KL, by loops."""
    assert m.tokens is not None
    found = [
        (row, position, float(m.tokens.columns["kl"][row, position]))
        for row in range(m.n_sequences)
        for position in range(m.tokens.scored.shape[1])
        if m.tokens.scored[row, position] and inside(m, part, row, position)
    ]
    means = []
    for row in range(m.n_sequences):
        values = [kl for at, _, kl in found if at == row]
        if values:
            means.append((row, sum(values) / len(values)))
    found.sort(key=lambda t: (-badness(t[2]), t[0], t[1]))
    means.sort(key=lambda t: (-badness(t[1]), t[0]))
    return (
        [(int(m.sequences[row]), position, kl) for row, position, kl in found[:tokens]],
        [(int(m.sequences[row]), kl) for row, kl in means[:sequences]],
    )


def places(found: Worst) -> Any:
    return (
        [(t.sequence, t.position, t.kl) for t in found.tokens],
        [(s.sequence, s.kl) for s in found.sequences],
    )


@given(measured(), most, most, slices)
def test_the_worst_are_the_first_of_all_when_they_are_sorted(
    m: Measurement, tokens: int, sequences: int, part: Slice | None
) -> None:
    found = worst(m, tokens=tokens, sequences=sequences, slice=part)
    expected = slow(m, tokens, sequences, part)
    np.testing.assert_equal(places(found), expected)  # NaN is NaN
    assert m.tokens is not None
    rows = {int(sequence): row for row, sequence in enumerate(m.sequences)}
    for token in found.tokens:
        at = rows[token.sequence], token.position
        assert token.ce_clean == m.tokens.columns["ce_clean"][at]
        assert token.ce_patched == m.tokens.columns["ce_patched"][at]
        assert token.entropy == m.tokens.columns["entropy"][at]
        assert token.source == m.sources[at[0]]
    for sequence in found.sequences:
        row = rows[sequence.sequence]
        chosen = [
            p for p in range(m.tokens.scored.shape[1])
            if m.tokens.scored[row, p] and inside(m, part, row, p)
        ]  # fmt: skip
        assert sequence.n_tokens == len(chosen)
        assert sequence.source == m.sources[row]
        for name in ("ce_clean", "ce_patched"):
            mean = m.tokens.columns[name][row, chosen].mean(dtype=np.float64)
            assert getattr(sequence, name) == pytest.approx(mean)


def rows(m: Measurement, chosen: list[int]) -> Measurement:
    assert m.tokens is not None
    return dataclasses.replace(
        m,
        sequences=m.sequences[chosen],
        sums={name: column[chosen] for name, column in m.sums.items()},
        tokens=TokenTable(
            m.tokens.scored[chosen],
            {name: column[chosen] for name, column in m.tokens.columns.items()},
        ),
        sources=tuple(m.sources[row] for row in chosen),
    )


@given(measured(), st.data())
def test_of_some_rows_they_are_the_worst_of_these(m: Measurement, data: st.DataObject) -> None:
    some = rows(m, list(range(data.draw(st.integers(1, m.n_sequences)))))
    found = worst(m, tokens=99, sequences=99)
    known = set(some.sequences.tolist())
    assert repr(worst(some, tokens=99, sequences=99)) == repr(
        Worst(
            tuple(token for token in found.tokens if token.sequence in known),
            tuple(sequence for sequence in found.sequences if sequence.sequence in known),
        )
    )


@given(measured())
def test_what_is_not_a_number_comes_first_and_is_seen(m: Measurement) -> None:
    assert m.tokens is not None
    bad = int((m.tokens.scored & ~np.isfinite(m.tokens.columns["kl"])).sum())
    found = worst(m, tokens=99, sequences=99)
    shown = [math.isfinite(token.kl) for token in found.tokens]
    assert shown == [False] * bad + [True] * (len(shown) - bad)
    broken = {t.sequence for t in found.tokens if not math.isfinite(t.kl)}
    assert {s.sequence for s in found.sequences[: len(broken)]} == broken


@given(measured())
def test_texts_stand_beside_their_places(m: Measurement) -> None:
    found = worst(m, tokens=99, sequences=99)
    texts = Excerpts(
        {(t.sequence, t.position): Around("a", "b", f"{t.position}") for t in found.tokens[1:]},
        {s.sequence: f"text {s.sequence}" for s in found.sequences[1:]},
    )
    told = worst(dataclasses.replace(m, excerpts=texts), tokens=99, sequences=99)
    for token in told.tokens[:1]:
        assert (token.before, token.token, token.next) == ("", "", "")
    for token in told.tokens[1:]:
        assert (token.before, token.token, token.next) == ("a", "b", f"{token.position}")
    assert [s.text for s in told.sequences[1:]] == [
        f"text {s.sequence}" for s in told.sequences[1:]
    ]


@given(measured())
def test_without_the_values_of_tokens_there_are_sequences_alone(m: Measurement) -> None:
    bare = dataclasses.replace(m, tokens=None)
    assert worst(bare).tokens == ()
    assert repr(worst(bare).sequences) == repr(worst(m).sequences)
    assert worst(bare, slice=Slice("position", 0, 2)) == Worst((), ())
    assert worst(m, slice=Slice("source", glob="elsewhere")) == Worst((), ())
