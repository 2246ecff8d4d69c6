"""The cache of a model and a corpus: its keys, its use, and errors of the disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_guard.cache import Cache
from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import COLUMNS
from sae_guard.corpus import Corpus
from sae_guard.engine import HookSite, batches, fast_path, measure
from sae_guard.engine.clean_run import CleanRuns
from sae_guard.engine.memory import Memory, fingerprint, run_name
from sae_guard.engine.sae_run import SaeRun
from sae_guard.model import LanguageModel, load_model
from sae_guard.sae import SAE, SaeSource
from sae_guard.sae.activations import JumpReLU, TopK
from tests.helpers.small_measurements import likely_corpus, make_sae

RESIDUAL, MLP, LATE = "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.2.hook_attn_out"
OTHER = 2.0


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make shards of two windows, so that the corpus has three, and save after every batch."""
    monkeypatch.setattr(batches, "_SHARD_TOKENS", 48)
    monkeypatch.setattr(fast_path, "_SAVE_EVERY", 0)


@pytest.fixture(scope="module")
def corpus(model_folders: dict[str, Path]) -> Corpus:
    return likely_corpus(model_folders["gpt2"])


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[int, int]]]:
    """Record the windows of the clean runs and of the patched ones."""
    clean, patched = CleanRuns._run, SaeRun.finals
    rows_run: dict[str, list[tuple[int, int]]] = {"clean": [], "patched": []}

    def run(self: CleanRuns, rows: slice, *arguments: Any, **options: Any) -> Any:
        rows_run["clean"].append((rows.start, rows.stop))
        return clean(self, rows, *arguments, **options)

    def finals(self: SaeRun, rows: slice, *arguments: Any) -> Any:
        rows_run["patched"].append((rows.start, rows.stop))
        return patched(self, rows, *arguments)

    monkeypatch.setattr(CleanRuns, "_run", run)
    monkeypatch.setattr(SaeRun, "finals", finals)
    return rows_run


def other_sae() -> SAE:
    return replace(make_sae(), scale_out=OTHER)


def assert_same(mine: Measurement, theirs: Measurement) -> None:
    for column in COLUMNS:
        np.testing.assert_allclose(
            mine.sums[column], theirs.sums[column], rtol=1e-5, atol=1e-4, err_msg=column
        )
    np.testing.assert_array_equal(mine.firings, theirs.firings)


@pytest.mark.parametrize("hook", [RESIDUAL, MLP])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_measurements_that_fill_and_read_the_cache_are_equal(
    gpt2: LanguageModel, corpus: Corpus, cache: Cache, hook: str, size: int
) -> None:
    reference = measure(gpt2, make_sae(), corpus, hook, reference=True)
    filling = measure(gpt2, other_sae(), corpus, hook, cache=cache, batch_size=size)
    assert filling["l2_ratio"] == pytest.approx(reference["l2_ratio"] / OTHER)
    for batch_size in (size, None):
        warm = measure(gpt2, make_sae(), corpus, hook, cache=cache, batch_size=batch_size)
        assert_same(warm, reference)


def test_second_sae_reuses_the_clean_run(
    gpt2: LanguageModel, corpus: Corpus, cache: Cache, ran: dict[str, list[tuple[int, int]]]
) -> None:
    measure(gpt2, other_sae(), corpus, RESIDUAL, cache=cache)
    assert ran["clean"] == [(0, 2), (2, 4), (4, 6)]
    warm = measure(gpt2, make_sae(), corpus, RESIDUAL, cache=cache)
    assert len(ran["clean"]) == 3
    assert warm.provenance.paths["clean run"] == "remembered"


def test_cached_measurement_is_not_run_again(
    gpt2: LanguageModel, corpus: Corpus, cache: Cache, ran: dict[str, list[tuple[int, int]]]
) -> None:
    first = measure(gpt2, make_sae(), corpus, RESIDUAL, cache=cache)
    before = len(ran["patched"])
    elsewhere = replace(make_sae(), source=SaeSource("another/path", "test"))
    again = measure(gpt2, elsewhere, corpus, RESIDUAL, cache=cache)
    assert len(ran["patched"]) == before
    for column in COLUMNS:
        np.testing.assert_array_equal(again.sums[column], first.sums[column])
    assert again.provenance.checkpoint["path"] == "another/path"
    assert again.provenance.mean_sha256 == first.provenance.mean_sha256
    assert again.provenance.paths["clean run"] == "measured before"


def test_one_clean_run_serves_later_hook_points(
    gpt2: LanguageModel, corpus: Corpus, cache: Cache, ran: dict[str, list[tuple[int, int]]]
) -> None:
    later_hooks = [(MLP,), (LATE,), ("blocks.9.hook_resid_pre",), ("hook_embed",)]
    measure(gpt2, make_sae(), corpus, RESIDUAL, cache=cache, later_hooks=later_hooks)
    assert len(ran["clean"]) == 3
    for hook in (MLP, LATE):
        measurement = measure(gpt2, make_sae(), corpus, hook, cache=cache)
        assert_same(measurement, measure(gpt2, make_sae(), corpus, hook, reference=True))
    assert len(ran["clean"]) == 3


def test_interrupted_run_continues(
    gpt2: LanguageModel, corpus: Corpus, cache: Cache, ran: dict[str, list[tuple[int, int]]]
) -> None:
    right, reference = SaeRun.take, measure(gpt2, make_sae(), corpus, MLP)

    def stopped(self: SaeRun, rows: slice, *losses: Any) -> None:
        right(self, rows, *losses)
        if rows.start >= 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SaeRun, "take", stopped)
        with pytest.raises(KeyboardInterrupt):
            measure(gpt2, make_sae(), corpus, MLP, cache=cache, batch_size=2)
    ran["patched"].clear()
    # Windows that were done before are not run again.
    assert_same(measure(gpt2, make_sae(), corpus, MLP, cache=cache, batch_size=2), reference)
    assert ran["patched"] == [(2, 4), (4, 6)]


def test_windows_are_counted_once_if_a_run_continues_in_other_batches(
    gpt2: LanguageModel, corpus: Corpus, cache: Cache
) -> None:
    reference, right = measure(gpt2, make_sae(), corpus, MLP), SaeRun.take

    def stopped(self: SaeRun, rows: slice, *losses: Any) -> None:
        if rows.start >= 2:
            raise KeyboardInterrupt
        right(self, rows, *losses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SaeRun, "take", stopped)
        with pytest.raises(KeyboardInterrupt):
            measure(gpt2, make_sae(), corpus, MLP, cache=cache, batch_size=1)
    continued = measure(gpt2, make_sae(), corpus, MLP, cache=cache, batch_size=6)
    assert_same(continued, reference)


@pytest.mark.parametrize("hook", [RESIDUAL, MLP])
def test_every_damaged_file_is_computed_again(
    gpt2: LanguageModel, corpus: Corpus, cache: Cache, hook: str
) -> None:
    first = measure(gpt2, make_sae(), corpus, hook, cache=cache)
    files = sorted(cache.root.rglob("*.safetensors"))
    kinds = {path.relative_to(cache.root).parts[3] for path in files}
    assert kinds == {"clean", "at", "runs"}
    for path in files:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 16
        path.write_bytes(content)
        shutil.rmtree(next(cache.root.rglob("runs")), ignore_errors=True)
        for sums in cache.root.rglob("sums.safetensors"):
            if sums != path:
                sums.unlink()
        assert_same(measure(gpt2, make_sae(), corpus, hook, cache=cache), first)


def test_cache_key_depends_on_the_content_of_model_and_corpus(
    model_folders: dict[str, Path], corpus: Corpus, cache: Cache, tmp_path: Path
) -> None:
    def key(model: LanguageModel, windows: Corpus = corpus) -> str:
        entry = Memory.from_cache(cache, model, windows).entry
        assert entry is not None
        return entry.key

    folder = model_folders["gpt2"]
    copy = shutil.copytree(folder, tmp_path / "copy")
    mine = key(load_model(folder))
    assert key(load_model(copy)) == mine
    changed = load_model(folder)
    with torch.no_grad():
        changed.bridge.original_model.transformer.h[2].mlp.c_fc.weight[0, 0] += 1e-3
    other_keys = [
        key(changed),
        key(load_model(folder, processing="hooked")),
        key(load_model(folder, dtype="bfloat16")),
        key(load_model(model_folders["llama"])),
        key(load_model(folder), Corpus(corpus.tokens[:-1], corpus.excluded)),
        key(load_model(folder), Corpus(corpus.tokens, frozenset({0}))),
    ]
    assert len({mine, *other_keys}) == 1 + len(other_keys)


CHANGES: list[Callable[[SAE], SAE]] = [
    lambda sae: replace(sae, W_enc=sae.W_enc * 2),
    lambda sae: replace(sae, b_dec=sae.b_dec + 1e-3),
    lambda sae: replace(sae, b_pre=None),
    lambda sae: replace(sae, normalize="layer_norm"),
    lambda sae: replace(sae, scale_in=2.0),
    lambda sae: replace(sae, rescale_by_decoder_norm="latents"),
    lambda sae: replace(sae, latent_scale=torch.ones(sae.d_sae)),
    lambda sae: replace(sae, activation=JumpReLU(sae.b_enc.abs() + 1)),
    lambda sae: replace(sae, activation=JumpReLU(sae.b_enc.abs() + 1, inclusive=True)),
    lambda sae: replace(sae, activation=TopK(3)),
    lambda sae: replace(sae, activation=TopK(4)),
]


def test_run_name_depends_on_the_sae_and_its_hook_points() -> None:
    at = HookSite(RESIDUAL, RESIDUAL)
    names = [run_name(change(make_sae()), at) for change in CHANGES]
    names += [run_name(make_sae(), at), run_name(make_sae(), HookSite(MLP, MLP))]
    names += [run_name(make_sae(), HookSite(RESIDUAL, MLP))]
    names += [run_name(make_sae(), at, random_error=True)]
    assert len(set(names)) == len(names)
    elsewhere = replace(make_sae(), source=SaeSource("another/path", "other"))
    assert run_name(elsewhere, at) == run_name(make_sae(), at)


def test_fingerprint_depends_on_names_shapes_dtypes_and_bits() -> None:
    a = torch.arange(6, dtype=torch.float32)
    different = [
        {"a": a}, {"b": a}, {"a": a.view(2, 3)}, {"a": a.view(3, 2)}, {"a": a.view(torch.int32)},
        {"a": a.view(2, 3).T}, {"a": -a}, {"a": a, "b": a}, {},
    ]  # fmt: skip
    assert len({fingerprint(tensors) for tensors in different}) == len(different)
    assert fingerprint({"a": a.view(2, 3).T}) == fingerprint({"a": a.view(2, 3).T.contiguous()})


def troubled(tmp_path: Path) -> Iterator[tuple[Cache, str]]:
    file = tmp_path / "file"
    file.write_text("no folder")
    yield Cache(file), "file"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    yield Cache(foreign), "is not a cache"
    yield Cache(tmp_path / "small", limit=2**12), "GiB are more than it may hold"


def test_cache_errors_are_reported_and_do_not_stop_the_measurement(
    gpt2: LanguageModel, corpus: Corpus, tmp_path: Path
) -> None:
    reference = measure(gpt2, make_sae(), corpus, RESIDUAL)
    for cache, why in troubled(tmp_path):
        for _ in range(2):
            measurement = measure(gpt2, other_sae(), corpus, RESIDUAL, cache=cache)
            path = measurement.provenance.paths["clean run"]
            if path == "measured before":  # what is small fits
                assert cache.limit < 2**13
                continue
            assert path.startswith("run, and not remembered: ")
            assert why in path
        assert_same(measure(gpt2, make_sae(), corpus, RESIDUAL, cache=cache), reference)


def test_disk_that_fills_up_does_not_stop_the_measurement(
    gpt2: LanguageModel, corpus: Corpus, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, renames_left = measure(gpt2, make_sae(), corpus, MLP), [4]
    import os

    right = os.replace

    def limited(source: Any, target: Any) -> None:
        renames_left[0] -= 1
        if renames_left[0] < 0:
            raise OSError(28, "No space left on device")
        right(source, target)

    monkeypatch.setattr(os, "replace", limited)
    measurement = measure(gpt2, make_sae(), corpus, MLP, cache=cache)
    assert_same(measurement, reference)
    assert "No space left on device" in measurement.provenance.paths["clean run"]
