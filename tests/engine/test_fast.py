"""The fast path: what it shares, what it bounds, and that it gives way to the plain one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sae_guard.cache import Cache
from sae_guard.corpus import Corpus
from sae_guard.engine import Patch, Place, ablation, head, measure, measure_all
from sae_guard.engine.ablation import Ablated
from sae_guard.engine.clean_run import Base, Bases
from sae_guard.engine.fast import Run
from sae_guard.engine.memory import Memory
from sae_guard.engine.sweep import Sweep
from sae_guard.errors import InfrastructureError
from sae_guard.model import LanguageModel, Suffix, Unembedding
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
def test_equals_the_reference(gpt2: LanguageModel, corpus: Corpus, hook: str) -> None:
    mine = measure(gpt2, make_sae(), corpus, hook, random_error=True)
    reference = measure(gpt2, make_sae(), corpus, hook, random_error=True, reference=True)
    assert_same(mine, reference)
    first = 2 if hook.endswith("resid_post") else 1
    assert mine.provenance.paths["forward"] == f"from block {first} on"
    shared = "one row" if "resid" in hook else "each sequence"
    assert mine.provenance.paths["ablations"] == shared
    assert reference.provenance.paths == {"forward": "whole model", "because": "asked for"}


def test_what_follows_the_last_block_is_the_unembedding(
    gpt2: LanguageModel, corpus: Corpus
) -> None:
    hook = "blocks.2.hook_resid_post"
    mine = measure(gpt2, make_sae(), corpus, hook)
    assert_same(mine, measure(gpt2, make_sae(), corpus, hook, reference=True))
    assert mine.provenance.paths == {
        "forward": "from block 3 on", "ablations": "one row", "clean run": "run",
    }  # fmt: skip


def test_a_hook_in_no_block_takes_the_plain_path(gpt2: LanguageModel, corpus: Corpus) -> None:
    paths = measure(gpt2, make_sae(), corpus, "hook_embed").provenance.paths
    assert paths == {"forward": "whole model", "because": "the hook points are in no block"}


def test_what_differs_from_the_plain_path_gives_way_to_it(
    gpt2: LanguageModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reference = measure(gpt2, make_sae(), corpus, RESIDUAL, reference=True)
    right, cache = Unembedding.logits, Cache(tmp_path)
    monkeypatch.setattr(Unembedding, "logits", lambda self, final: right(self, final) * 1.01)
    for _ in range(2):  # what was given up is not remembered
        mine = measure(gpt2, make_sae(), corpus, RESIDUAL, cache=cache)
        assert_same(mine, reference)
        assert mine.provenance.paths["forward"] == "whole model"
        assert mine.provenance.paths["because"].startswith("kl ")


def test_of_several_only_what_differs_gives_way(
    gpt2: LanguageModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = Run.take, replace(make_sae(), scale_out=2.0)

    def take(self: Run, rows: slice, losses: Any) -> None:
        right(self, rows, losses)
        if self.sae is wrong:
            self.sums["l1"][rows] += 1

    monkeypatch.setattr(Run, "take", take)
    patches = [Patch(make_sae(), RESIDUAL), Patch(wrong, RESIDUAL), Patch(make_sae(), MLP)]
    found = measure_all(gpt2, patches, corpus, batch_size=2)
    for patch, measurement in zip(patches, found, strict=True):
        assert_same(measurement, measure(gpt2, patch.sae, corpus, patch.hook, reference=True))
    forward = [measurement.provenance.paths["forward"] for measurement in found]
    assert forward == ["from block 1 on", "whole model", "from block 1 on"]


@pytest.mark.parametrize(
    "hooks", [[RESIDUAL, RESIDUAL], [RESIDUAL, MLP, "blocks.2.hook_resid_post"]]
)
def test_several_are_measured_as_each_alone_by_one_clean_run(
    gpt2: LanguageModel, corpus: Corpus, hooks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = [Patch(replace(make_sae(), scale_out=i + 1.0), hook) for i, hook in enumerate(hooks)]
    alone = [measure(gpt2, patch.sae, corpus, patch.hook) for patch in patches]
    right, runs = Bases._run, []

    def run(self: Bases, rows: slice, *others: Any, **more: Any) -> Any:
        runs.append(rows)
        return right(self, rows, *others, **more)

    monkeypatch.setattr(Bases, "_run", run)
    for mine, theirs in zip(measure_all(gpt2, patches, corpus, batch_size=3), alone, strict=True):
        assert_same(mine, theirs)
        assert mine.provenance.hook == theirs.provenance.hook
    proofs = [slice(0, 2)] * len(hooks)
    assert sorted(map(str, runs)) == sorted(map(str, [slice(0, 3), slice(3, 6), *proofs]))


def test_a_model_whose_blocks_cannot_be_taken_out_takes_the_plain_path(
    gpt2: LanguageModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Suffix, *args: Any) -> Tensor:
        raise IndexError("tuple index out of range\nand more")

    monkeypatch.setattr(Suffix, "final_with", broken)
    mine = measure(gpt2, make_sae(), corpus, RESIDUAL)
    assert mine.provenance.paths["because"] == "IndexError: tuple index out of range"
    assert_same(mine, measure(gpt2, make_sae(), corpus, RESIDUAL, reference=True))


@pytest.mark.parametrize("hook", [RESIDUAL, MLP])
def test_ablations_do_not_depend_on_how_they_are_run(
    gpt2: LanguageModel, corpus: Corpus, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = measure(gpt2, make_sae(), corpus, hook, batch_size=4)
    monkeypatch.setattr(ablation, "_RESIDUAL", ("nothing",))
    alone = measure(gpt2, make_sae(), corpus, hook, batch_size=4)
    assert alone.provenance.paths["ablations"] == "each sequence"
    assert_same(shared, alone)
    monkeypatch.setattr(ablation, "_KEPT_BYTES", 0)  # the prefix runs again for μ
    assert_same(shared, measure(gpt2, make_sae(), corpus, hook, batch_size=4))


def test_a_batch_that_does_not_fit_is_halved(
    gpt2: LanguageModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(gpt2, make_sae(), corpus, MLP, batch_size=6)
    right, ran = Ablated.batch, []

    def limited(self: Ablated, rows: slice, base: Base) -> None:
        n = rows.stop - rows.start
        ran.append(n)  # at the last moment: what was done must not count twice
        if n > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        right(self, rows, base)

    monkeypatch.setattr(Ablated, "batch", limited)
    assert_same(measure(gpt2, make_sae(), corpus, MLP, batch_size=6), whole)
    assert ran == [6, 3, 1, 2, 3, 1, 2]

    def never(self: Sweep, rows: slice) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Sweep, "batch", never)
    with pytest.raises(InfrastructureError, match="out of memory with a single window"):
        measure(gpt2, make_sae(), corpus, MLP)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the largest tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, list | tuple) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize("warm", [False, True])
def test_logits_exist_in_chunks_only(
    gpt2: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, warm: bool
) -> None:
    tokens = torch.randint(1, 300, (12, 16), generator=torch.Generator().manual_seed(0))
    corpus = Corpus(tokens, frozenset({0}), {})
    monkeypatch.setattr(head, "_ELEMENTS", 64 * 300)
    suffix = Suffix.of(gpt2, RESIDUAL)
    assert suffix is not None
    run = Run(suffix, make_sae(), corpus, Place(RESIDUAL, RESIDUAL))
    memory = Memory.of(Cache(tmp_path) if warm else None, gpt2, corpus)
    sweep = Sweep(gpt2, [run], corpus, memory)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        sweep.batch(slice(0, 12))
        sweep.finish([slice(0, 12)])
    logits = 12 * 16 * 300
    assert largest.elements < logits / 2
