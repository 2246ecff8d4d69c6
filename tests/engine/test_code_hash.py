"""A change in any module that numbers depend on changes the hash, and so the cache key."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sae_guard.engine.code_hash import PACKAGE, code_hash, source_files

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
    """Return the modules of the package that a process imports to measure."""
    process = subprocess.run(
        [sys.executable, "-c", MEASURING, str(model_folders["gpt2"])],
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        Path(file).relative_to(PACKAGE) for _, file in json.loads(process.stdout.splitlines()[-1])
    }


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Copy the modules of the package."""
    for path in PACKAGE.rglob("*.py"):
        copy = tmp_path / "sae_guard" / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return tmp_path / "sae_guard"


def fresh_hash(package: Path) -> str:
    return code_hash.__wrapped__(package)


def test_every_module_imported_by_measuring_changes_the_hash(
    measuring_modules: set[Path], package: Path
) -> None:
    assert len(measuring_modules) > 30
    original = fresh_hash(package)
    for module in measuring_modules:
        content = (package / module).read_bytes()
        (package / module).write_bytes(content + b"\n")
        assert fresh_hash(package) != original, f"{module} changed but the hash did not"
        (package / module).write_bytes(content)
    assert fresh_hash(package) == original


def test_hash_does_not_depend_on_the_folder_of_the_package(package: Path) -> None:
    assert fresh_hash(package) == code_hash()


def test_modules_that_measuring_does_not_import_are_not_hashed(package: Path) -> None:
    original = fresh_hash(package)
    (package / "cli" / "__init__.py").write_text("")
    assert fresh_hash(package) == original


def test_package_without_engine_is_an_error(package: Path) -> None:
    shutil.rmtree(package / "engine")
    with pytest.raises(FileNotFoundError, match="engine holds no Python module"):
        source_files(package)


def test_missing_imported_module_is_an_error(package: Path) -> None:
    (package / "errors.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"sae_guard\.errors is not in"):
        source_files(package)
