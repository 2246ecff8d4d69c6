"""The options of early verdicts: ``--sae-fast`` and its kin."""

from __future__ import annotations

import pytest

from sae_guard.gate.early import ALPHA, EarlyOptions
from sae_guard.pytest_plugin.parsers import number, whole


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
        type=number("--sae-alpha", below=0.5),
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
        type=number("--sae-max-seconds"),
        help="end a measurement after this long; what is not decided by then is undecided "
        "(implies --sae-fast)",
    )
    group.addoption(
        "--sae-max-sequences",
        metavar="N",
        type=whole("--sae-max-sequences"),
        help="end a measurement with the shard in which the Nth sequence is; what is not decided "
        "by then is undecided (implies --sae-fast)",
    )
