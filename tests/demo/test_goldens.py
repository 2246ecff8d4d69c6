"""The demo's numbers do not change: on one machine, not in the last digit.

``demo_goldens.json`` holds the output of `pytest --sae v1 --sae v2 --sae v3 --sae-json` on the
demo. A change that is meant to change numbers writes the file again and says why::

    python -m tests.demo.test_goldens

Another processor, or another version of torch, rounds the model's float32 differently: its values
agree to a relative 1e-5, which is the default tolerance. ``GOLDEN_TOLERANCE=1e-12`` is for the
machine that wrote the file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sae_guard.demo import SAES

ROOT = Path(__file__).parents[2]
GOLDENS = Path(__file__).with_name("demo_goldens.json")
TOLERANCE = float(os.environ.get("GOLDEN_TOLERANCE", "1e-5"))

# Keys of the report that describe the run, its machine or lines of the spec, not the checkpoint.
_RUN_KEYS = {
    "provenance",
    "diagnosis",
    "controls",
    "pareto",
    "loosened",
    "file",
    "line",
    "message",
}


def measure_demo() -> dict[str, Any]:
    """Gate the three releases and return the JSON report without the parts about the machine."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        saes = [word for name in ("v1", "v2", "v3") for word in ("--sae", str(SAES / name))]
        command = [sys.executable, "-m", "pytest", "-q", *saes, "--sae-json", str(out)]
        command += ["--sae-cache", "off", "--sae-batch-size", "32", "--sae-device", "cpu"]
        command += ["-p", "no:cacheprovider"]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert out.exists(), process.stdout + process.stderr
        document = json.loads(out.read_text(encoding="utf-8"))
    sha256 = {case["provenance"]["corpus"]["sha256"] for case in document["cases"]}
    return {
        "exit_code": process.returncode,
        "verdict": document["verdict"],
        "cases": without_run_keys(document["cases"]),
        "tokens_sha256": sorted(sha256),
    }


def without_run_keys(value: Any) -> Any:
    """Return a JSON value without the keys that describe the run, at every depth."""
    if isinstance(value, list):
        return [without_run_keys(part) for part in value]
    if isinstance(value, dict):
        return {key: without_run_keys(part) for key, part in value.items() if key not in _RUN_KEYS}
    return value


def differences(golden: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield each place at which two JSON documents differ, with both values."""
    if isinstance(golden, dict) and isinstance(now, dict) and golden.keys() == now.keys():
        for key, value in golden.items():
            yield from differences(value, now[key], f"{where}.{key}")
    elif isinstance(golden, list) and isinstance(now, list) and len(golden) == len(now):
        for number, value in enumerate(golden):
            yield from differences(value, now[number], f"{where}[{number}]")
    elif isinstance(golden, float) and isinstance(now, float):
        if now != pytest.approx(golden, rel=TOLERANCE, abs=TOLERANCE):
            yield f"{where}: was {golden!r}, is {now!r}"
    elif golden != now or type(golden) is not type(now):
        yield f"{where}: was {golden!r}, is {now!r}"


def test_the_demo_has_its_golden_numbers() -> None:
    golden = json.loads(GOLDENS.read_text(encoding="utf-8"))
    assert list(differences(golden, measure_demo())) == []


def test_differences_are_reported_at_every_depth() -> None:
    golden = {"a": [1.0, {"b": "pass"}], "n": 3}
    assert list(differences(golden, {"a": [1.0, {"b": "pass"}], "n": 3})) == []
    for changed in (
        {"a": [1.0, {"b": "fail"}], "n": 3},
        {"a": [1.1, {"b": "pass"}], "n": 3},
        {"a": [1.0], "n": 3},
        {"a": [1.0, {"b": "pass"}], "n": 4},
        {"a": [None, {"b": "pass"}], "n": 3},
        {"a": [1.0, {"b": "pass"}]},
    ):
        assert len(list(differences(golden, changed))) == 1


if __name__ == "__main__":
    text = json.dumps(measure_demo(), indent=1, ensure_ascii=False)
    GOLDENS.write_text(text + "\n", encoding="utf-8")
