"""The cache key: a change in any module that a number depends on makes another key."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sae_guard.engine.code_hash import PACKAGE, code_hash, sources

MEASURING = """
import json, sys
import torch
from sae_guard.corpus import Corpus
from sae_guard.engine import measure
from sae_guard.model import load_model
from sae_guard.sae.activations import TopK
from sae_guard.sae import SAE, SaeSource

HOOK = "blocks.1.hook_resid_pre"
model, corpus = load_model(sys.argv[1]), Corpus(torch.randint(1, 300, (3, 8)))
weights = torch.randn(32, 64)
sae = SAE(weights, weights.T.clone(), torch.zeros(64), torch.zeros(32), TopK(4), SaeSource("", ""))
for reference in (False, True):
    measure(model, sae, corpus, HOOK, random_error=True, reference=reference)
print(json.dumps([
    [name, module.__file__] for name, module in sys.modules.items() if name.startswith("sae_guard.")
]))
"""


@pytest.fixture(scope="module")
def measuring_modules(model_folders: dict[str, Path]) -> set[Path]:
    """The modules of the package that a process has imported when it has measured."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURING, str(model_folders["gpt2"])],
        capture_output=True,
        text=True,
        check=True,
    )
    return {Path(file).relative_to(PACKAGE) for _, file in json.loads(done.stdout.splitlines()[-1])}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package's modules."""
    for path in PACKAGE.rglob("*.py"):
        copy = tmp_path / "sae_guard" / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return tmp_path / "sae_guard"


def fresh_hash(package: Path) -> str:
    return code_hash.__wrapped__(package)


def test_every_module_that_measuring_imports_is_part_of_the_key(
    measuring_modules: set[Path], package: Path
) -> None:
    assert len(measuring_modules) > 30
    original = fresh_hash(package)
    for module in measuring_modules:
        content = (package / module).read_bytes()
        (package / module).write_bytes(content + b"\n")
        assert fresh_hash(package) != original, f"{module} changed and the key did not"
        (package / module).write_bytes(content)
    assert fresh_hash(package) == original


def test_the_key_is_the_same_wherever_the_package_lies(package: Path) -> None:
    assert fresh_hash(package) == code_hash()


def test_a_module_that_cannot_measure_is_not_part_of_the_key(package: Path) -> None:
    original = fresh_hash(package)
    (package / "cli" / "__init__.py").write_text("")
    assert fresh_hash(package) == original


def test_an_empty_list_of_modules_is_an_error(package: Path) -> None:
    shutil.rmtree(package / "engine")
    with pytest.raises(FileNotFoundError, match="engine holds no Python module"):
        sources(package)


def test_an_imported_module_that_is_not_there_is_an_error(package: Path) -> None:
    (package / "errors.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"sae_guard\.errors is not in"):
        sources(package)
