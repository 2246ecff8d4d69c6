"""Rows of cells → lines in columns. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

_GAP = "  "


def table_lines(
    rows: Sequence[Sequence[str]], *, right: Collection[int] = (), indent: str = ""
) -> Iterator[str]:
    """Put the cells in columns that are as wide as their longest cell.

    Args:
        rows: Each with as many cells; titles are a row like the others.
        right: Columns whose cells stand at the right end, by their index; others at the left.
        indent: What every line starts with.

    Yields:
        A line for each row, without blanks at its end.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"{indent}{_GAP.join(cells)}".rstrip()
