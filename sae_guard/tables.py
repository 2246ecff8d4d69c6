"""Lay out rows of cells as text in columns. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

_GAP = "  "


def table_lines(
    rows: Sequence[Sequence[str]], *, right: Collection[int] = (), indent: str = ""
) -> Iterator[str]:
    """Lay out the cells in columns that are as wide as their longest cell.

    Args:
        rows: Cells of each row; all rows have the same number. Titles are an ordinary row.
        right: Indices of the columns that are aligned to the right; others are to the left.
        indent: Text at the start of every line.

    Yields:
        One line for each row, without trailing blanks.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"{indent}{_GAP.join(cells)}".rstrip()
