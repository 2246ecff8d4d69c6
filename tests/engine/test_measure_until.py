"""Measuring until enough was seen: the same rows as of the whole, in an order nobody chooses."""

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
from sae_guard.engine.ablation import Ablated, Centre
from sae_guard.engine.sae_run import SaeRun
from sae_guard.engine.sweep import shuffled
from sae_guard.errors import SetupError
from sae_guard.model import LanguageModel, load_model
from sae_guard.sae.activations import TopK
from tests.helpers.small_measurements import likely_corpus, make_sae

RESIDUAL, MLP = "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"
ABOUT_MEAN = ("ce_mean", "sq_deviation")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two windows: three of them."""
    monkeypatch.setattr(batches, "_SHARD_TOKENS", 48)
    monkeypatch.setattr(fast_path, "_SAVE_EVERY", 0)


@pytest.fixture(scope="module")
def corpus(model_folders: dict[str, Path]) -> Corpus:
    return likely_corpus(model_folders["gpt2"])


@pytest.fixture(scope="module")
def model(model_folders: dict[str, Path]) -> LanguageModel:
    return load_model(model_folders["gpt2"])


def enough_after(
    shards: int, seen: list[Measurement] | None = None
) -> Callable[[Measurement], bool]:
    """A look that has seen enough after so many shards."""
    seen = [] if seen is None else seen

    def look(measurement: Measurement) -> bool:
        seen.append(measurement)
        return len(seen) >= shards

    return look


def never(_: Measurement) -> bool:
    return False


def assert_rows_of(part: Measurement, whole: Measurement, *, but: tuple[str, ...] = ()) -> None:
    """Every column of the rows that ``part`` has, and of their tokens."""
    rows = part.sequences
    assert part.tokens is not None
    assert whole.tokens is not None
    for name in COLUMNS:
        if name in but:
            assert np.isnan(part.sums[name]).all(), name
        else:
            np.testing.assert_allclose(
                part.sums[name], whole.sums[name][rows], rtol=1e-5, atol=1e-4, err_msg=name
            )
    for name, values in part.tokens.columns.items():
        if name not in but:
            np.testing.assert_allclose(
                values, whole.tokens.columns[name][rows], rtol=1e-4, atol=1e-4, err_msg=name
            )


@pytest.mark.parametrize("reference", [False, True], ids=["fast", "reference"])
@pytest.mark.parametrize("hook", [RESIDUAL, MLP])
def test_the_rows_are_those_of_the_whole(
    model: LanguageModel, corpus: Corpus, hook: str, reference: bool
) -> None:
    sae = make_sae()
    whole = measure(model, sae, corpus, hook)
    seen: list[Measurement] = []
    part = measure_until(
        model,
        Intervention(sae, hook),
        corpus,
        enough_after(2, seen),
        centred=True,
        reference=reference,
    )
    assert [m.n_sequences for m in seen] == [2, 4]
    np.testing.assert_array_equal(part.sequences, seen[-1].sequences)
    first = [row for rows in shuffled(corpus, sae)[:2] for row in range(rows.start, rows.stop)]
    assert part.sequences.tolist() == sorted(first)
    assert_rows_of(part, whole)
    latents = torch.from_numpy(part.firings)
    assert 0 < int(latents.sum()) == round(part.sums["l0"].sum())
    assert not part.whole


def test_without_the_mean_its_columns_are_no_numbers(model: LanguageModel, corpus: Corpus) -> None:
    sae = make_sae()
    part = measure_until(model, Intervention(sae, RESIDUAL), corpus, enough_after(1), centred=False)
    assert_rows_of(part, measure(model, sae, corpus, RESIDUAL), but=ABOUT_MEAN)
    assert part.provenance.mean_sha256 == ""
    assert math.isfinite(part.estimate("kl", whole=False).value)


@pytest.mark.parametrize("reference", [False, True], ids=["fast", "reference"])
def test_who_never_sees_enough_gets_the_whole(
    model: LanguageModel, corpus: Corpus, reference: bool
) -> None:
    patch = Intervention(make_sae(), RESIDUAL)
    found = measure_until(model, patch, corpus, never, centred=False, reference=reference)
    whole = measure(model, patch.sae, corpus, RESIDUAL)
    assert found.whole
    assert_rows_of(found, whole)
    np.testing.assert_array_equal(found.firings, whole.firings)
    assert math.isfinite(found["explained_variance"])


def test_the_order_is_by_the_content_of_tokens_and_sae(corpus: Corpus) -> None:
    many = Corpus(corpus.tokens.repeat(10, 1), corpus.excluded)
    sae, other = make_sae(), replace(make_sae(), scale_out=2.0)
    order = shuffled(many, sae)
    starts = [rows.start for rows in order]
    assert sorted(starts) == list(range(0, len(many.tokens), 2))
    assert (
        shuffled(many, replace(make_sae(), source=replace(sae.source, path="elsewhere"))) == order
    )
    assert shuffled(many, other) != order
    assert shuffled(Corpus(many.tokens + 1), sae) != order
    assert starts != sorted(starts)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_looks_do_not_depend_on_the_batches(
    model: LanguageModel, corpus: Corpus, batch_size: int
) -> None:
    seen: list[Measurement] = []
    measure_until(
        model, Intervention(make_sae(), MLP), corpus, enough_after(2, seen), centred=True,
        batch_size=batch_size,
    )  # fmt: skip
    assert [m.n_sequences for m in seen] == [2, 4]
    whole = measure(model, make_sae(), corpus, MLP)
    for part in seen:
        assert_rows_of(part, whole)


@pytest.mark.parametrize("reference", [False, True], ids=["fast", "reference"])
def test_how_latents_spread_is_counted_by_sequence(
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
    """Windows that went through the suffix with an SAE."""
    finals, seen = SaeRun.finals, list[int]()

    def run(self: SaeRun, rows: slice, *others: object) -> object:
        seen.extend(range(rows.start, rows.stop))
        return finals(self, rows, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(SaeRun, "finals", run)
    return seen


def test_the_whole_run_goes_on_where_the_early_one_stopped(
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
    whole = measure(model, sae, corpus, RESIDUAL, cache=cache, batch_size=2)
    assert sorted(patched) == sorted({*range(len(corpus.tokens))} - {*part.sequences.tolist()})
    patched.clear()
    known = measure_until(
        model, Intervention(sae, RESIDUAL), corpus, enough_after(1), centred=True, cache=cache
    )
    assert known.whole
    assert not patched
    assert_rows_of(known, whole)


def test_a_run_of_other_rows_is_left_as_it_is(
    model: LanguageModel, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    patched: list[int],
) -> None:  # fmt: skip
    """A whole run that was stopped has rows that are not the first of the order."""
    cache, sae = Cache(tmp_path), make_sae()
    last = shuffled(corpus, sae)[-1]
    monkeypatch.setattr(sweep, "shuffled", lambda *_: [last])
    measure_until(
        model, Intervention(sae, RESIDUAL), corpus, enough_after(1), centred=False, cache=cache
    )
    monkeypatch.undo()
    monkeypatch.setattr(batches, "_SHARD_TOKENS", 48)
    part = measure_until(
        model, Intervention(sae, RESIDUAL), corpus, enough_after(1), centred=False, cache=cache
    )
    assert part.sequences.tolist() == [shuffled(corpus, sae)[0].start + at for at in (0, 1)]
    assert int(part.firings.sum()) == round(part.sums["l0"].sum())


def test_an_early_run_that_was_stopped_within_a_shard_goes_on(
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
def test_the_mean_is_that_of_the_whole_set(
    model: LanguageModel, corpus: Corpus, tmp_path: Path, cached: bool
) -> None:
    """It comes from runs of the blocks before the hook point only."""
    found: list[Centre] = []
    find_centre = Ablated.find_centre

    def spy(self: Ablated) -> None:
        find_centre(self)
        assert self.centre is not None
        found.append(self.centre)

    cache = Cache(tmp_path) if cached else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ablated, "find_centre", spy)
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
    for each in found:
        torch.testing.assert_close(each.mean, x.mean(dim=0), rtol=1e-6, atol=1e-7)
        expected = float((x - x.mean(dim=0)).square().sum())
        assert each.sq_deviation == pytest.approx(expected, rel=1e-6)
    assert part.whole_sq_deviation == found[-1].sq_deviation


def test_a_clean_loss_that_is_surely_wrong_ends_it(model: LanguageModel, corpus: Corpus) -> None:
    ask = {"centred": False, "expect_clean_ce": (0.0, 0.1)}
    with pytest.raises(SetupError, match="clean cross-entropy"):
        measure_until(model, Intervention(make_sae(), RESIDUAL), corpus, never, **ask)  # type: ignore[arg-type]
