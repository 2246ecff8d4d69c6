"""Options of errors and suspicions are spelled as on pytest's command line."""

from __future__ import annotations

import pytest

from sae_guard.core.diagnosis import Setting, Suspicion
from sae_guard.errors import Option, SetupError
from sae_guard.pytest_plugin.spelling import SPELLINGS, spelled, spelled_options


def test_pytest_has_every_option_that_is_spelled(pytestconfig: pytest.Config) -> None:
    for spelling in SPELLINGS.values():
        assert hasattr(pytestconfig.option, spelling.removeprefix("--").replace("-", "_")), spelling


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ((), ""),
        (("baseline",), " (--sae-baseline)"),
        (("spec", "architecture", "normalize"), " (--sae-spec, --sae-arch, --sae-norm)"),
        (("allow_loosen", "hook"), " (--sae-hook)"),
        (("model", "allow_loosen"), ""),
    ],
)
def test_options_follow_the_message(options: tuple[Option, ...], end: str) -> None:
    assert spelled(SetupError("no such version", options=options)) == f"no such version{end}"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((), ""),
        ((("architecture", "topk"), ("k", "32")), "--sae-arch topk --sae-k 32"),
        ((("pre_bias", "false"),), "--sae-pre-bias false"),
        ((("diagnose", ""),), "--sae-diagnose"),
        ((("model", "gpt2"),), ""),
    ],
)
def test_a_suspicion_has_arguments_to_add(options: tuple[Setting, ...], text: str) -> None:
    assert spelled_options(Suspicion("k", "L0 is off", "this", options)) == text
