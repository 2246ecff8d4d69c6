"""Shares on the command line."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

import click


def share(_: click.Context, __: click.Parameter, text: str) -> Decimal:
    """``5%``, or ``0.05``; ``5`` could be either."""
    try:
        found = Decimal(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except InvalidOperation:
        found = Decimal("NaN")
    if not (found.is_finite() and 0 <= found < 1):
        raise click.BadParameter(f"{text!r}, allowed: 0% up to, and not with, 100%")
    return found
