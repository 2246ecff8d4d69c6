"""How many windows go through the model at once: what is efficient, and what fits the memory.

The estimate is of a clean run with eager attention and of what the engine keeps beside it. It is a
little high for every architecture rather than right for one; a batch that does not fit in spite of
it is halved where memory is a GPU's, but where it is a CPU's the process would be killed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil
import torch

from sae_guard.model import LanguageModel

# Tokens, of the fast path: what a CPU's cache holds, and what fills an accelerator.
_TOKENS = {"cpu": 2**12}
_TOKENS_ELSEWHERE = 2**15
# Elements of one logits tensor of the plain path: 256 MB in float32 on an accelerator; on a CPU
# what is larger than its cache takes three times as long.
_LOGITS = {"cpu": 2**23}
_LOGITS_ELSEWHERE = 2**26

_LOGITS_ALIVE = 8
"""Logits tensors of the plain path that are alive at once, in float32."""
_CHUNKS = 2**29
"""Bytes of what the engine computes in chunks, whatever the batch: latents, logits."""
_SHARE = 0.5
"""Of the free memory: the rest is for other processes and for what lies between allocations."""

_CGROUPS, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def windows(model: LanguageModel, context: int, *, plain: bool) -> int:
    """Windows per forward pass, at least 1.

    Args:
        model: On the devices whose memory is asked for.
        context: Tokens per window.
        plain: Whether every logit exists at once, as on the plain path.
    """
    # Before the memory is looked at: the first run makes what the model keeps from run to run.
    model.logits(torch.zeros(1, 2, dtype=torch.int64))
    limit = efficient(model.device.type, context, model.vocabulary_size, plain=plain)
    free = free_bytes(_devices(model))
    if free is None:
        return limit
    return min(limit, fitting(free, bytes_per_window(model, context, plain=plain)))


def efficient(kind: str, context: int, vocabulary: int, *, plain: bool) -> int:
    """Windows beyond which nothing is gained, at least 1, on a device of this type."""
    if plain:
        return max(1, _LOGITS.get(kind, _LOGITS_ELSEWHERE) // (context * vocabulary))
    # Two at least: whether windows share their ablations is seen in two of one batch.
    return max(2, _TOKENS.get(kind, _TOKENS_ELSEWHERE) // context)


def fitting(free: int, per_window: int) -> int:
    """Windows that fit into ``free`` bytes, at least 1."""
    return max(1, int(free * _SHARE - _CHUNKS) // per_window)


def bytes_per_window(model: LanguageModel, context: int, *, plain: bool) -> int:
    """What a window needs at most while its batch is measured, weights aside.

    The factors are peaks of clean runs of GPT-2, Pythia, Llama and Gemma 2 on the bridge, each with
    one width made large; that they peak at different moments is not made use of.
    """
    cfg = model.bridge.cfg
    size = cfg.dtype.itemsize
    experts = getattr(cfg, "experts_per_token", None) or 1
    per_token = (
        12 * size * cfg.d_model
        + 8 * 4 * cfg.d_model  # activations, reconstructions and final states in float32
        + 8 * size * cfg.n_heads * cfg.d_head
        + 4 * size * (cfg.d_mlp or 4 * cfg.d_model) * experts
        # Scores, and their softmax in float32.
        + (6 + 2 * size + size * _kept_patterns(model)) * cfg.n_heads * context
    )
    if plain:
        per_token += _LOGITS_ALIVE * 4 * model.vocabulary_size
    return int(per_token * context)


def free_bytes(devices: Iterable[torch.device]) -> int | None:
    """Of the fullest of the devices; None where it is not known of any."""
    found = [free for device in devices if (free := _free(device)) is not None]
    return min(found, default=None)


def _kept_patterns(model: LanguageModel) -> int:
    """Blocks whose attention patterns the bridge keeps after a run, as it does for GPT-2."""
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
        # What torch has taken from the driver and not handed out is free as well.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return None


def _cgroup_limits() -> list[int]:
    """Free bytes of the process's control group and those around it, where they have limits."""
    try:
        entries = _OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return []
    own = [entry[3:].strip("/") for entry in entries if entry.startswith("0::")]
    folders = [_CGROUPS, *(_CGROUPS / name for name in own)]
    around = {parent for folder in folders for parent in (folder, *folder.parents)}
    found = [
        _cgroup_free(folder)
        for folder in around
        if folder == _CGROUPS or _CGROUPS in folder.parents
    ]
    return [free for free in found if free is not None]


def _cgroup_free(folder: Path) -> int | None:
    try:
        limit = (folder / "memory.max").read_text(encoding="utf-8").strip()
        used = int((folder / "memory.current").read_text(encoding="utf-8"))
        stat = (folder / "memory.stat").read_text(encoding="utf-8").split()
    except OSError:  # the group has none, or is not to be seen from inside a container
        return None
    if limit == "max":
        return None
    # Files that were read count as used, and give way to what needs the memory.
    counts = dict(zip(stat[::2], stat[1::2], strict=False))
    return int(limit) - used + int(counts.get("inactive_file", 0))
