"""Sizes are checked against the file before anything is allocated."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.size_attacks import FILES, PICKLES, write_all

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")

_CONTAINERS = ("zip", "old", "pkl", "pkl.gz")
_EXPECTED = {name: message for name, (message, _) in FILES.items()} | {
    f"{container}: {name}": message
    for name, (message, _) in PICKLES.items()
    for container in _CONTAINERS
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Run each attack in one process that may use 2 GiB more than it starts with."""
    folder = tmp_path_factory.mktemp("attacks")
    paths = {name: str(path) for name, path in write_all(folder).items()}
    (folder / "paths.json").write_text(json.dumps(paths))
    subprocess.run(
        [sys.executable, "-m", "tests.attacks.size_attacks", str(folder)],
        cwd=Path(__file__).parents[2],
        check=True,
        timeout=120,
    )
    results: dict[str, dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return results


@pytest.mark.parametrize("name", _EXPECTED)
def test_an_attack_is_a_load_error(name: str, results: dict[str, dict[str, Any]]) -> None:
    result = results[name]
    assert result["error"] == "LoadError", result
    assert re.search(_EXPECTED[name], result["message"]), result
    assert result["seconds"] < 10, result


def test_no_attack_takes_memory(results: dict[str, dict[str, Any]]) -> None:
    assert results.keys() == _EXPECTED.keys()
    assert {name: r["mib"] for name, r in results.items() if r["mib"] > 200} == {}
    assert sum(result["mib"] for result in results.values()) < 300


def test_the_attack_on_the_memo_is_a_real_one() -> None:
    code = (
        "import pickle, resource; limit = 4 * 2**30; "
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); "
        f"pickle.loads({PICKLES['a memo of 2^31'][1]!r})"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "MemoryError" in process.stderr
