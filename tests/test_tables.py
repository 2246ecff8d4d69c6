"""Rows of cells become lines in columns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.tables import table_lines

CELLS = st.text(st.characters(categories=("L", "N", "P", "S")) | st.just(" "), max_size=8)
TABLES = st.integers(1, 5).flatmap(
    lambda columns: st.lists(st.lists(CELLS, min_size=columns, max_size=columns), max_size=6)
)


def test_columns_are_aligned_and_lines_end_without_blanks() -> None:
    rows = [("metric", "value", "verdict"), ("kl", "0.4", "FAIL"), ("cosine", "-", "")]
    assert list(table_lines(rows, right=(1,), indent="  ")) == [
        "  metric  value  verdict",
        "  kl        0.4  FAIL",
        "  cosine      -",
    ]


def test_no_rows_are_no_lines() -> None:
    assert list(table_lines([])) == []


def test_rows_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        list(table_lines([("a", "b"), ("c",)]))


@given(TABLES, st.sets(st.integers(0, 4)), st.sampled_from(["", "  ", "- "]))
def test_columns_line_up_and_no_cell_is_lost(
    rows: list[list[str]], right: set[int], indent: str
) -> None:
    lines = list(table_lines(rows, right=right, indent=indent))
    assert len(lines) == len(rows)
    assert all(line == line.rstrip() for line in lines)
    start = len(indent)
    for index, column in enumerate(zip(*rows, strict=True)):
        width = max(map(len, column))
        for line, cell in zip(lines, column, strict=True):
            expected = cell.rjust(width) if index in right else cell.ljust(width)
            assert line[start:].ljust(width)[:width] == expected
        start += width + 2
    assert all(len(line) <= start - 2 and line.startswith(indent.rstrip()) for line in lines)
