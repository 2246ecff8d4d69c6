"""The demo's numbers stay what they are, to the last digit on one machine.

``demo_goldens.json`` holds what `pytest --sae v1 --sae v2 --sae v3 --sae-json` wrote of the demo. A
change that means to move numbers writes it anew and says why::

    python -m tests.demo.test_goldens

Another processor, or another version of torch, rounds the model's float32 differently: there the
values agree to 1e-5 of what they are, and are compared so by default. ``GOLDEN_TOLERANCE=1e-12``
compares them on the machine that wrote them.
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

# What the report says of the run and its machine, and of the spec's lines, not of the checkpoint.
_OF_THE_RUN = {
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
    """Gate the three releases and return what the run wrote, without what is the machine's."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        saes = [word for name in ("v1", "v2", "v3") for word in ("--sae", str(SAES / name))]
        command = [sys.executable, "-m", "pytest", "-q", *saes, "--sae-json", str(out)]
        command += ["--sae-cache", "off", "--sae-batch-size", "32", "--sae-device", "cpu"]
        command += ["-p", "no:cacheprovider"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert out.exists(), done.stdout + done.stderr
        document = json.loads(out.read_text(encoding="utf-8"))
    sha256 = {case["provenance"]["corpus"]["sha256"] for case in document["cases"]}
    return {
        "exit_code": done.returncode,
        "verdict": document["verdict"],
        "cases": without_run(document["cases"]),
        "tokens_sha256": sorted(sha256),
    }


def without_run(value: Any) -> Any:
    """Leave out, however deep, what is the run's."""
    if isinstance(value, list):
        return [without_run(part) for part in value]
    if isinstance(value, dict):
        return {key: without_run(part) for key, part in value.items() if key not in _OF_THE_RUN}
    return value


def differences(golden: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield each place at which a document is not what it was."""
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


def test_the_demo_has_the_numbers_it_had() -> None:
    golden = json.loads(GOLDENS.read_text(encoding="utf-8"))
    assert list(differences(golden, measure_demo())) == []


def test_a_difference_is_found_wherever_it_is() -> None:
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
