"""Numbers as text."""

from __future__ import annotations

_MOST_DIGITS = 17
"""Significant digits that tell any two floats apart."""


def number(value: float, *, beside: float | None = None, digits: int = 4) -> str:
    """Write a number with a few significant digits.

    Args:
        value: The number; may be NaN or infinite.
        beside: A bound. More digits are written where fewer would read as the bound itself.
        digits: Least number of significant digits.
    """
    while beside is not None and value != beside and digits < _MOST_DIGITS:
        if float(f"{value:.{digits}g}") != beside:
            break
        digits += 1
    return f"{value:.{digits}g}"


def half_width(low: float | None, high: float | None) -> str:
    """Write half of the width of an interval; empty if there is no interval."""
    return "" if low is None or high is None else f"{(high - low) / 2:.2g}"


def distinct_numbers(one: float, other: float, *, digits: int = 4) -> tuple[str, str]:
    """Write two numbers with as many digits as it takes to tell them apart.

    Args:
        one: The first number.
        other: The second number. Equal numbers have equal texts.
        digits: Least number of significant digits.
    """
    while one != other and digits < _MOST_DIGITS:
        if f"{one:.{digits}g}" != f"{other:.{digits}g}":
            break
        digits += 1
    return f"{one:.{digits}g}", f"{other:.{digits}g}"
