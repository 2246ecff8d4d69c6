"""What sparsify itself saves, loaded here: the same latents and reconstruction."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae_guard.checkpoints.declare import declare
from sae_guard.checkpoints.load import load

sparsify = pytest.importorskip("sparsify", reason="runs in the environment of `make test-saelens`")


@pytest.mark.parametrize("activation", ["topk", "groupmax"])
@pytest.mark.parametrize("transcode", [False, True])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_sparsify(
    tmp_path: Path, activation: str, transcode: bool, skip: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    config = sparsify.SparseCoderConfig(
        activation=activation, num_latents=64, k=8, transcode=transcode, skip_connection=skip
    )
    saved = sparsify.SparseCoder(24, config, dtype=dtype)
    with torch.no_grad():
        for parameter in saved.parameters():
            parameter.normal_()
    folder = tmp_path / "layers.3"
    saved.save_to_disk(folder)
    theirs = sparsify.SparseCoder.load_from_disk(folder).float()
    x = torch.randn(40, 24) * 2
    with torch.no_grad():
        encoded = theirs.encode(x)
        latents = torch.zeros(40, 64).scatter(-1, encoded.top_indices, encoded.top_acts)
        reconstruction = theirs(x).sae_out
    sae = load(folder)
    mine = sae(x.view(5, 8, 24))
    assert torch.equal((mine.latents != 0).view(40, 64), latents != 0)  # L0, exactly
    torch.testing.assert_close(mine.latents.view(40, 64), latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        mine.reconstruction.view(40, 24), reconstruction, rtol=1e-5, atol=1e-4
    )
    assert sae.transcoder is transcode
    read = "blocks.3.hook_resid_pre" if transcode else "blocks.3.hook_resid_post"
    assert declare(folder).hook == read
