"""Early stopping: the rows equal those of a complete measurement, in a pseudo-random order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_guard.cache import Cache
from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import COLUMNS
from sae_guard.corpus import Corpus
from sae_guard.engine import Intervention, batches, fast_path, measure, measure_until, sweep
from sae_guard.engine.ablation import Centre, HookPointColumns
from sae_guard.engine.sae_run import SaeRun
from sae_guard.engine.sweep import shuffled_shards
from sae_guard.errors import SetupError
from sae_guard.model import LanguageModel, load_model
from sae_guard.sae.activations import TopK
from tests.helpers.small_measurements import likely_corpus, make_sae

RESIDUAL, MLP = "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"
ABOUT_MEAN = ("ce_mean", "sq_deviation")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make shards of two windows, so that the corpus has three, and save after every batch."""
    monkeypatch.setattr(batches, "_SHARD_TOKENS", 48)
    monkeypatch.setattr(fast_path, "_SAVE_EVERY", 0)


@pytest.fixture(scope="module")
def corpus(model_folders: dict[str, Path]) -> Corpus:
    return likely_corpus(model_folders["gpt2"])


@pytest.fixture(scope="module")
def model(model_folders: dict[str, Path]) -> LanguageModel:
    return load_model(model_folders["gpt2"])


def enough_after(
    shards: int, calls: list[Measurement] | None = None
) -> Callable[[Measurement], bool]:
    """Return a stopping rule that stops after so many shards, and records its calls."""
    calls = [] if calls is None else calls

    def is_enough(measurement: Measurement) -> bool:
        calls.append(measurement)
        return len(calls) >= shards

    return is_enough


def never(_: Measurement) -> bool:
    return False


def assert_rows_of(part: Measurement, complete: Measurement, *, but: tuple[str, ...] = ()) -> None:
    """Compare all columns of the rows of ``part``; those in ``but`` must be NaN."""
    rows = part.sequences
    assert part.tokens is not None
    assert complete.tokens is not None
    for name in COLUMNS:
        if name in but:
            assert np.isnan(part.sums[name]).all(), name
        else:
            np.testing.assert_allclose(
                part.sums[name], complete.sums[name][rows], rtol=1e-5, atol=1e-4, err_msg=name
            )
    for name, values in part.tokens.columns.items():
        if name not in but:
            np.testing.assert_allclose(
                values, complete.tokens.columns[name][rows], rtol=1e-4, atol=1e-4, err_msg=name
            )


@pytest.mark.parametrize("reference", [False, True], ids=["fast", "reference"])
@pytest.mark.parametrize("hook", [RESIDUAL, MLP])
def test_rows_equal_those_of_the_complete_measurement(
    model: LanguageModel, corpus: Corpus, hook: str, reference: bool
) -> None:
    sae = make_sae()
    complete = measure(model, sae, corpus, hook)
    calls: list[Measurement] = []
    part = measure_until(
        model,
        Intervention(sae, hook),
        corpus,
        enough_after(2, calls),
        centred=True,
        reference=reference,
    )
    assert [m.n_sequences for m in calls] == [2, 4]
    np.testing.assert_array_equal(part.sequences, calls[-1].sequences)
    first_shards = shuffled_shards(corpus, sae)[:2]
    first_rows = [row for rows in first_shards for row in range(rows.start, rows.stop)]
    assert part.sequences.tolist() == sorted(first_rows)
    assert_rows_of(part, complete)
    latents = torch.from_numpy(part.firings)
    assert 0 < int(latents.sum()) == round(part.sums["l0"].sum())
    assert not part.whole


def test_columns_that_use_the_mean_are_nan_without_it(model: LanguageModel, corpus: Corpus) -> None:
    sae = make_sae()
    part = measure_until(model, Intervention(sae, RESIDUAL), corpus, enough_after(1), centred=False)
    assert_rows_of(part, measure(model, sae, corpus, RESIDUAL), but=ABOUT_MEAN)
    assert part.provenance.mean_sha256 == ""
    assert math.isfinite(part.estimate("kl", whole=False).value)


@pytest.mark.parametrize("reference", [False, True], ids=["fast", "reference"])
def test_measurement_is_complete_if_it_never_stops(
    model: LanguageModel, corpus: Corpus, reference: bool
) -> None:
    intervention = Intervention(make_sae(), RESIDUAL)
    measurement = measure_until(
        model, intervention, corpus, never, centred=False, reference=reference
    )
    complete = measure(model, intervention.sae, corpus, RESIDUAL)
    assert measurement.whole
    assert_rows_of(measurement, complete)
    np.testing.assert_array_equal(measurement.firings, complete.firings)
    assert math.isfinite(measurement["explained_variance"])


def test_order_depends_on_the_content_of_tokens_and_sae_only(corpus: Corpus) -> None:
    many = Corpus(corpus.tokens.repeat(10, 1), corpus.excluded)
    sae, other = make_sae(), replace(make_sae(), scale_out=2.0)
    order = shuffled_shards(many, sae)
    starts = [rows.start for rows in order]
    assert sorted(starts) == list(range(0, len(many.tokens), 2))
    same_content = replace(make_sae(), source=replace(sae.source, path="elsewhere"))
    assert shuffled_shards(many, same_content) == order
    assert shuffled_shards(many, other) != order
    assert shuffled_shards(Corpus(many.tokens + 1), sae) != order
    assert starts != sorted(starts)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_stopping_does_not_depend_on_the_batch_size(
    model: LanguageModel, corpus: Corpus, batch_size: int
) -> None:
    calls: list[Measurement] = []
    measure_until(
        model, Intervention(make_sae(), MLP), corpus, enough_after(2, calls), centred=True,
        batch_size=batch_size,
    )  # fmt: skip
    assert [m.n_sequences for m in calls] == [2, 4]
    complete = measure(model, make_sae(), corpus, MLP)
    for part in calls:
        assert_rows_of(part, complete)


@pytest.mark.parametrize("reference", [False, True], ids=["fast", "reference"])
def test_firing_spread_is_counted_by_sequence(
    model: LanguageModel, corpus: Corpus, reference: bool
) -> None:
    sae = replace(make_sae(), activation=TopK(3))
    part = measure_until(
        model, Intervention(sae, RESIDUAL), corpus, enough_after(2), centred=False, spread=True,
        reference=reference,
    )  # fmt: skip
    rows = torch.from_numpy(part.sequences)
    x = model.logits_and_activation(corpus.tokens[rows], RESIDUAL)[1]
    fired = (sae(x).latents != 0) & corpus.scored[rows][..., None]
    c, n = fired.sum(dim=1).double(), corpus.scored[rows].sum(dim=1).double()
    assert part.spread is not None
    np.testing.assert_array_equal(part.spread.square, (c**2).sum(dim=0))
    np.testing.assert_array_equal(part.spread.by_tokens, (c * n[:, None]).sum(dim=0))
    np.testing.assert_array_equal(part.firings, c.sum(dim=0).long())


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the windows that go through the suffix with an SAE."""
    finals, rows_run = SaeRun.finals, list[int]()

    def run(self: SaeRun, rows: slice, *arguments: object) -> object:
        rows_run.extend(range(rows.start, rows.stop))
        return finals(self, rows, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SaeRun, "finals", run)
    return rows_run


def test_complete_run_continues_where_the_early_one_stopped(
    model: LanguageModel, corpus: Corpus, tmp_path: Path, patched: list[int]
) -> None:
    cache, sae = Cache(tmp_path), make_sae()
    part = measure_until(
        model, Intervention(sae, RESIDUAL), corpus, enough_after(2), centred=True, cache=cache
    )
    again = measure_until(
        model, Intervention(sae, RESIDUAL), corpus, enough_after(2), centred=True, cache=cache
    )
    assert_rows_of(again, part if part.whole else measure(model, sae, corpus, RESIDUAL))
    assert sorted(patched[:4]) == part.sequences.tolist() == again.sequences.tolist()
    patched.clear()
    complete = measure(model, sae, corpus, RESIDUAL, cache=cache, batch_size=2)
    assert sorted(patched) == sorted({*range(len(corpus.tokens))} - {*part.sequences.tolist()})
    patched.clear()
    cached = measure_until(
        model, Intervention(sae, RESIDUAL), corpus, enough_after(1), centred=True, cache=cache
    )
    assert cached.whole
    assert not patched
    assert_rows_of(cached, complete)


def test_cached_run_of_other_rows_is_left_as_it_is(
    model: LanguageModel, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    patched: list[int],
) -> None:  # fmt: skip
    """An interrupted complete run has rows that are not the first of the early order."""
    cache, sae = Cache(tmp_path), make_sae()
    last = shuffled_shards(corpus, sae)[-1]
    monkeypatch.setattr(sweep, "shuffled_shards", lambda *_: [last])
    measure_until(
        model, Intervention(sae, RESIDUAL), corpus, enough_after(1), centred=False, cache=cache
    )
    monkeypatch.undo()
    monkeypatch.setattr(batches, "_SHARD_TOKENS", 48)
    part = measure_until(
        model, Intervention(sae, RESIDUAL), corpus, enough_after(1), centred=False, cache=cache
    )
    assert part.sequences.tolist() == [shuffled_shards(corpus, sae)[0].start + at for at in (0, 1)]
    assert int(part.firings.sum()) == round(part.sums["l0"].sum())


def test_early_run_interrupted_within_a_shard_continues(
    model: LanguageModel, corpus: Corpus, tmp_path: Path, patched: list[int]
) -> None:
    cache, sae, right = Cache(tmp_path), make_sae(), SaeRun.take

    def measured() -> Measurement:
        return measure_until(
            model, Intervention(sae, MLP), corpus, enough_after(2), centred=True, spread=True,
            cache=cache, batch_size=1,
        )  # fmt: skip

    def stopped(self: SaeRun, rows: slice, losses: dict[str, torch.Tensor]) -> None:
        if int(self.done.sum()) == 3:
            raise KeyboardInterrupt
        right(self, rows, losses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SaeRun, "take", stopped)
        with pytest.raises(KeyboardInterrupt):
            measured()
    first, last = patched[:3], patched[3]
    patched.clear()
    part = measured()
    assert patched == [last]
    assert part.sequences.tolist() == sorted([*first, last])
    assert_rows_of(part, measure(model, sae, corpus, MLP))
    assert int(part.firings.sum()) == round(part.sums["l0"].sum())
    assert part.spread is not None
    n = part.sums["n_tokens"]
    assert part.spread.by_tokens.sum() == pytest.approx(float((part.sums["l0"] * n).sum()))


@pytest.mark.parametrize("cached", [False, True])
def test_mean_is_that_of_the_complete_corpus(
    model: LanguageModel, corpus: Corpus, tmp_path: Path, cached: bool
) -> None:
    """μ comes from runs of the blocks up to the hook point."""
    centres: list[Centre] = []
    compute_centre = HookPointColumns.compute_centre

    def spy(self: HookPointColumns) -> None:
        compute_centre(self)
        assert self.centre is not None
        centres.append(self.centre)

    cache = Cache(tmp_path) if cached else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HookPointColumns, "compute_centre", spy)
        for _ in range(2):
            part = measure_until(
                model,
                Intervention(make_sae(), MLP),
                corpus,
                enough_after(1),
                centred=True,
                cache=cache,
            )
    x = model.logits_and_activation(corpus.tokens, MLP)[1].double()[corpus.scored]
    for centre in centres:
        torch.testing.assert_close(centre.mean, x.mean(dim=0), rtol=1e-6, atol=1e-7)
        expected = float((x - x.mean(dim=0)).square().sum())
        assert centre.sq_deviation == pytest.approx(expected, rel=1e-6)
    assert part.whole_sq_deviation == centres[-1].sq_deviation


def test_clean_loss_outside_the_limits_with_confidence_is_an_error(
    model: LanguageModel, corpus: Corpus
) -> None:
    ask = {"centred": False, "expect_clean_ce": (0.0, 0.1)}
    with pytest.raises(SetupError, match="clean cross-entropy"):
        measure_until(model, Intervention(make_sae(), RESIDUAL), corpus, never, **ask)  # type: ignore[arg-type]
