"""What `sae-guard history` takes over many records.

    python benchmarks/history.py [RECORDS]

Measures the demo's v2, keeps its record as often as asked (default 10,000) under other names and
times, and runs the command in processes of its own. Prints the wall clock and the CPU time of the
fastest and the median of the runs. Exits with 1 where the fastest table takes 2 s or more.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import sae_guard
from sae_guard.checkpoints.reference import Checkpoint
from sae_guard.core.report import CaseReport
from sae_guard.core.verdicts import judge
from sae_guard.demo import MODEL, SAES
from sae_guard.gate.case_tests import measured, metric_values
from sae_guard.gate.cases import Case
from sae_guard.gate.recording import RunInfo, build
from sae_guard.history import History, Record
from sae_guard.specs import load_specs

RUNS, LIMIT = 5, 2.0
ROOT = Path(__file__).parents[1]


def a_record() -> tuple[Record, dict[str, bytes]]:
    """Of the demo's v2, with its files."""
    (spec,) = load_specs(ROOT / "thresholds" / "demo.yaml", display="thresholds/demo.yaml")
    corpus = spec.data.model_dump(exclude_none=True)
    with chdir(spec.file.parent):  # where the paths of its data start from
        measurement = sae_guard.measure(model=MODEL, sae=SAES / "v2", corpus=corpus, hook=spec.hook)
    case = Case(spec, "v2", Checkpoint(SAES / "v2"), spec.thresholds)
    report = CaseReport(
        case.ref,
        **measured(measurement),
        verdicts=tuple(judge(measurement, threshold) for threshold in case.thresholds),
        metrics=metric_values(measurement),
    )
    return build(case, measurement, report, RunInfo.collect("v2", ROOT))


def named(record: Record, n: int) -> Iterator[Record]:
    """The record under ``n`` names, a minute apart."""
    for number in range(n):
        yield record.model_copy(
            update={
                "name": f"v{number}",
                "created": record.created + timedelta(minutes=number),
            }
        )


def run(*arguments: str) -> tuple[float, float]:
    """Wall clock and CPU time of the command."""
    command = [sys.executable, "-c", "from sae_guard.cli import main; main()", *arguments]
    before = os.times()
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = os.times()
    used = after.children_user + after.children_system
    return wall, used - before.children_user - before.children_system


def main() -> int:
    """Write, read, print."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    record, files = a_record()
    with tempfile.TemporaryDirectory() as folder:
        history = History(folder)
        with patch("os.fsync"):  # waiting for the disk is not what is measured
            for each in named(record, n):
                history.add(each, files)
        size = len((Path(history.records()[0][0].path) / "record.json").read_bytes())
        print(f"{n:,} records of {size:,} bytes")  # noqa: T201
        slow = False
        for arguments in ([], ["--last", "20"], ["--metric", "kl", "--last", "100"]):
            times = [run("history", "--folder", folder, *arguments) for _ in range(RUNS)]
            walls, cpus = zip(*times, strict=True)
            shown = " ".join(["history", *arguments])
            print(  # noqa: T201
                f"{shown:32} wall {min(walls):.2f} s (median {statistics.median(walls):.2f}), "
                f"CPU {min(cpus):.2f} s (median {statistics.median(cpus):.2f})"
            )
            slow |= not arguments and min(walls) >= LIMIT
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
