"""Cases: what they measure, their null models and their keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sae_guard.core.metrics import METRICS
from sae_guard.gate.cases import CONTROLS, PERMUTED, RANDOM, Case
from sae_guard.gate.planning import plan
from tests.helpers.planned import READ, WRITTEN, candidate, spec, specs

RATIO = "kl_vs_random_error: {max: 2}"


def case_at(folder: Path, text: str, *, controls: bool = False) -> Case:
    """Return the case of a checkpoint at the spec with this text."""
    return plan(specs(folder, text), [candidate()], controls=controls).cases[0]


@pytest.mark.parametrize(
    ("thresholds", "controls", "expected"),
    [
        ("kl: {max: 0.1}", False, False),
        ("kl: {max: 0.1}", True, True),
        (RATIO, False, True),
        ("kl_random_error: {max: 2}", False, True),
        ("kl_vs_random_error: {worst_sequence: {max: 2}}", False, True),
        (f"kl: {{max: 0.1}}}}\nslices: [{{position: ..8, thresholds: {{{RATIO}}}}}]", False, True),
    ],
)
def test_the_random_error_is_measured_only_if_a_threshold_or_control_needs_it(
    tmp_path: Path, thresholds: str, controls: bool, expected: bool
) -> None:
    before = spec("a").partition("thresholds:")[0]
    close = "" if thresholds.endswith("]") else "}"
    text = f"{before}thresholds: {{{thresholds}{close}\n"
    case = case_at(tmp_path, text, controls=controls)
    assert case.random_error is expected
    without = case_at(tmp_path, spec("a"))
    assert (case.key == without.key) is not expected


@pytest.mark.parametrize(
    "threshold",
    ["kl_vs_random_error: {max_increase: 1%}", "pareto: {x: l0, y: kl_vs_random_error}"],
)
def test_the_first_version_measures_what_the_next_one_is_compared_with(
    tmp_path: Path, threshold: str
) -> None:
    before = spec("a").partition("thresholds:")[0]
    text = f"{before}thresholds: {{kl: {{max: 0.1}}, {threshold}}}\n"
    first, control, *_ = plan(
        specs(tmp_path, text), [candidate()], changes=False, controls=True
    ).cases
    assert first.pareto is None
    assert not any(threshold.change for threshold in first.thresholds)
    assert replace(first, compared=False).random_error
    assert not control.random_error
    assert not any(baseline.random_error for baseline in first.baselines)


def test_null_models_belong_to_a_checkpoint_and_are_optional(tmp_path: Path) -> None:
    assert case_at(tmp_path, spec("a")).baselines == ()
    case = case_at(tmp_path, spec("a"), controls=True)
    assert [baseline.control for baseline in case.baselines] == [PERMUTED, RANDOM]
    assert len({measured.key for measured in (case, *case.baselines)}) == 3
    for baseline in case.baselines:
        assert baseline.itself.key == case.key
        assert (baseline.checkpoint, baseline.hook) == (case.checkpoint, case.hook)
        assert not baseline.random_error
        assert not baseline.thresholds


def test_a_transcoder_has_no_random_directions(tmp_path: Path) -> None:
    case = case_at(tmp_path, spec("t", hook=f"{READ}\nhook_out: {WRITTEN}"), controls=True)
    assert [(b.control, b.hook, b.hook_out) for b in case.baselines] == [
        (PERMUTED, READ, WRITTEN),
    ]  # fmt: skip


def test_controls_have_no_null_models(tmp_path: Path) -> None:
    cases = plan(specs(tmp_path, spec("a")), [candidate()], controls=True).cases
    assert [control.control for control in cases[1:]] == list(CONTROLS)
    assert all(control.baselines == () and not control.random_error for control in cases[1:])


def test_every_threshold_of_a_control_can_fail() -> None:
    for thresholds in CONTROLS.values():
        assert thresholds
        for threshold in thresholds:
            low, high = METRICS[threshold.target.metric].range
            assert threshold.max is not None
            assert threshold.max < high
            assert threshold.min is None or threshold.min > low
