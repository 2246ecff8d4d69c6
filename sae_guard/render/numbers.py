"""Numbers as they are shown."""

from __future__ import annotations


def number(value: float, *, beside: float | None = None) -> str:
    """Four significant digits, and more where they are needed to tell it from a bound."""
    digits = 4
    while beside is not None and value != beside and digits < 17:
        if float(f"{value:.{digits}g}") != beside:
            break
        digits += 1
    return f"{value:.{digits}g}"
