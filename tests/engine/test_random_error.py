"""Random errors: their length, their directions, and the metrics that compare with them."""

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
from sae_guard.engine.random_error import unit_directions, with_random_error
from sae_guard.engine.sae_run import SaeRun
from sae_guard.errors import UndefinedMetricError
from sae_guard.model import LanguageModel
from sae_guard.sae.controls import identity_sae
from tests.helpers.small_measurements import MLP, RESIDUAL, assert_same, likely_corpus, make_sae

COLUMN = "kl_random_error"
WINDOWS, POSITIONS, WIDTH = 64, 32, 24
NUMBERED = Corpus(torch.arange(WINDOWS * POSITIONS).view(WINDOWS, POSITIONS))


@pytest.fixture(scope="module")
def corpus(model_folders: dict[str, Path]) -> Corpus:
    return likely_corpus(model_folders["gpt2"])


def test_random_error_is_as_long_as_that_of_the_sae() -> None:
    generator = torch.Generator().manual_seed(0)
    y, y_hat = (torch.randn(4, POSITIONS, WIDTH, generator=generator) * 9 for _ in range(2))
    y_hat[2, 3] = y[2, 3]
    replacement = with_random_error(y.double(), y_hat.double(), NUMBERED, range(4))
    expected = (y.double() - y_hat.double()).norm(dim=-1)
    torch.testing.assert_close((replacement - y).norm(dim=-1), expected, rtol=1e-6, atol=0)
    assert torch.equal(replacement[2, 3], y[2, 3].double())
    lengths = unit_directions(NUMBERED, range(4), WIDTH).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones(4, POSITIONS), rtol=1e-6, atol=0)


def test_directions_depend_on_the_corpus_and_the_index_of_the_window_only() -> None:
    one_batch = unit_directions(NUMBERED, range(8), WIDTH)
    batches = (range(3), range(3, 4), range(4, 8))
    parts = [unit_directions(NUMBERED, rows, WIDTH) for rows in batches]
    assert torch.equal(one_batch, torch.cat(parts))
    same = Corpus(NUMBERED.tokens.clone(), description={"prepend_bos": False})
    assert torch.equal(one_batch, unit_directions(same, range(8), WIDTH))
    other = unit_directions(Corpus(NUMBERED.tokens + 1), range(8), WIDTH)
    flat = torch.cat([one_batch, other]).flatten(0, 1)
    cosines = (flat @ flat.T).fill_diagonal_(0)
    assert cosines.abs().max() < 0.99  # no two tokens have the same, nor opposite ones


def test_directions_are_uniform_on_the_sphere() -> None:
    """Mean 0 and covariance I/d within Monte-Carlo error, fourth moment 3/(d(d + 2))."""
    u = unit_directions(NUMBERED, range(WINDOWS), WIDTH).flatten(0, 1).double()
    n, d = u.shape
    # n·d·‖mean‖² is χ² with d degrees of freedom.
    assert abs(n * float(u.mean(dim=0).square().sum()) - 1) < 5 * (2 / d) ** 0.5
    covariance = u.T @ u / n
    assert (covariance - torch.eye(d) / d).abs().max() < 6 * (2 / n) ** 0.5 / d
    assert float(u.pow(4).mean()) == pytest.approx(3 / (d * (d + 2)), rel=0.05)


@pytest.mark.parametrize("hook", [RESIDUAL, MLP])
def test_random_error_column_is_the_same_for_any_batch_size_and_cache(
    gpt2: LanguageModel, corpus: Corpus, hook: str, tmp_path: Path
) -> None:
    one_batch = measure(gpt2, make_sae(), corpus, hook, random_error=True)
    without = measure(gpt2, make_sae(), corpus, hook, cache=Cache(tmp_path))
    assert one_batch.sums.keys() - without.sums.keys() == {COLUMN}
    for size, cache in ((1, None), (4, None), (5, Cache(tmp_path)), (None, Cache(tmp_path))):
        measurement = measure(
            gpt2, make_sae(), corpus, hook, random_error=True, batch_size=size, cache=cache
        )
        assert_same(measurement, one_batch)
        assert measurement.tokens is not None
        sums = measurement.tokens.sums(np.ones_like(measurement.tokens.scored))
        np.testing.assert_allclose(sums[COLUMN], measurement.sums[COLUMN], rtol=1e-5)
    assert measurement.provenance.paths["clean run"] == "measured before"
    assert_same(measure(gpt2, make_sae(), corpus, hook, cache=Cache(tmp_path)), without)


def test_fast_path_is_rejected_if_its_random_error_column_differs(
    gpt2: LanguageModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SaeRun.take

    def take(self: SaeRun, rows: slice, losses: Any) -> None:
        original(self, rows, {**losses, COLUMN: losses[COLUMN] + 0.1})

    monkeypatch.setattr(SaeRun, "take", take)
    measurement = measure(gpt2, make_sae(), corpus, RESIDUAL, random_error=True)
    assert measurement.provenance.paths["forward"] == "whole model"
    assert measurement.provenance.paths["because"].startswith(f"{COLUMN} differs")
    reference = measure(gpt2, make_sae(), corpus, RESIDUAL, random_error=True, reference=True)
    assert_same(measurement, reference)


def test_kl_vs_random_error_has_an_interval_slices_and_thresholds(
    gpt2: LanguageModel, corpus: Corpus
) -> None:
    measurement = measure(gpt2, make_sae(), corpus, RESIDUAL, random_error=True)
    ratio = measurement.estimate("kl_vs_random_error")
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low < ratio.value < ratio.high
    for bound, status in ((ratio.value, "pass"), (np.nextafter(ratio.value, 0), "fail")):
        assert (
            judge(measurement, Threshold("kl_vs_random_error", max=float(bound))).status == status
        )
    assert estimate(measurement, Target("kl_vs_random_error", WORST)).value > ratio.value
    parts = [Slice("position", 0, 9), Slice("position", 9)]
    values = [
        estimate(measurement, Target("kl_vs_random_error", slice=part)).value for part in parts
    ]
    assert min(values) < ratio.value < max(values)


def test_missing_random_error_column_is_a_setup_error(gpt2: LanguageModel, corpus: Corpus) -> None:
    measurement = measure(gpt2, make_sae(), corpus, RESIDUAL)
    message = r"kl_vs_random_error was not measured: .* ask for the controls, or, from Python"
    for slice in (None, Slice("position", 0, 9)):
        target = Target("kl_vs_random_error", slice=slice)
        with pytest.raises(UndefinedMetricError, match=message) as caught:
            estimate(measurement, target)
        assert caught.value.options == ("controls",)
        verdict = judge(measurement, Threshold(target, max=9.0))
        assert (verdict.status, verdict.cause) == ("error", "setup")
    assert judge(measurement, Threshold("kl", max=9.0)).status == "pass"


def test_ratio_is_undefined_for_an_sae_without_error(gpt2: LanguageModel, corpus: Corpus) -> None:
    measurement = measure(gpt2, identity_sae(32), corpus, RESIDUAL, random_error=True)
    assert not measurement.sums[COLUMN].any()
    with pytest.raises(UndefinedMetricError, match="denominator is 0, not above"):
        measurement["kl_vs_random_error"]


def test_non_finite_sae_is_a_load_error(gpt2: LanguageModel, corpus: Corpus) -> None:
    broken = dataclasses.replace(make_sae(), b_dec=torch.full((32,), torch.nan), b_pre=None)
    measurement = measure(gpt2, broken, corpus, RESIDUAL, random_error=True)
    verdict = judge(measurement, Threshold("kl_vs_random_error", max=9.0))
    assert (verdict.status, verdict.cause) == ("error", "load")
