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
    tokens_by_kl = [
        (row, position, float(m.tokens.columns["kl"][row, position]))
        for row in range(m.n_sequences)
        for position in range(m.tokens.scored.shape[1])
        if m.tokens.scored[row, position] and inside(m, part, row, position)
    ]
    means = []
    for row in range(m.n_sequences):
        values = [kl for at, _, kl in tokens_by_kl if at == row]
        if values:
            means.append((row, sum(values) / len(values)))
    tokens_by_kl.sort(key=lambda t: (-badness(t[2]), t[0], t[1]))
    means.sort(key=lambda t: (-badness(t[1]), t[0]))
    return (
        [(int(m.sequences[row]), position, kl) for row, position, kl in tokens_by_kl[:tokens]],
        [(int(m.sequences[row]), kl) for row, kl in means[:sequences]],
    )


def places(result: Worst) -> Any:
    return (
        [(t.sequence, t.position, t.kl) for t in result.tokens],
        [(s.sequence, s.kl) for s in result.sequences],
    )


@given(measured(), most, most, slices)
def test_the_worst_equal_the_first_after_a_full_sort(
    m: Measurement, tokens: int, sequences: int, part: Slice | None
) -> None:
    result = worst(m, tokens=tokens, sequences=sequences, slice=part)
    expected = slow(m, tokens, sequences, part)
    np.testing.assert_equal(places(result), expected)  # NaN is NaN
    assert m.tokens is not None
    rows = {int(sequence): row for row, sequence in enumerate(m.sequences)}
    for token in result.tokens:
        at = rows[token.sequence], token.position
        assert token.ce_clean == m.tokens.columns["ce_clean"][at]
        assert token.ce_patched == m.tokens.columns["ce_patched"][at]
        assert token.entropy == m.tokens.columns["entropy"][at]
        assert token.source == m.sources[at[0]]
    for sequence in result.sequences:
        row = rows[sequence.sequence]
        positions = [
            p for p in range(m.tokens.scored.shape[1])
            if m.tokens.scored[row, p] and inside(m, part, row, p)
        ]  # fmt: skip
        assert sequence.n_tokens == len(positions)
        assert sequence.source == m.sources[row]
        for name in ("ce_clean", "ce_patched"):
            mean = m.tokens.columns[name][row, positions].mean(dtype=np.float64)
            assert getattr(sequence, name) == pytest.approx(mean)


def rows(m: Measurement, indices: list[int]) -> Measurement:
    assert m.tokens is not None
    return dataclasses.replace(
        m,
        sequences=m.sequences[indices],
        sums={name: column[indices] for name, column in m.sums.items()},
        tokens=TokenTable(
            m.tokens.scored[indices],
            {name: column[indices] for name, column in m.tokens.columns.items()},
        ),
        sources=tuple(m.sources[row] for row in indices),
    )


@given(measured(), st.data())
def test_a_partial_measurement_gives_the_worst_of_its_rows(
    m: Measurement, data: st.DataObject
) -> None:
    partial = rows(m, list(range(data.draw(st.integers(1, m.n_sequences)))))
    result = worst(m, tokens=99, sequences=99)
    sequences = set(partial.sequences.tolist())
    assert repr(worst(partial, tokens=99, sequences=99)) == repr(
        Worst(
            tuple(token for token in result.tokens if token.sequence in sequences),
            tuple(sequence for sequence in result.sequences if sequence.sequence in sequences),
        )
    )


@given(measured())
def test_nan_and_infinity_come_first(m: Measurement) -> None:
    assert m.tokens is not None
    bad = int((m.tokens.scored & ~np.isfinite(m.tokens.columns["kl"])).sum())
    result = worst(m, tokens=99, sequences=99)
    finite = [math.isfinite(token.kl) for token in result.tokens]
    assert finite == [False] * bad + [True] * (len(finite) - bad)
    broken = {t.sequence for t in result.tokens if not math.isfinite(t.kl)}
    assert {s.sequence for s in result.sequences[: len(broken)]} == broken


@given(measured())
def test_the_worst_come_with_their_texts_and_sources(m: Measurement) -> None:
    result = worst(m, tokens=99, sequences=99)
    texts = Excerpts(
        {(t.sequence, t.position): Around("a", "b", f"{t.position}") for t in result.tokens[1:]},
        {s.sequence: f"text {s.sequence}" for s in result.sequences[1:]},
    )
    with_texts = worst(dataclasses.replace(m, excerpts=texts), tokens=99, sequences=99)
    for token in with_texts.tokens[:1]:
        assert (token.before, token.token, token.next) == ("", "", "")
    for token in with_texts.tokens[1:]:
        assert (token.before, token.token, token.next) == ("a", "b", f"{token.position}")
    assert [s.text for s in with_texts.sequences[1:]] == [
        f"text {s.sequence}" for s in with_texts.sequences[1:]
    ]


@given(measured())
def test_without_a_token_table_only_sequences_are_returned(m: Measurement) -> None:
    bare = dataclasses.replace(m, tokens=None)
    assert worst(bare).tokens == ()
    assert repr(worst(bare).sequences) == repr(worst(m).sequences)
    assert worst(bare, slice=Slice("position", 0, 2)) == Worst((), ())
    assert worst(m, slice=Slice("source", glob="elsewhere")) == Worst((), ())
