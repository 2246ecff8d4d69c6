"""What sae_guard's engine costs beside SAELens's evaluation, and whether both agree.

    make bench-engine
    python benchmarks/engine.py [flops|time|memory|agreement|all] [--batch 32] [--rounds 5]

Both sides run the same random GPT-2 (small's shape), the same TopK SAE with 24,576 latents and the
same windows of 128 tokens (`engine_setup`). SAELens runs `get_downstream_reconstruction_metrics`
(KL, CE) and `get_sparsity_and_variance_metrics` with every metric on; its weight statistics, which
see no token, are left out. sae_guard runs cold (nothing of it was measured before, and nothing is
remembered), cold and filling its cache, and warm: another SAE's measurement has filled the cache.

- FLOPs are those that `torch.utils.flop_counter` sees: matrix products, not sums or gathers. What
  is done for each batch is the difference between three batches and two; the rest of two batches
  is done once for a measurement. The floor is what no way of measuring avoids.
- Time is the wall clock of whole measurements, in turns on this machine; the ratio is the median
  of the ratios of the rounds.
- Memory is what the peak of resident memory rises by, over what is resident once the model and the
  SAE have been loaded and run on two tokens. Each figure is that of a process of its own. Linux.
- Agreement is with SAELens's own aggregates; beside them stands what the same logits give when
  everything after them is done in float64.

Everything printed is computed in the run. A figure above its bound ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import engine_agreement
import torch
from engine_memory import peak_rise
from engine_setup import GPT2_SMALL, SaeGuard, Saelens, Shape, another, draw_tokens, write
from engine_tools import GIB, count, load, machine, seconds, table

from sae_guard.cache import Cache

BOUNDS = {
    "FLOPs per batch, cold ÷ SAELens": 0.45,
    "FLOPs per batch, cold and filling the cache ÷ SAELens": 0.52,
    "FLOPs per batch, warm ÷ SAELens": 0.18,
    "FLOPs per batch, warm ÷ floor": 1.05,
    "FLOPs per batch, each further SAE ÷ forward pass": 0.75,
    "wall clock, cold ÷ SAELens": 0.55,
    "wall clock, warm ÷ SAELens": 0.25,
    "peak memory, cold ÷ SAELens": 0.25,
    "peak memory, filling the cache ÷ SAELens": 0.25,
    "peak memory, warm ÷ SAELens": 0.25,
    "largest difference from SAELens, relative": 1e-5,
}
Figures = dict[str, float]
"""Name in `BOUNDS` → value."""


def flops(folder: Path, args: argparse.Namespace) -> Figures:
    """FLOPs of one batch, beside a forward pass of the model and beside SAELens."""
    shape, batch = GPT2_SMALL, args.batch
    theirs, mine = Saelens.read(folder), SaeGuard.read(folder, shape)
    plain = replace(mine, reference=True)
    three = draw_tokens(shape, 3 * batch)
    first, two = three[:batch], three[: 2 * batch]
    forward = count(partial(theirs.model.logits, first))
    for_loss = count(partial(theirs.reconstruction, first, batch))
    for_sparsity = count(partial(theirs.sparsity, first, batch))
    saelens = for_loss + for_sparsity

    def per_batch(run: Callable[[torch.Tensor], Any]) -> tuple[int, int]:
        of_three, of_two = count(partial(run, three)), count(partial(run, two))
        return of_three - of_two, 3 * of_two - 2 * of_three

    filling = replace(mine, cache=Cache(folder / "cache"))
    warm = replace(filling, sae=another(mine.sae, 1))
    cold_each, cold_once = per_batch(lambda tokens: mine.measure(tokens, batch))
    fill_each, fill_once = per_batch(lambda tokens: filling.measure(tokens, batch))
    warm_each, warm_once = per_batch(lambda tokens: warm.measure(tokens, batch))
    two_saes, _ = per_batch(lambda tokens: mine.measure_several(tokens, batch, 2))
    parts = floor(shape, batch, forward)
    least = sum(parts.values())
    rows = {
        "SAELens": saelens,
        "· KL and CE": for_loss,
        "· sparsity and variance": for_sparsity,
        "sae_guard, cold": cold_each,
        "· once per measurement": cold_once,
        "sae_guard, cold and filling the cache": fill_each,
        "· once per measurement, filling": fill_once,
        "sae_guard, warm": warm_each,
        "· once per measurement, warm": warm_once,
        "sae_guard, each further SAE": two_saes - cold_each,
        "sae_guard, reference path": count(partial(plain.measure, first, batch)),
        "floor, cold: and the clean run": least + forward,
        "floor": least,
        **{f"· {name}": value for name, value in parts.items()},
    }
    table(
        f"FLOPs per batch of {batch} × {shape.context} tokens",
        ("", "TFLOP", "forward passes", "of SAELens"),
        [
            (name, f"{n / 1e12:.3f}", f"{n / forward:.3f}", f"{n / saelens:.3f}")
            for name, n in rows.items()
        ],
    )
    return {
        "FLOPs per batch, cold ÷ SAELens": cold_each / saelens,
        "FLOPs per batch, cold and filling the cache ÷ SAELens": fill_each / saelens,
        "FLOPs per batch, warm ÷ SAELens": warm_each / saelens,
        "FLOPs per batch, warm ÷ floor": warm_each / least,
        "FLOPs per batch, each further SAE ÷ forward pass": (two_saes - cold_each) / forward,
    }


def floor(shape: Shape, batch: int, forward: int) -> dict[str, int]:
    """What a measurement takes once the clean run is known, in the units of `count`."""
    n_tokens, width = batch * shape.context, shape.width
    unembedding = 2 * n_tokens * width * shape.vocabulary
    block = (forward - unembedding) // shape.layers  # nothing else of GPT-2 multiplies matrices
    return {
        "SAE encode": 2 * n_tokens * width * shape.latents,
        "decode of the active latents": 2 * n_tokens * width * shape.k,
        f"blocks {shape.layer} to {shape.layers - 1}": block * (shape.layers - shape.layer),
        "one unembedding": unembedding,
    }


def wall_clock(folder: Path, args: argparse.Namespace) -> Figures:
    """Seconds of whole measurements, in turns; warm ones each of another SAE."""
    tokens = draw_tokens(GPT2_SMALL, args.batches * args.batch)
    theirs, mine = Saelens.read(folder), SaeGuard.read(folder, GPT2_SMALL)
    remembering = replace(mine, cache=Cache(folder / "cache"))
    for side in (theirs, mine):
        side.measure(tokens[:1], 1)
    remembering.measure(tokens, args.batch)
    taken: dict[str, list[float]] = {"SAELens": [], "sae_guard, cold": [], "sae_guard, warm": []}
    for turn in range(args.rounds):
        new = replace(remembering, sae=another(mine.sae, turn + 1))
        sides: tuple[Saelens | SaeGuard, ...] = (theirs, mine, new)
        runs = dict(zip(taken, sides, strict=True))
        for name in sorted(taken, reverse=turn % 2 == 1):
            taken[name].append(seconds(partial(runs[name].measure, tokens, args.batch)))
    ratios = {
        name: sorted(a / b for a, b in zip(own, taken["SAELens"], strict=True))
        for name, own in taken.items()
    }
    table(
        f"Seconds for {len(tokens)} windows in batches of {args.batch}, {args.rounds} rounds",
        ("", "median", "of SAELens, median", "from", "to"),
        [
            (
                name,
                f"{statistics.median(own):.1f}",
                f"{statistics.median(ratios[name]):.3f}",
                f"{ratios[name][0]:.3f}",
                f"{ratios[name][-1]:.3f}",
            )
            for name, own in taken.items()
        ],
    )
    return {
        f"wall clock, {kind} ÷ SAELens": statistics.median(ratios[f"sae_guard, {kind}"])
        for kind in ("cold", "warm")
    }


def memory(folder: Path, args: argparse.Namespace) -> Figures:
    """What the peak of resident memory rises by, each side in a process of its own."""
    sides = (
        "SAELens", "sae_guard, cold", "sae_guard, filling the cache", "sae_guard, warm",
        "sae_guard, reference path",
    )  # fmt: skip
    rises = {side: peak_rise(side, folder, GPT2_SMALL, args.batch, args.batch) for side in sides}
    table(
        f"Peak memory over the loaded model and SAE, {args.batch} × {GPT2_SMALL.context} tokens",
        ("", "GiB", "of SAELens"),
        [
            (side, f"{rise / GIB:.3f}", f"{rise / rises['SAELens']:.3f}")
            for side, rise in rises.items()
        ],
    )
    return {
        f"peak memory, {kind} ÷ SAELens": rises[f"sae_guard, {kind}"] / rises["SAELens"]
        for kind in ("cold", "filling the cache", "warm")
    }


def agreement(folder: Path, _: argparse.Namespace) -> Figures:
    """The metrics that both sides have, on the same tokens and positions."""
    return {"largest difference from SAELens, relative": engine_agreement.agreement(folder)}


FIGURES = {"flops": flops, "time": wall_clock, "memory": memory, "agreement": agreement}


def main() -> None:
    """Print the figures asked for, and hold them to their bounds."""
    parser = argparse.ArgumentParser(description="sae_guard's engine beside SAELens's evaluation")
    parser.add_argument("figure", nargs="?", choices=[*FIGURES, "all"], default="all")
    parser.add_argument("--batch", type=int, default=32, help="windows per batch")
    parser.add_argument("--batches", type=int, default=3, help="batches per timed measurement")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing")
    args = parser.parse_args()
    print(f"{machine()}; load {load()}\n", flush=True)  # noqa: T201
    found: Figures = {}
    for figure in FIGURES if args.figure == "all" else [args.figure]:
        with tempfile.TemporaryDirectory() as name:
            write(GPT2_SMALL, Path(name))
            found |= FIGURES[figure](Path(name), args)
    kept = {name: value <= BOUNDS[name] for name, value in found.items()}  # NaN is not
    rows = [
        (name, f"{value:.3g}", f"{BOUNDS[name]:g}", "yes" if kept[name] else "**no**")
        for name, value in found.items()
    ]
    table("Bounds", ("figure", "found", "at most", "kept"), rows)
    sys.exit(not all(kept.values()))


if __name__ == "__main__":
    main()
