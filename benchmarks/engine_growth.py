"""How the cost of sae_guard's engine grows with the corpus and with the number of SAEs.

    python benchmarks/engine_growth.py [--plot benchmarks/growth.png] [--batch 32]

FLOPs and peak memory of whole measurements on a small random GPT-2 (`engine_setup.SMALL`), counted
as in `engine.py`. FLOPs are to grow linearly, from what is done once; memory is that of a batch,
whatever the number of windows, and grows with the SAEs at most linearly. Here glibc gives back what
is freed at once, so that the peak is what is alive; left to itself it keeps heaps of varying size.
Exits 1 where FLOPs are off the straight line through the first and the last point by more than 2 %,
or memory is off its own: by more than 10 % between windows, or faster than the number of SAEs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from engine_memory import peak_rise
from engine_setup import SMALL, SaeGuard, draw_tokens, write
from engine_tools import GIB, count, table

WINDOWS = (64, 128, 256, 512)
SAES = (1, 2, 4, 8)


class Point(NamedTuple):
    """One measurement."""

    n: int
    flops: int
    memory: int


def by_windows(folder: Path, batch: int) -> list[Point]:
    """One SAE, more and more windows."""
    side = SaeGuard.read(folder, SMALL)
    return [
        Point(
            n,
            count(partial(side.measure, draw_tokens(SMALL, n), batch)),
            peak_rise("sae_guard, cold", folder, SMALL, n, batch),
        )
        for n in WINDOWS
    ]


def by_saes(folder: Path, batch: int) -> list[Point]:
    """128 windows, more and more SAEs in one sweep."""
    side, tokens = SaeGuard.read(folder, SMALL), draw_tokens(SMALL, 128)
    return [
        Point(
            n,
            count(partial(side.measure_several, tokens, batch, n)),
            peak_rise("sae_guard, cold", folder, SMALL, 128, batch, n),
        )
        for n in SAES
    ]


def off_the_line(points: Sequence[Point]) -> float:
    """Largest distance of FLOPs from the line through the first and the last, relative."""
    first, last = points[0], points[-1]
    slope = (last.flops - first.flops) / (last.n - first.n)
    return max(
        abs(point.flops / (first.flops + slope * (point.n - first.n)) - 1) for point in points
    )


def plot(series: dict[str, list[Point]], path: Path) -> None:
    """FLOPs and memory beside straight lines through the first and the last point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(8, 5.5), layout="constrained")
    for column, (name, points) in zip(axes.T, series.items(), strict=True):
        x = [point.n for point in points]
        for axis, unit, values in (
            (column[0], "TFLOP", [point.flops / 1e12 for point in points]),
            (column[1], "peak memory, GiB", [point.memory / GIB for point in points]),
        ):
            axis.plot([x[0], x[-1]], [values[0], values[-1]], color="0.7", linewidth=1)
            axis.plot(x, values, "o", color="tab:blue", markersize=5)
            axis.set_xticks(x)
            axis.set_ylim(bottom=0, top=1.15 * max(values))
            axis.set_ylabel(unit)
            axis.spines[["top", "right"]].set_visible(False)
        column[1].set_xlabel(name)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the tables, draw the plot."""
    parser = argparse.ArgumentParser(description="growth of the cost of sae_guard's engine")
    parser.add_argument("--plot", type=Path, help="where to draw it; needs matplotlib")
    parser.add_argument("--batch", type=int, default=32, help="windows per batch")
    args = parser.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)  # of the processes that measure memory
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(SMALL, folder)
        windows, saes = by_windows(folder, args.batch), by_saes(folder, args.batch)
    series = {"windows of 128 tokens": windows, "SAEs in one sweep over 128 windows": saes}
    used = [point.memory for point in windows]
    kept = max(used) <= 1.1 * min(used)
    kept &= saes[-1].memory / saes[0].memory <= saes[-1].n / saes[0].n
    for name, points in series.items():
        rows = [
            (
                f"{p.n}",
                f"{p.flops / 1e12:.4f}",
                f"{p.flops / p.n / 1e9:.2f}",
                f"{p.memory / GIB:.3f}",
            )
            for p in points
        ]
        table(f"Growth with {name}", ("", "TFLOP", "GFLOP each", "peak memory, GiB"), rows)
        kept &= off_the_line(points) <= 0.02
    if args.plot:
        plot(series, args.plot)
    sys.exit(not kept)


if __name__ == "__main__":
    main()
