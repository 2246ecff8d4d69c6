"""Peak resident memory of one measurement, in a process of its own; Linux."""

from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from engine_setup import SaeGuard, Saelens, Shape, draw_tokens


def peak_rise(side: str, folder: Path, shape: Shape, windows: int, batch: int) -> int:
    """Bytes by which the peak exceeds what is resident after loading and a short forward pass.

    Args:
        side: SAELens, sae_guard or its reference path.
        folder: Where `write` saved the model and the SAE.
        shape: Of these.
        windows: How many are measured.
        batch: Windows per batch.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_peak_rise, side, folder, shape, windows, batch).result()


def _peak_rise(side: str, folder: Path, shape: Shape, windows: int, batch: int) -> int:
    runner: Saelens | SaeGuard
    if side == "SAELens":
        runner = Saelens.read(folder)
    else:
        runner = SaeGuard.read(folder, shape, reference="reference" in side)
    runner.model.logits(torch.tensor([[2, 3]]))
    tokens = draw_tokens(shape, windows)
    # `ru_maxrss` would hold the peak of loading the model too, which can hide that of measuring;
    # this sets the kernel's mark, VmHWM, back to what is resident now.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    resident = _status("VmRSS")
    runner.measure(tokens, batch)  # FLOPs are not counted here: their counter takes memory
    return _status("VmHWM") - resident


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    assert found is not None
    return 1024 * int(found[1])
