"""Where gathering decoder rows stops being cheaper than multiplying by the whole decoder.

    python benchmarks/sparse_forward.py [d_sae [d_in [tokens]]]

Runs SAEs on the same tokens in both ways, in turns in one process, for several numbers of active
latents: a TopK SAE, and a JumpReLU SAE, whose activation function does not select the active
latents. Prints medians, their ratio, and the memory that each way takes besides weights and inputs,
from a process of its own. On CPUs the times are CPU time, which other processes disturb less.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from sae_guard.sae import SAE, SaeSource
from sae_guard.sae.activations import Activation, JumpReLU, TopK
from sae_guard.sae.sparse_forward import sparse_forward

RUNS = 3
ACTIVE = (16, 64, 256, 1024, 2048)
WAYS = {"dense": -1.0, "sparse": 1.0}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def prepared(active: int, d_sae: int, d_in: int, tokens: int) -> tuple[dict[str, SAE], Tensor]:
    """SAEs with that many active latents per token, and tokens."""
    torch.manual_seed(0)
    x = torch.randn(tokens, d_in)
    W_enc, W_dec = torch.randn(d_in, d_sae) / d_in**0.5, torch.randn(d_sae, d_in)
    cut = float((x[:64] @ W_enc).topk(active, dim=-1).values[:, -1].mean())
    threshold = torch.full((d_sae,), cut)
    activations: dict[str, Activation] = {"topk": TopK(active), "jumprelu": JumpReLU(threshold)}
    source = SaeSource("drawn", "drawn")
    saes = {
        name: SAE(W_enc, W_dec, torch.zeros(d_sae), torch.zeros(d_in), activation, source)
        for name, activation in activations.items()
    }
    return {name: sae.to(DEVICE) for name, sae in saes.items()}, x.to(DEVICE)


def seconds(sae: SAE, x: Tensor, gather_up_to: float) -> float:
    """Return the seconds of one forward pass of the SAE."""
    clock = time.perf_counter if DEVICE == "cuda" else time.process_time
    start = clock()
    sparse_forward(sae, x, gather_up_to=gather_up_to)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def peak(name: str, way: str, active: int, *size: int) -> float:
    """Return the MiB that one forward pass adds to the peak memory of a fresh process."""
    saes, x = prepared(active, *size)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        sparse_forward(saes[name], x, gather_up_to=WAYS[way])
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    sparse_forward(saes[name], x[:1])  # the libraries' own buffers
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew (Linux)
    resident = resident_peak()
    sparse_forward(saes[name], x, gather_up_to=WAYS[way])
    return resident_peak() - resident


def resident_peak() -> float:
    """Largest resident size of this process so far, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kib) / 2**10


def peak_of_its_own(*args: object) -> float:
    """`peak`, in a new process."""
    command = [sys.executable, __file__, "peak", *map(str, args)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(d_sae: int = 24_576, d_in: int = 768, tokens: int = 1024) -> None:
    """Measure in turns and print."""
    size = (d_sae, d_in, tokens)
    threads = torch.get_num_threads()
    print(f"{tokens} tokens, d_in {d_in}, d_sae {d_sae}, {DEVICE}, {threads} threads")  # noqa: T201
    print("            active   share   dense µs  sparse µs   ratio   dense  sparse MiB")  # noqa: T201
    for active in ACTIVE:
        saes, x = prepared(active, *size)
        for name, sae in saes.items():
            runs = [[seconds(sae, x, up_to) for up_to in WAYS.values()] for _ in range(RUNS + 1)]
            dense, sparse = (
                statistics.median(column) / tokens for column in zip(*runs[1:], strict=True)
            )
            memory = [peak_of_its_own(name, way, active, *size) for way in WAYS]
            print(  # noqa: T201
                f"  {name:9s} {active:6d} {active / d_sae:7.4f} {dense * 1e6:10.1f} "
                f"{sparse * 1e6:10.1f} {sparse / dense:7.2f} {memory[0]:7.0f} {memory[1]:7.0f}",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        _, _, name, way, *numbers = sys.argv
        print(peak(name, way, *map(int, numbers)))  # noqa: T201
    else:
        main(*map(int, sys.argv[1:]))
