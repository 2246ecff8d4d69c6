"""Choose how many windows go through the model at once, by efficiency and by free memory.

The memory estimate covers a clean run with eager attention and the tensors that the engine holds
during it. It is a little high for all architectures rather than exact for one. If a batch is still
too large, a GPU raises an error and the batch is halved, but on a CPU the process would be killed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil
import torch

from sae_guard.model import LanguageModel

# Tokens of a batch on the fast path: a CPU's cache holds 2**12, and 2**15 keep an accelerator busy.
_TOKENS = {"cpu": 2**12}
_DEFAULT_TOKENS = 2**15
# Elements of one logits tensor on the plain path: 256 MB in float32 on an accelerator. On a CPU a
# tensor that is larger than the cache takes three times as long.
_LOGITS = {"cpu": 2**23}
_DEFAULT_LOGITS = 2**26

_LOGITS_ALIVE = 8
"""Number of float32 logits tensors that exist at once on the plain path."""
_CHUNK_BYTES = 2**29
"""Bytes of latents and logits, which are computed in chunks that do not depend on the batch."""
_FREE_SHARE = 0.5
"""Share of the free memory that a batch may use; other processes and fragmentation need the rest.
"""

_CGROUPS, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def default_batch_size(model: LanguageModel, context: int, *, plain: bool) -> int:
    """Return the number of windows per forward pass, at least 1.

    Args:
        model: Model on the devices whose free memory counts.
        context: Tokens per window.
        plain: True if all logits of a batch exist at once, as on the plain path.
    """
    # The first run allocates buffers that the model reuses, so it comes before free memory is read.
    model.logits(torch.zeros(1, 2, dtype=torch.int64))
    limit = efficient_batch_size(model.device.type, context, model.vocabulary_size, plain=plain)
    free = free_bytes(_devices(model))
    if free is None:
        return limit
    return min(limit, fitting_batch_size(free, bytes_per_window(model, context, plain=plain)))


def efficient_batch_size(device_type: str, context: int, vocabulary: int, *, plain: bool) -> int:
    """Return the number of windows, at least 1, beyond which a batch is no faster per window.

    Args:
        device_type: ``torch.device.type``, such as ``cpu``.
        context: Tokens per window.
        vocabulary: Number of tokens in the vocabulary.
        plain: As in `default_batch_size`.
    """
    if plain:
        return max(1, _LOGITS.get(device_type, _DEFAULT_LOGITS) // (context * vocabulary))
    # At least two: comparing two windows of a batch shows whether windows share their ablations.
    return max(2, _TOKENS.get(device_type, _DEFAULT_TOKENS) // context)


def fitting_batch_size(free: int, per_window: int) -> int:
    """Return the number of windows that fit into ``free`` bytes, at least 1."""
    return max(1, int(free * _FREE_SHARE - _CHUNK_BYTES) // per_window)


def bytes_per_window(model: LanguageModel, context: int, *, plain: bool) -> int:
    """Return an upper bound of the bytes that one window of a batch needs, besides the weights.

    The factors were measured: peaks of clean runs of GPT-2, Pythia, Llama and Gemma 2 on the
    TransformerLens bridge, with one width at a time made large. Their sum is an upper bound, since
    the peaks occur at different moments.

    Args:
        model: Language model.
        context: Tokens per window.
        plain: As in `default_batch_size`.
    """
    cfg = model.bridge.cfg
    size = cfg.dtype.itemsize
    experts = getattr(cfg, "experts_per_token", None) or 1
    per_token = (
        12 * size * cfg.d_model
        + 8 * 4 * cfg.d_model  # activations, reconstructions and final states in float32
        + 8 * size * cfg.n_heads * cfg.d_head
        + 4 * size * (cfg.d_mlp or 4 * cfg.d_model) * experts
        # Attention scores, their softmax in float32, and patterns that the bridge stores.
        + (6 + 2 * size + size * _stored_patterns(model)) * cfg.n_heads * context
    )
    if plain:
        per_token += _LOGITS_ALIVE * 4 * model.vocabulary_size
    return int(per_token * context)


def free_bytes(devices: Iterable[torch.device]) -> int | None:
    """Return the free bytes of the device that has least; None if unknown for all devices."""
    known_sizes = [free for device in devices if (free := _free(device)) is not None]
    return min(known_sizes, default=None)


def _stored_patterns(model: LanguageModel) -> int:
    """Count blocks whose attention pattern the bridge stores after a run, as it does for GPT-2."""
    attentions = [getattr(block, "attn", None) for block in getattr(model.bridge, "blocks", ())]
    return sum(getattr(attention, "_pattern", None) is not None for attention in attentions)


def _devices(model: LanguageModel) -> set[torch.device]:
    own = {parameter.device for parameter in model.bridge.original_model.parameters()}
    return {device for device in own if device.type != "meta"} | {model.device}


def _free(device: torch.device) -> int | None:
    if device.type == "cpu":
        return max(0, min([int(psutil.virtual_memory().available), *_cgroup_limits()]))
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Memory that torch has reserved but not allocated to a tensor is free as well.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    if device.type == "mps":
        # The driver's number includes what torch caches, so that this is rather low.
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return None


def _cgroup_limits() -> list[int]:
    """List the free bytes of the process's control group and its parents that have a limit."""
    try:
        entries = _OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []
    # Without its leading slash: `_CGROUPS / "/name"` would be "/name".
    own = [entry[3:].strip("/") for entry in entries if entry.startswith("0::")]  # cgroup v2
    # The root too: in a container with its own namespace it is the container's group.
    folders = [_CGROUPS, *(_CGROUPS / name for name in own)]
    # The limit of a group holds for all groups below it.
    ancestors = {parent for folder in folders for parent in (folder, *folder.parents)}
    limits = [
        _cgroup_free(folder)
        for folder in ancestors
        if folder == _CGROUPS or _CGROUPS in folder.parents
    ]
    return [free for free in limits if free is not None]


def _cgroup_free(folder: Path) -> int | None:
    try:
        limit = (folder / "memory.max").read_text(encoding="utf-8").strip()
        used = int((folder / "memory.current").read_text(encoding="utf-8"))
        stat = (folder / "memory.stat").read_text(encoding="utf-8").split()
    except OSError:  # no limit is set, or a container hides the group
        return None
    if limit == "max":
        return None
    # The file cache counts as used, but the kernel frees it when a process needs the memory.
    counts = dict(zip(stat[::2], stat[1::2], strict=False))
    return int(limit) - used + int(counts.get("inactive_file", 0))
