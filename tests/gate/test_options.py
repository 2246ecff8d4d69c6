"""The options of a run, and which of them turn on early verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sae_guard.gate.early import alpha_for
from sae_guard.gate.options import ALPHA, DEVICE, EarlyOptions, GateOptions
from tests.helpers.planned import plan_of, spec

SPEC = plan_of(spec("a")).cases[0].spec


@pytest.mark.parametrize(
    ("options", "alpha"),
    [
        (EarlyOptions(), None),
        (EarlyOptions(fast=True), ALPHA),
        (EarlyOptions(audit=True), ALPHA),
        (EarlyOptions(max_seconds=1.5), ALPHA),
        (EarlyOptions(max_sequences=8), ALPHA),
        (EarlyOptions(alpha=0.02), 0.02),
        (EarlyOptions(fast=True, alpha=0.02), 0.02),
        (EarlyOptions(never=True), None),
        (EarlyOptions(never=True, fast=True, alpha=0.02), None),
    ],
)
def test_any_option_of_early_verdicts_turns_them_on(
    options: EarlyOptions, alpha: float | None
) -> None:
    assert alpha_for(options, SPEC) == alpha


@pytest.mark.parametrize(
    ("options", "alpha"),
    [
        (EarlyOptions(), 0.01),
        (EarlyOptions(fast=True), 0.01),
        (EarlyOptions(alpha=0.02), 0.02),
        (EarlyOptions(never=True), None),
    ],
)
def test_a_spec_can_turn_on_early_verdicts(options: EarlyOptions, alpha: float | None) -> None:
    assert alpha_for(options, replace(SPEC, fast=True, alpha=0.01)) == alpha


def test_an_alpha_in_the_spec_alone_does_not_turn_them_on() -> None:
    assert alpha_for(EarlyOptions(), replace(SPEC, alpha=0.01)) is None
    assert alpha_for(EarlyOptions(fast=True), replace(SPEC, alpha=0.01)) == 0.01


def test_checkpoints_or_specs_ask_for_a_gate() -> None:
    nothing = GateOptions(Path(), Path())
    assert not nothing.gates
    assert replace(nothing, checkpoints=("v1",)).gates
    assert replace(nothing, specs=("demo",)).gates
    assert not replace(nothing, record="v1", controls=True).gates


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12"])
def test_devices_match_the_pattern(device: str) -> None:
    assert DEVICE.fullmatch(device)


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:x", "cpu:0", "CPU", ""])
def test_other_words_do_not_match_the_pattern_of_devices(device: str) -> None:
    assert not DEVICE.fullmatch(device)
