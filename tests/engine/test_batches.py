"""Batches hold every window once, and end at the borders of shards."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.engine import batches as batches_module
from sae_guard.engine.batches import batches, halve_on_oom, shard_size, with_progress_bar
from sae_guard.errors import InfrastructureError

COUNTS = st.integers(1, 60)


@given(start=st.integers(0, 40), n=st.integers(0, 200), size=COUNTS, shard=COUNTS)
def test_batches_hold_every_window_once_and_respect_shards(
    start: int, n: int, size: int, shard: int
) -> None:
    start -= start % shard if size >= shard else 0
    parts = batches(start, start + n, size, shard)
    assert [row for rows in parts for row in range(rows.start, rows.stop)] == [
        *range(start, start + n)
    ]
    for rows in parts:
        assert 1 <= rows.stop - rows.start <= size
        if size < shard:
            assert rows.start // shard == (rows.stop - 1) // shard
        else:
            assert rows.start % shard == 0


def test_shard_size_depends_on_the_window_length_only() -> None:
    assert [shard_size(context) for context in (2, 128, 1024, 10_000)] == [2048, 32, 4, 1]


@given(n=st.integers(1, 50), fits=st.integers(1, 50))
def test_batches_are_halved_until_they_fit(n: int, fits: int) -> None:
    ran = []

    def run(rows: slice) -> None:
        if rows.stop - rows.start > fits:
            raise torch.OutOfMemoryError
        ran.append(rows)

    halve_on_oom(run, slice(3, 3 + n))
    assert [row for rows in ran for row in range(rows.start, rows.stop)] == [*range(3, 3 + n)]


def test_a_single_window_that_does_not_fit_is_an_error() -> None:
    def run(rows: slice) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(InfrastructureError, match="out of memory with a single window: CUDA"):
        halve_on_oom(run, slice(0, 4))


def test_no_bar_and_no_lock_is_created_without_progress() -> None:
    rows = [slice(0, 2), slice(2, 3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches_module, "tqdm", None)
        assert list(with_progress_bar(rows, "hook", None)) == rows
