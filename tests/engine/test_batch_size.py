"""The default batch size is no larger than fits into memory, nor than is efficient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedTokenizerFast

from sae_guard.engine import batch_size
from sae_guard.engine.batch_size import (
    bytes_per_window,
    default_batch_size,
    efficient_batch_size,
    fitting_batch_size,
    free_bytes,
)
from sae_guard.model import FINAL_HIDDEN, LanguageModel, load_model
from tests.helpers.tiny_models import VOCABULARY

GB = 2**30
CPU = torch.device("cpu")
SPECIAL: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
LAYERS, WIDTH, HEADS, CONTEXT = 4, 256, 4, 256


def build(architecture: str, context: int = CONTEXT) -> Any:
    usual = {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "max_position_embeddings": context, **SPECIAL,
    }  # fmt: skip
    torch.manual_seed(0)
    if architecture == "gpt2":
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=VOCABULARY, n_positions=context, n_embd=WIDTH, n_layer=LAYERS,
                n_head=HEADS, **SPECIAL,
            )
        )  # fmt: skip
    if architecture == "gemma2":
        config = transformers.Gemma2Config(**usual, head_dim=128, num_key_value_heads=2)
        return transformers.Gemma2ForCausalLM(config)
    name = {"llama": "Llama", "pythia": "GPTNeoX"}[architecture]
    config = getattr(transformers, f"{name}Config")(**usual)
    return getattr(transformers, f"{name}ForCausalLM")(config)


_weak_reference: Any = StorageWeakRef


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the peak number of bytes that the results of operations occupy at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive: dict[int, tuple[Any, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {id_of(tensor) for tensor in tensors((args, kwargs))}
        for tensor in tensors(result):
            if id_of(tensor) not in inputs:  # else it is an `out=` or was changed in place
                storage = tensor.untyped_storage()
                self._alive[id_of(tensor)] = _weak_reference(storage), storage.nbytes()
        self._alive = {
            key: (reference, size)
            for key, (reference, size) in self._alive.items()
            if not reference.expired()
        }
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def id_of(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def test_live_bytes_equal_a_sum_by_hand() -> None:
    with LiveBytes() as live:
        first = torch.zeros(1000)  # 4000 bytes
        second = first + 1  # 8000
        del first
        third = second.view(10, 100)[0] * 2  # 4400
        third.add_(1)
    assert live.peak == 8000
    assert third.shape == (100,)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "pythia", "gemma2"])
@pytest.mark.parametrize(("rows", "length"), [(2, CONTEXT), (16, 16)])
def test_a_clean_run_needs_no_more_than_is_estimated(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    architecture: str,
    dtype: str,
    rows: int,
    length: int,
) -> None:
    build(architecture).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(tmp_path, dtype=dtype)
    default_batch_size(model, length, plain=False)  # runs once, which allocates reused buffers
    tokens = torch.randint(VOCABULARY, (rows, length))
    with LiveBytes() as live:
        activations = model.activations(
            tokens, FINAL_HIDDEN, "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"
        )
    assert len(activations) == 3
    estimate = rows * bytes_per_window(model, length, plain=False)
    assert live.peak <= estimate < 4 * live.peak
    with LiveBytes() as live:
        logits = model.logits(tokens)
    assert live.peak <= rows * bytes_per_window(model, length, plain=True)
    assert logits.shape == (rows, length, VOCABULARY)


@given(
    kind=st.sampled_from(["cpu", "cuda", "mps"]),
    context=st.integers(3, 2**17),
    vocabulary=st.integers(2, 2**18),
)
def test_efficient_sizes_are_within_their_caps(kind: str, context: int, vocabulary: int) -> None:
    fast = efficient_batch_size(kind, context, vocabulary, plain=False)
    assert fast == 2 or fast * context <= (2**12 if kind == "cpu" else 2**15)
    plain = efficient_batch_size(kind, context, vocabulary, plain=True)
    assert plain >= 1
    assert plain == 1 or plain * context * vocabulary <= (2**23 if kind == "cpu" else 2**26)


@given(free=st.integers(-(2**40), 2**40), more=st.integers(0, 2**40), window=st.integers(1, 2**40))
def test_fitting_size_fits_and_grows_with_memory(free: int, more: int, window: int) -> None:
    size = fitting_batch_size(free, window)
    assert 1 <= size <= fitting_batch_size(free + more, window)
    assert size == 1 or size * window <= free / 2


@given(context=st.integers(3, 63), plain=st.booleans())
def test_a_longer_window_needs_more(gpt2: LanguageModel, context: int, plain: bool) -> None:
    shorter = bytes_per_window(gpt2, context, plain=plain)
    assert shorter < bytes_per_window(gpt2, context + 1, plain=plain)
    assert bytes_per_window(gpt2, context, plain=False) <= shorter


@pytest.mark.parametrize("plain", [False, True])
def test_batches_shrink_with_longer_windows_and_with_less_memory(
    gpt2: LanguageModel, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = (8, 16, 32, 64)
    sizes: dict[int, list[int]] = {}
    for free in (0, GB, GB + 2**24, GB + 2**27, 64 * GB):
        monkeypatch.setattr(batch_size, "_free", lambda device, free=free: free)
        sizes[free] = [default_batch_size(gpt2, context, plain=plain) for context in contexts]
        assert sizes[free] == sorted(sizes[free], reverse=True)
    for sizes_by_memory in zip(*sizes.values(), strict=True):
        assert list(sizes_by_memory) == sorted(sizes_by_memory)
    assert set(sizes[0]) == {1}
    assert sizes[64 * GB] == [
        efficient_batch_size("cpu", context, VOCABULARY, plain=plain) for context in contexts
    ]
    assert sizes[GB] != sizes[64 * GB]


def test_batch_size_is_the_efficient_one_where_free_memory_is_unknown(
    gpt2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_size, "_free", lambda device: None)
    assert default_batch_size(gpt2, 64, plain=False) == 64


def test_the_fullest_device_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = {"cuda:0": 7, "cuda:1": 5, "xpu:0": None}
    monkeypatch.setattr(batch_size, "_free", lambda device: memory[str(device)])
    assert free_bytes(map(torch.device, memory)) == 5
    assert free_bytes([torch.device("xpu:0")]) is None


def test_free_memory_of_the_cpu_is_within_that_of_the_machine() -> None:
    import psutil

    free = free_bytes([CPU])
    assert free is not None
    assert 0 < free <= psutil.virtual_memory().total


@pytest.fixture
def control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a tree of control groups; the process is in ``outer/inner``."""
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/elsewhere\n0::/outer/inner\n")
    monkeypatch.setattr(batch_size, "_CGROUPS", tmp_path)
    monkeypatch.setattr(batch_size, "_OWN_CGROUP", own)
    return tmp_path


def limit(group: Path, most: str, used: int, files: int) -> None:
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon {used - files}\ninactive_file {files}\nslab 3\n")


def test_limits_of_control_groups_reduce_free_memory(control_groups: Path) -> None:
    machine = free_bytes([CPU])
    assert machine is not None
    limit(control_groups / "outer", "1000000", 400000, 100000)
    limit(control_groups / "outer" / "inner", "max", 10**15, 0)
    assert free_bytes([CPU]) == 700000  # the file cache counts as free
    limit(control_groups / "outer" / "inner", "500000", 300000, 0)
    assert free_bytes([CPU]) == 200000
    limit(control_groups, "100", 200, 0)
    assert free_bytes([CPU]) == 0


def test_control_group_without_limit_leaves_the_memory_of_the_machine(control_groups: Path) -> None:
    limit(control_groups, "max", 10**15, 0)
    free = free_bytes([CPU])
    assert free is not None
    assert free > 2**20
    (control_groups / "cgroup").unlink()
    assert free_bytes([CPU])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_free_memory_of_a_gpu_is_within_its_total() -> None:
    device = torch.device("cuda:0")
    free = free_bytes([device])
    assert free is not None
    assert 0 < free <= torch.cuda.mem_get_info(device)[1]
