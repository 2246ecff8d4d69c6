"""What sae_guard's engine costs beside SAELens's evaluation, and whether both agree.

    make bench-engine
    python benchmarks/engine.py [flops|time|memory|agreement|growth|all] [--batch 32] [--rounds 3]

Both sides run the same random GPT-2 (small's shape), the same TopK SAE with 24,576 latents and the
same windows of 128 tokens (`engine_setup`). SAELens runs `get_downstream_reconstruction_metrics`
(KL, CE) and `get_sparsity_and_variance_metrics` with every metric on; its weight statistics, which
see no token, are left out. sae_guard starts cold: nothing of it was measured before.

- FLOPs are those that `torch.utils.flop_counter` sees: matrix products, not sums or gathers. What
  sae_guard does for each batch is the difference between three batches and two; the rest of two
  batches it does once. The floor is what no way of measuring avoids.
- Time is the wall clock of whole measurements, in turns on this machine; the ratio is the median
  of the ratios of the rounds.
- Memory is what the peak of resident memory rises by, over what is resident once the model and the
  SAE have been loaded and run on two tokens. Each figure is that of a process of its own. Linux.
- Agreement is with SAELens's own aggregates; beside them stands what the same logits give when
  everything after them is done in float64.
- Growth is of sae_guard alone, on a smaller model.

Everything printed is computed in the run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from engine_memory import peak_rise
from engine_setup import GPT2_SMALL, SMALL, SaeGuard, Saelens, Shape, draw_tokens, write
from torch.utils.flop_counter import FlopCounterMode

from sae_guard.metrics import tokens as formulas

SAME = {
    "kl": "kl_div_with_sae",
    "ce_clean": "ce_loss_without_sae",
    "ce_patched": "ce_loss_with_sae",
    "ce_zero": "ce_loss_with_ablation",
    "reconstruction_score": "ce_loss_score",
    "l0": "l0",
    "l1": "l1",
    "mse": "mse",
    "cosine": "cossim",
    "l2_ratio": "l2_ratio",
    "explained_variance": "explained_variance",
}
GIB = 2**30


def flops(folder: Path, args: argparse.Namespace) -> None:
    """FLOPs of one batch, beside a forward pass of the model and beside SAELens."""
    shape, batch = GPT2_SMALL, args.batch
    theirs, mine = Saelens.read(folder), SaeGuard.read(folder, shape)
    plain = SaeGuard(mine.model, mine.sae, shape.hook, reference=True)
    tokens = draw_tokens(shape, 3 * batch)
    first, two = tokens[:batch], tokens[: 2 * batch]
    forward = count(partial(theirs.model.logits, first))
    for_loss = count(partial(theirs.reconstruction, first, batch))
    for_sparsity = count(partial(theirs.sparsity, first, batch))
    saelens = for_loss + for_sparsity
    of_two = count(partial(mine.measure, two, batch))
    each = count(partial(mine.measure, tokens, batch)) - of_two
    parts = floor(shape, batch, forward)
    warm = sum(parts.values())
    rows = {
        "SAELens": saelens,
        "· KL and CE": for_loss,
        "· sparsity and variance": for_sparsity,
        "sae_guard, cold": each,
        "sae_guard, once per measurement": of_two - 2 * each,
        "sae_guard, reference path": count(partial(plain.measure, first, batch)),
        "floor, cold: and the clean run": warm + forward,
        "floor": warm,
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


def wall_clock(folder: Path, args: argparse.Namespace) -> None:
    """Seconds of whole measurements, in turns."""
    tokens = draw_tokens(GPT2_SMALL, args.batches * args.batch)
    sides = (Saelens.read(folder), SaeGuard.read(folder, GPT2_SMALL))
    for side in sides:
        side.measure(tokens[:1], 1)
    rounds = []
    for turn in range(args.rounds):
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        taken = {at: seconds(partial(sides[at].measure, tokens, args.batch)) for at in order}
        rounds.append((taken[0], taken[1]))
    theirs, mine = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratios = sorted(b / a for a, b in rounds)
    table(
        f"Seconds for {len(tokens)} windows in batches of {args.batch}, median of {args.rounds}",
        ("SAELens", "sae_guard", "ratio", "ratios from, to"),
        [
            (
                f"{theirs:.1f}",
                f"{mine:.1f}",
                f"{statistics.median(ratios):.3f}",
                f"{ratios[0]:.3f}, {ratios[-1]:.3f}",
            )
        ],
    )


def memory(folder: Path, args: argparse.Namespace) -> None:
    """What the peak of resident memory rises by, each side in a process of its own."""
    sides = ("SAELens", "sae_guard", "sae_guard, reference path")
    rises = [peak_rise(side, folder, GPT2_SMALL, args.batch, args.batch) for side in sides]
    table(
        f"Peak memory over the loaded model and SAE, {args.batch} × {GPT2_SMALL.context} tokens",
        ("", "GiB", "of SAELens"),
        [
            (side, f"{rise / GIB:.3f}", f"{rise / rises[0]:.3f}")
            for side, rise in zip(sides, rises, strict=True)
        ],
    )


def agreement(folder: Path, args: argparse.Namespace) -> None:
    """The metrics that both sides have, on the same tokens and positions."""
    tokens = draw_tokens(GPT2_SMALL, 8)
    theirs, mine = Saelens.read(folder), SaeGuard.read(folder, GPT2_SMALL)
    found, expected = mine.measure(tokens, 4), theirs.measure(tokens, 4)
    exact = in_float64(mine, tokens, 4)
    table(
        f"Agreement on {len(tokens)} windows",
        ("", "sae_guard", "SAELens", "difference", "float64"),
        [
            (
                name,
                f"{found[name]:.7f}",
                f"{expected[same]:.7f}",
                f"{found[name] - expected[same]:.1e}",
                f"{exact[name]:.7f}" if name in exact else "",
            )
            for name, same in SAME.items()
        ],
    )


def in_float64(side: SaeGuard, tokens: torch.Tensor, batch: int) -> dict[str, float]:
    """What the losses are when the model's own logits are taken further in float64."""
    totals = dict.fromkeys(("kl", "ce_clean", "ce_patched"), 0.0)
    for part in torch.split(tokens, batch):
        clean, x = side.model.logits_and_activation(part, side.hook)
        written = side.sae(x).reconstruction
        patched = side.model.logits_with(part, side.hook, written.to)
        for row, p, q in zip(part, clean, patched, strict=True):
            log_p, log_q = (logits[:-1].double().log_softmax(dim=-1) for logits in (p, q))
            totals["kl"] += float((log_p.exp() * (log_p - log_q)).sum())
            totals["ce_clean"] += float(formulas.cross_entropy(log_p, row[1:]).sum())
            totals["ce_patched"] += float(formulas.cross_entropy(log_q, row[1:]).sum())
    return {name: total / tokens[:, 1:].numel() for name, total in totals.items()}


def growth(folder: Path, args: argparse.Namespace) -> None:
    """FLOPs and memory of sae_guard as the corpus grows."""
    small, rows = folder / "small", []
    write(SMALL, small)
    side = SaeGuard.read(small, SMALL)
    for windows in (64, 128, 256, 512):
        spent = count(partial(side.measure, draw_tokens(SMALL, windows), args.batch))
        rise = peak_rise("sae_guard", small, SMALL, windows, args.batch)
        each = f"{spent / windows / 1e9:.4f}"
        rows.append((f"{windows}", f"{spent / 1e12:.4f}", each, f"{rise / GIB:.3f}"))
    table(
        f"Growth with the corpus: {SMALL.layers} layers, width {SMALL.width}, vocabulary "
        f"{SMALL.vocabulary:,}, batches of {args.batch}",
        ("windows", "TFLOP", "GFLOP per window", "peak memory, GiB"),
        rows,
    )


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


FIGURES = {
    "flops": flops,
    "time": wall_clock,
    "memory": memory,
    "agreement": agreement,
    "growth": growth,
}


def main() -> None:
    """Print the figures asked for."""
    parser = argparse.ArgumentParser(description="sae_guard's engine beside SAELens's evaluation")
    parser.add_argument("figure", nargs="?", choices=[*FIGURES, "all"], default="all")
    parser.add_argument("--batch", type=int, default=32, help="windows per batch")
    parser.add_argument("--batches", type=int, default=2, help="batches per timed measurement")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of timing")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(GPT2_SMALL, folder)
        for figure in FIGURES if args.figure == "all" else [args.figure]:
            FIGURES[figure](folder, args)


if __name__ == "__main__":
    main()
