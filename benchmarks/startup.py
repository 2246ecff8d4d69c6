"""What the plugin costs a pytest run that has nothing to do with SAEs.

    make bench

Runs pytest on one empty test, with the plugin and without it, in turns on this machine, and prints
the medians and the median of the paired differences.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 25
WITH = ("-p", "sae_guard.pytest_plugin")
WITHOUT = ("-p", "empty_plugin")  # looking for a plugin by name has a price of its own
ENVIRONMENT = {
    **os.environ,
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTHONDONTWRITEBYTECODE": "",  # an installed package has its bytecode
}


def seconds(folder: Path, *args: str) -> float:
    """Wall clock of one pytest run, without the plugins of others, which would drown ours."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args]
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=ENVIRONMENT)
    return time.perf_counter() - start


def main() -> None:
    """Measure in turns and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_empty.py").write_text("def test_empty(): pass\n", encoding="utf-8")
        (folder / "empty_plugin.py").write_text("", encoding="utf-8")
        for args in (WITH, WITHOUT):
            seconds(folder, *args)  # fills the caches of the file system
        pairs = [(seconds(folder, *WITH), seconds(folder, *WITHOUT)) for _ in range(RUNS)]
    with_plugin, without = (statistics.median(column) for column in zip(*pairs, strict=True))
    extra = statistics.median(a - b for a, b in pairs)
    print(f"pytest on one empty test, median of {RUNS} runs in turns")  # noqa: T201
    print(f"  without sae_guard  {without * 1e3:7.1f} ms")  # noqa: T201
    print(f"  with sae_guard     {with_plugin * 1e3:7.1f} ms")  # noqa: T201
    print(f"  difference         {extra * 1e3:7.1f} ms (×{with_plugin / without:.3f})")  # noqa: T201


if __name__ == "__main__":
    main()
