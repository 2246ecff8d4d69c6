"""Random errors: their length, their directions, and how what they do is measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_guard.cache import Cache
from sae_guard.core.targets import WORST, Slice, Target, estimate
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import judge
from sae_guard.corpus import Corpus
from sae_guard.engine import measure
from sae_guard.engine.random_error import directions, with_random_error
from sae_guard.engine.sae_run import SaeRun
from sae_guard.errors import UndefinedMetricError
from sae_guard.gate.measurement_file import load, save
from sae_guard.model import LanguageModel
from sae_guard.sae.controls import identity_sae
from tests.helpers.small_measurements import MLP, RESIDUAL, assert_same, likely_corpus, make_sae

COLUMN = "kl_random_error"
WINDOWS, POSITIONS, WIDTH = 64, 32, 24
NUMBERED = Corpus(torch.arange(WINDOWS * POSITIONS).view(WINDOWS, POSITIONS))


@pytest.fixture(scope="module")
def corpus(model_folders: dict[str, Path]) -> Corpus:
    return likely_corpus(model_folders["gpt2"])


def test_the_error_is_as_long_as_that_of_the_sae() -> None:
    generator = torch.Generator().manual_seed(0)
    y, y_hat = (torch.randn(4, POSITIONS, WIDTH, generator=generator) * 9 for _ in range(2))
    y_hat[2, 3] = y[2, 3]
    found = with_random_error(y.double(), y_hat.double(), NUMBERED, range(4))
    expected = (y.double() - y_hat.double()).norm(dim=-1)
    torch.testing.assert_close((found - y).norm(dim=-1), expected, rtol=1e-6, atol=0)
    assert torch.equal(found[2, 3], y[2, 3].double())
    lengths = directions(NUMBERED, range(4), WIDTH).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones(4, POSITIONS), rtol=1e-6, atol=0)


def test_the_directions_of_a_window_depend_on_the_corpus_and_its_place_alone() -> None:
    whole = directions(NUMBERED, range(8), WIDTH)
    parts = [directions(NUMBERED, rows, WIDTH) for rows in (range(3), range(3, 4), range(4, 8))]
    assert torch.equal(whole, torch.cat(parts))
    same = Corpus(NUMBERED.tokens.clone(), description={"prepend_bos": False})
    assert torch.equal(whole, directions(same, range(8), WIDTH))
    other = directions(Corpus(NUMBERED.tokens + 1), range(8), WIDTH)
    flat = torch.cat([whole, other]).flatten(0, 1)
    cosines = (flat @ flat.T).fill_diagonal_(0)
    assert cosines.abs().max() < 0.99  # no two tokens have the same, nor opposite ones


def test_directions_are_uniform_on_the_sphere() -> None:
    """Mean 0 and covariance I/d within Monte-Carlo error, fourth moment 3/(d(d + 2))."""
    u = directions(NUMBERED, range(WINDOWS), WIDTH).flatten(0, 1).double()
    n, d = u.shape
    # n·d·‖mean‖² is χ² with d degrees of freedom.
    assert abs(n * float(u.mean(dim=0).square().sum()) - 1) < 5 * (2 / d) ** 0.5
    covariance = u.T @ u / n
    assert (covariance - torch.eye(d) / d).abs().max() < 6 * (2 / n) ** 0.5 / d
    assert float(u.pow(4).mean()) == pytest.approx(3 / (d * (d + 2)), rel=0.05)


@pytest.mark.parametrize("hook", [RESIDUAL, MLP])
def test_batches_and_the_cache_change_nothing(
    gpt2: LanguageModel, corpus: Corpus, hook: str, tmp_path: Path
) -> None:
    whole = measure(gpt2, make_sae(), corpus, hook, random_error=True)
    without = measure(gpt2, make_sae(), corpus, hook, cache=Cache(tmp_path))
    assert whole.sums.keys() - without.sums.keys() == {COLUMN}
    for size, cache in ((1, None), (4, None), (5, Cache(tmp_path)), (None, Cache(tmp_path))):
        found = measure(
            gpt2, make_sae(), corpus, hook, random_error=True, batch_size=size, cache=cache
        )
        assert_same(found, whole)
        assert found.tokens is not None
        sums = found.tokens.sums(np.ones_like(found.tokens.scored))
        np.testing.assert_allclose(sums[COLUMN], found.sums[COLUMN], rtol=1e-5)
    assert found.provenance.paths["clean run"] == "measured before"
    assert_same(measure(gpt2, make_sae(), corpus, hook, cache=Cache(tmp_path)), without)


def test_the_proof_covers_it(
    gpt2: LanguageModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = SaeRun.take

    def take(self: SaeRun, rows: slice, losses: Any) -> None:
        right(self, rows, {**losses, COLUMN: losses[COLUMN] + 0.1})

    monkeypatch.setattr(SaeRun, "take", take)
    found = measure(gpt2, make_sae(), corpus, RESIDUAL, random_error=True)
    assert found.provenance.paths["forward"] == "whole model"
    assert found.provenance.paths["because"].startswith(f"{COLUMN} differs")
    reference = measure(gpt2, make_sae(), corpus, RESIDUAL, random_error=True, reference=True)
    assert_same(found, reference)


def test_it_can_be_bounded_sliced_and_has_an_interval(
    gpt2: LanguageModel, corpus: Corpus, tmp_path: Path
) -> None:
    save(measure(gpt2, make_sae(), corpus, RESIDUAL, random_error=True), tmp_path / "m.npz")
    found = load(tmp_path / "m.npz")
    seen = found.estimate("kl_vs_random_error")
    assert seen.low is not None
    assert seen.high is not None
    assert seen.low < seen.value < seen.high
    for bound, status in ((seen.value, "pass"), (np.nextafter(seen.value, 0), "fail")):
        assert judge(found, Threshold("kl_vs_random_error", max=float(bound))).status == status
    assert estimate(found, Target("kl_vs_random_error", WORST)).value > seen.value
    parts = [Slice("position", 0, 9), Slice("position", 9)]
    values = [estimate(found, Target("kl_vs_random_error", slice=part)).value for part in parts]
    assert min(values) < seen.value < max(values)


def test_what_nobody_asked_for_is_no_verdict_and_no_broken_checkpoint(
    gpt2: LanguageModel, corpus: Corpus
) -> None:
    found = measure(gpt2, make_sae(), corpus, RESIDUAL)
    message = r"kl_vs_random_error was not measured: .* ask for the controls, or, from Python"
    for slice in (None, Slice("position", 0, 9)):
        target = Target("kl_vs_random_error", slice=slice)
        with pytest.raises(UndefinedMetricError, match=message) as caught:
            estimate(found, target)
        assert caught.value.options == ("controls",)
        verdict = judge(found, Threshold(target, max=9.0))
        assert (verdict.status, verdict.cause) == ("error", "setup")
    assert judge(found, Threshold("kl", max=9.0)).status == "pass"


def test_beside_no_error_there_is_no_ratio(gpt2: LanguageModel, corpus: Corpus) -> None:
    found = measure(gpt2, identity_sae(32), corpus, RESIDUAL, random_error=True)
    assert not found.sums[COLUMN].any()
    with pytest.raises(UndefinedMetricError, match="denominator is 0, not above"):
        found["kl_vs_random_error"]


def test_an_sae_that_is_not_finite_is_at_fault_itself(gpt2: LanguageModel, corpus: Corpus) -> None:
    broken = dataclasses.replace(make_sae(), b_dec=torch.full((32,), torch.nan), b_pre=None)
    found = measure(gpt2, broken, corpus, RESIDUAL, random_error=True)
    verdict = judge(found, Threshold("kl_vs_random_error", max=9.0))
    assert (verdict.status, verdict.cause) == ("error", "load")
