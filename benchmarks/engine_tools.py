"""What the engine's benchmarks share: the machine in words, counting, timing and tables."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

GIB = 2**30
_PACKAGES = ("torch", "transformer-lens", "sae-lens")


def machine() -> str:
    """The processor, how much of it is used, and what runs on it."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    processor = found[1] if found else platform.processor() or platform.machine()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return (
        f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch; "
        f"Python {platform.python_version()}, {versions}"
    )


def load() -> str:
    """How many processes wanted to run in the last minute: more than ours disturb its times."""
    return f"{os.getloadavg()[0]:.1f}"


def count(run: Callable[[], Any]) -> int:
    """FLOPs that a call takes."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def seconds(run: Callable[[], Any]) -> float:
    """Wall clock that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    print(f"### {title}\n\n{body}\n", flush=True)  # noqa: T201
