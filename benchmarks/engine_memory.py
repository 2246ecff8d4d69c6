"""Peak resident memory of one measurement, in a process of its own; Linux."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from engine_setup import SaeGuard, Saelens, Shape, another, draw_tokens

from sae_guard.cache import Cache


def peak_rise(
    side: str, folder: Path, shape: Shape, windows: int, batch: int, saes: int = 1
) -> int:
    """Bytes by which the peak exceeds what is resident after loading and a short forward pass.

    Args:
        side: SAELens, or sae_guard: cold, filling the cache, warm, or its reference path.
        folder: Where `write` saved the model and the SAE.
        shape: Of these.
        windows: How many are measured.
        batch: Windows per batch.
        saes: How many SAEs are measured in one sweep, by sae_guard.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_peak_rise, side, folder, shape, windows, batch, saes).result()


def _peak_rise(side: str, folder: Path, shape: Shape, windows: int, batch: int, saes: int) -> int:
    runner: Saelens | SaeGuard
    tokens = draw_tokens(shape, windows)
    if side == "SAELens":
        runner = Saelens.read(folder)
        runner.model.logits(torch.tensor([[2, 3]]))
        return _rise(partial(runner.measure, tokens, batch))
    runner = SaeGuard.read(folder, shape, reference="reference" in side)
    runner.model.logits(torch.tensor([[2, 3]]))
    if "filling" in side or "warm" in side:  # warm: what the process before this one has filled
        sae = another(runner.sae, 1 if "warm" in side else 0)
        runner = replace(runner, sae=sae, cache=Cache(folder / "cache"))
    if saes > 1:
        return _rise(partial(runner.measure_several, tokens, batch, saes))
    return _rise(partial(runner.measure, tokens, batch))


def _rise(run: Callable[[], object]) -> int:
    # `ru_maxrss` would hold the peak of loading the model too, which can hide that of measuring;
    # this sets the kernel's mark, VmHWM, back to what is resident now.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    resident = _status("VmRSS")
    run()  # FLOPs are not counted here: their counter takes memory
    return _status("VmHWM") - resident


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    assert found is not None
    return 1024 * int(found[1])
