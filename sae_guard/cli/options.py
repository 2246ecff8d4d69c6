"""Options of commands that load and measure; pytest has the same ones, prefixed by ``sae-``."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar, get_args

import click

from sae_guard.checkpoints.options import Architecture, Normalize
from sae_guard.gate.options import DEVICE, DEVICES, number_or_text

Command = TypeVar("Command", bound=Callable[..., Any])
Option = Callable[[Command], Command]


def _device(_: click.Context, __: click.Parameter, text: str) -> str:
    if not DEVICE.fullmatch(text):
        raise click.BadParameter(f"{text!r}; allowed: {DEVICES}")
    return text


def _together(*options: Option[Any]) -> Option[Any]:
    """Return a decorator that adds several options to a command, in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):  # decorators apply from the last to the first
            command = option(command)
        return command

    return decorate


sae_options = _together(
    click.option(
        "--architecture", "--arch", type=click.Choice(get_args(Architecture)),
        help="Architecture, if the files do not say it.",
    ),
    click.option("--k", type=click.IntRange(min=1), help="Active latents per token of a TopK SAE."),
    click.option(
        "--pre-bias/--no-pre-bias", default=None,
        help="Whether b_dec is subtracted from the input first.",
    ),
    click.option(
        "--normalize", "--norm", type=click.Choice(get_args(Normalize)),
        help="Normalisation of the input.",
    ),
    click.option(
        "--scale", metavar="FACTOR|folded|stored", type=number_or_text,
        help="Factor that the input is multiplied by.",
    ),
)  # fmt: skip
"""Options for what the files of a checkpoint do not say: keys of a spec's `sae` block."""

machine_options = _together(
    click.option(
        "--device", default="auto", show_default=True, callback=_device,
        help="auto (cuda, mps or cpu), cpu, mps, cuda or cuda:N.",
    ),
    click.option(
        "--batch-size", type=click.IntRange(min=1), metavar="N",
        help="Most token windows per forward pass (default: what fits into the free memory).",
    ),
)  # fmt: skip
"""Options of the machine that measures."""

cache_option = click.option(
    "--cache", metavar="FOLDER|off",
    help="Folder of cached clean runs (default: $SAE_GUARD_CACHE, or the user's cache folder).",
)  # fmt: skip
spec_option = click.option(
    "--spec", "specs", multiple=True, metavar="SPEC",
    help="Only this spec: a YAML file, or the name of one in thresholds/; repeatable.",
)  # fmt: skip
hook_option = click.option(
    "--hook", metavar="HOOK[:HOOK_OUT]",
    help="Hook point of checkpoints that name none; of a transcoder, also the one it replaces.",
)  # fmt: skip


def parse_share(_: click.Context, __: click.Parameter, text: str) -> Decimal:
    """Parse a share such as ``5%`` or ``0.05``; ``5`` is refused, as it could be either."""
    try:
        share = Decimal(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except InvalidOperation:
        share = Decimal("NaN")
    if not (share.is_finite() and 0 <= share < 1):
        raise click.BadParameter(f"{text!r}; allowed: from 0% to below 100%, such as 5% or 0.05")
    return share
