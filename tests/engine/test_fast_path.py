"""The fast path gives the numbers of the plain path, within its bounds on memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sae_guard.cache import Cache
from sae_guard.corpus import Corpus
from sae_guard.engine import HookSite, head, measure
from sae_guard.engine.ablation import HookPointColumns
from sae_guard.engine.clean_run import CleanRun
from sae_guard.engine.fast_path import FastPath
from sae_guard.engine.memory import Memory
from sae_guard.engine.sae_run import SaeRun
from sae_guard.errors import InfrastructureError
from sae_guard.model import LanguageModel, Suffix
from tests.helpers.small_measurements import (
    HOOKS,
    MLP,
    RESIDUAL,
    assert_same,
    likely_corpus,
    make_sae,
)


@pytest.fixture(scope="module")
def corpus(model_folders: dict[str, Path]) -> Corpus:
    return likely_corpus(model_folders["gpt2"])


@pytest.mark.parametrize("hook", HOOKS)
def test_fast_path_equals_the_reference(gpt2: LanguageModel, corpus: Corpus, hook: str) -> None:
    fast = measure(gpt2, make_sae(), corpus, hook, random_error=True)
    reference = measure(gpt2, make_sae(), corpus, hook, random_error=True, reference=True)
    assert_same(fast, reference)
    first = 2 if hook.endswith("resid_post") else 1
    assert fast.provenance.paths["forward"] == f"from block {first} on"
    shared = "one row" if "resid" in hook else "each sequence"
    assert fast.provenance.paths["ablations"] == shared
    assert reference.provenance.paths == {"forward": "whole model", "because": "asked for"}


def test_last_residual_needs_the_unembedding_only(gpt2: LanguageModel, corpus: Corpus) -> None:
    hook = "blocks.2.hook_resid_post"
    fast = measure(gpt2, make_sae(), corpus, hook)
    assert_same(fast, measure(gpt2, make_sae(), corpus, hook, reference=True))
    assert fast.provenance.paths == {
        "forward": "from block 3 on", "ablations": "one row", "clean run": "run",
    }  # fmt: skip


def test_batch_that_runs_out_of_memory_is_halved(
    gpt2: LanguageModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = measure(gpt2, make_sae(), corpus, MLP, batch_size=6)
    original, sizes = HookPointColumns.batch, []

    def limited(self: HookPointColumns, rows: slice, clean_run: CleanRun) -> None:
        n = rows.stop - rows.start
        sizes.append(n)  # late in the batch: earlier steps must not count twice
        if n > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        original(self, rows, clean_run)

    monkeypatch.setattr(HookPointColumns, "batch", limited)
    assert_same(measure(gpt2, make_sae(), corpus, MLP, batch_size=6), expected)
    assert sizes == [6, 3, 1, 2, 3, 1, 2]

    def never(self: FastPath, rows: slice) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FastPath, "batch", never)
    with pytest.raises(InfrastructureError, match="out of memory with a single window"):
        measure(gpt2, make_sae(), corpus, MLP)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the size of the largest result of any operation."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, list | tuple) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize("warm", [False, True])
def test_logits_are_computed_in_chunks(
    gpt2: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, warm: bool
) -> None:
    tokens = torch.randint(1, 300, (12, 16), generator=torch.Generator().manual_seed(0))
    corpus = Corpus(tokens, frozenset({0}), {})
    monkeypatch.setattr(head, "_ELEMENTS", 64 * 300)
    suffix = Suffix.from_hooks(gpt2, RESIDUAL)
    assert suffix is not None
    run = SaeRun(suffix, make_sae(), corpus, HookSite(RESIDUAL, RESIDUAL))
    memory = Memory.from_cache(Cache(tmp_path) if warm else None, gpt2, corpus)
    path = FastPath(gpt2, [run], corpus, memory)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        path.batch(slice(0, 12))
        path.finish([slice(0, 12)])
    logits = 12 * 16 * 300
    assert largest.elements < logits / 2
