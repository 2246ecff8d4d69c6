"""The options of early verdicts: ``--sae-fast`` and its kin."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from sae_guard.workbench import ALPHA, EarlyOptions


def early_options(config: pytest.Config) -> EarlyOptions:
    """What the command line says of early verdicts."""
    names = ("fast", "alpha", "audit", "max_seconds", "max_sequences")
    return EarlyOptions(**{name: config.getoption(f"sae_{name}") for name in names})


def add_options(group: pytest.OptionGroup) -> None:
    """Declare the options."""
    group.addoption(
        "--sae-fast",
        action="store_true",
        help="stop as soon as every verdict is that of the whole token set but for a chance of α",
    )
    group.addoption(
        "--sae-alpha",
        metavar="ALPHA",
        type=_number("--sae-alpha", above=0, below=0.5),
        help=f"α of --sae-fast, which this implies (default: the spec's, or {ALPHA})",
    )
    group.addoption(
        "--sae-audit",
        action="store_true",
        help="run to the end all the same, and say whether the early verdicts hold",
    )
    group.addoption(
        "--sae-max-seconds",
        metavar="SECONDS",
        type=_number("--sae-max-seconds", above=0, below=math.inf),
        help="end a measurement after this long; what is not decided by then is undecided "
        "(implies --sae-fast)",
    )
    group.addoption(
        "--sae-max-sequences",
        metavar="N",
        type=_count,
        help="end a measurement with the shard in which the Nth sequence is; what is not decided "
        "by then is undecided (implies --sae-fast)",
    )


def _number(option: str, *, above: float, below: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not above < value < below:
            most = "" if math.isinf(below) else f" and below {below:g}"
            raise pytest.UsageError(f"{option} {text!r}; allowed: a number above {above:g}{most}")
        return value

    return number


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise pytest.UsageError(f"--sae-max-sequences {text!r}; allowed: a whole number from 1 on")
    return int(text)
