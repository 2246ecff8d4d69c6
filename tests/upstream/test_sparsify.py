"""What sparsify itself saves, loaded here: the same latents and reconstruction."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load

sparsify = pytest.importorskip("sparsify", reason="runs in the environment of `make test-saelens`")


@pytest.mark.parametrize("activation", ["topk", "groupmax"])
def test_equals_sparsify(tmp_path: Path, activation: str) -> None:
    torch.manual_seed(0)
    config = sparsify.SparseCoderConfig(activation=activation, num_latents=64, k=8)
    theirs = sparsify.SparseCoder(24, config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    folder = tmp_path / "layers.3"
    theirs.save_to_disk(folder)
    x = torch.randn(40, 24) * 2
    with torch.no_grad():
        encoded = theirs.encode(x)
        latents = torch.zeros(40, 64).scatter(-1, encoded.top_indices, encoded.top_acts)
        reconstruction = theirs.decode(encoded.top_acts, encoded.top_indices)
    mine = load(folder)(x)
    assert torch.equal(mine.latents != 0, latents != 0)  # L0, exactly
    torch.testing.assert_close(mine.latents, latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.reconstruction, reconstruction, rtol=1e-5, atol=1e-4)
    assert declare(folder) == Declaration(None, "blocks.3.hook_resid_post")
