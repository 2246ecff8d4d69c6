"""Errors name options; commands add how they spell them."""

from __future__ import annotations

import click
import pytest

from sae_guard.cli import main
from sae_guard.cli.spelling import SPELLINGS, spelled
from sae_guard.errors import Option, SetupError


def test_every_spelling_is_an_option_of_some_command() -> None:
    context = click.Context(main)
    names = {
        name
        for command in main.list_commands(context)
        for parameter in main.get_command(context, command).params  # type: ignore[union-attr]
        for name in parameter.opts
    }
    assert {*SPELLINGS.values()} <= names


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ((), ""),
        (("allow_loosen",), " (--allow-loosen)"),
        (("spec", "architecture", "normalize"), " (--spec, --arch, --norm)"),
        (("controls", "hook"), " (--hook)"),
        (("controls",), ""),
    ],
)
def test_options_of_an_error_follow_its_message(options: tuple[Option, ...], end: str) -> None:
    assert spelled(SetupError("no such version", options=options)) == f"no such version{end}"
