"""What AI Safety Foundation's library itself saves, loaded here: the same output."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.serialization

from sae_guard.checkpoints.load import load
from sae_guard.errors import LoadError

if importlib.util.find_spec("sparse_autoencoder") is None:
    pytest.skip("runs in the environment of `make test-saelens`", allow_module_level=True)
if not hasattr(torch.serialization, "FILE_LIKE"):  # a type that newer versions call otherwise
    torch.serialization.FILE_LIKE = object  # type: ignore[attr-defined]
# The package imports what only its training needs.
package = types.ModuleType("sparse_autoencoder")
installed = importlib.util.find_spec("sparse_autoencoder")
package.__path__ = list((installed and installed.submodule_search_locations) or [])
sys.modules.setdefault("sparse_autoencoder", package)
from sparse_autoencoder.autoencoder import model as library  # noqa: E402

D_IN, D_SAE = 24, 64


def make(components: int | None) -> Any:
    """An SAE with every weight drawn."""
    torch.manual_seed(0)
    config = library.SparseAutoencoderConfig(
        n_input_features=D_IN, n_learned_features=D_SAE, n_components=components
    )
    sae = library.SparseAutoencoder(config)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.normal_()
    return sae


def compare(sae: Any, x: Any, latents: Any, reconstruction: Any) -> None:
    mine = sae(x.view(8, 5, D_IN))
    assert torch.equal(mine.latents != 0, latents.view(8, 5, D_SAE) != 0)  # L0, exactly
    torch.testing.assert_close(mine.latents, latents.view(8, 5, D_SAE), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        mine.reconstruction, reconstruction.view(8, 5, D_IN), rtol=1e-5, atol=1e-4
    )


def test_equals_the_library(tmp_path: Path) -> None:
    theirs = make(None)
    theirs.save(tmp_path / "sae.pt")
    x = torch.randn(40, D_IN) * 2
    with torch.no_grad():
        latents, reconstruction = theirs(x)
    compare(load(tmp_path / "sae.pt"), x, latents, reconstruction)


@pytest.mark.parametrize("components", [1, 3])
def test_each_component_equals_the_library(tmp_path: Path, components: int) -> None:
    theirs = make(components)
    theirs.save(tmp_path / "sae.pt")
    x = torch.randn(40, D_IN) * 2
    with torch.no_grad():
        latents, reconstruction = theirs(x[:, None].expand(40, components, D_IN))
    for index in range(components):
        mine = load(tmp_path / "sae.pt", name=str(index))
        compare(mine, x, latents[:, index], reconstruction[:, index])
    if components == 1:
        compare(load(tmp_path / "sae.pt"), x, latents[:, 0], reconstruction[:, 0])
    else:
        with pytest.raises(LoadError, match="holds 3 SAEs; say which"):
            load(tmp_path / "sae.pt")


def test_state_dict_of_version_1_3(tmp_path: Path) -> None:
    theirs = make(None)
    torch.save(theirs.state_dict(), tmp_path / "sae.pt")
    x = torch.randn(40, D_IN) * 2
    with torch.no_grad():
        latents, reconstruction = theirs(x)
    compare(load(tmp_path / "sae.pt"), x, latents, reconstruction)
