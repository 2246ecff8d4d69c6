"""Options of the commands that load and measure; pytest has the same ones with ``sae-``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar, get_args

import click

from sae_guard.checkpoints.options import Architecture, Normalize
from sae_guard.gate.options import DEVICE, DEVICES

Command = TypeVar("Command", bound=Callable[..., Any])
Option = Callable[[Command], Command]


def _device(_: click.Context, __: click.Parameter, text: str) -> str:
    if not DEVICE.fullmatch(text):
        raise click.BadParameter(f"{text!r}; allowed: {DEVICES}")
    return text


def _scale(_: click.Context, __: click.Parameter, text: str | None) -> float | str | None:
    try:
        return text if text is None else float(text)
    except ValueError:
        return text


_SAES: Sequence[Option[Any]] = (
    click.option(
        "--architecture", "--arch", type=click.Choice(get_args(Architecture)), help="If not told."
    ),
    click.option("--k", type=click.IntRange(min=1), help="Active latents per token of a TopK SAE."),
    click.option(
        "--pre-bias/--no-pre-bias", default=None, help="Whether b_dec is taken off first."
    ),
    click.option(
        "--normalize", "--norm", type=click.Choice(get_args(Normalize)), help="Of the input."
    ),
    click.option(
        "--scale", metavar="FACTOR|folded|stored", callback=_scale,
        help="What the input is multiplied by.",
    ),
)  # fmt: skip
_MACHINE: Sequence[Option[Any]] = (
    click.option(
        "--device", default="auto", show_default=True, callback=_device,
        help="auto (cuda, mps or cpu), cpu, mps, cuda or cuda:N.",
    ),
    click.option(
        "--batch-size", type=click.IntRange(min=1), metavar="N",
        help="Token windows per forward pass, at most (default: by the free memory).",
    ),
)  # fmt: skip

cache_option = click.option(
    "--cache", metavar="FOLDER|off",
    help="Where clean runs are remembered (default: $SAE_GUARD_CACHE, or the user's cache folder).",
)  # fmt: skip
spec_option = click.option(
    "--spec", "specs", multiple=True, metavar="SPEC",
    help="By this spec only: a YAML file, or the name of one in thresholds/; repeatable.",
)  # fmt: skip
hook_option = click.option(
    "--hook", metavar="HOOK[:HOOK_OUT]",
    help="Hook point (of a transcoder, and the one it replaces) of checkpoints that name none.",
)  # fmt: skip


def about_saes(command: Command) -> Command:
    """What checkpoints do not say of themselves: the keys of the `sae` block of a spec."""
    return _with(_SAES, command)


def about_the_machine(command: Command) -> Command:
    """On what it is measured: ``device`` and ``batch_size``."""
    return _with(_MACHINE, command)


def _with(options: Sequence[Option[Any]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def share(_: click.Context, __: click.Parameter, text: str) -> Decimal:
    """``5%``, or ``0.05``; ``5`` could be either."""
    try:
        found = Decimal(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except InvalidOperation:
        found = Decimal("NaN")
    if not (found.is_finite() and 0 <= found < 1):
        raise click.BadParameter(f"{text!r}, allowed: 0% up to, and not with, 100%")
    return found
