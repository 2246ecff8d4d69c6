"""What SAELens itself saves, loaded here: the same latents and the same reconstruction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_guard.checkpoints.load import load
from sae_guard.demo import SAES
from tests.test_checkpoints_saelens_before_6 import write as write_before_6

sae_lens = pytest.importorskip("sae_lens", reason="runs in the environment of `make test-saelens`")

NORMALIZE = ("none", "constant_norm_rescale", "layer_norm")
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": {"k": 5, "rescale_acts_by_decoder_norm": False},
    "topk rescaled": {"k": 5, "rescale_acts_by_decoder_norm": True},
    "abstopk": {"k": 5, "rescale_acts_by_decoder_norm": False},
    "abstopk rescaled": {"k": 5, "rescale_acts_by_decoder_norm": True},
}


def random_sae(name: str, **shared: Any) -> Any:
    """A SAELens SAE whose every weight is drawn."""
    from sae_lens.saes.abstopk_sae import AbsTopKSAEConfig

    architecture = name.split()[0]
    config_class = {
        "standard": sae_lens.StandardSAEConfig,
        "gated": sae_lens.GatedSAEConfig,
        "jumprelu": sae_lens.JumpReLUSAEConfig,
        "topk": sae_lens.TopKSAEConfig,
        "abstopk": AbsTopKSAEConfig,
    }[architecture]
    config = config_class(d_in=24, d_sae=64, **ARCHITECTURES[name], **shared)
    sae = sae_lens.SAE.get_sae_class_for_architecture(architecture)(config)
    with torch.no_grad():
        for key, parameter in sae.named_parameters():
            parameter.normal_()
            if key == "threshold":
                parameter.abs_()
    return sae


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("pre_bias", [True, False])
def test_equals_saelens(tmp_path: Path, name: str, normalize: str, pre_bias: bool) -> None:
    torch.manual_seed(0)
    theirs = random_sae(name, normalize_activations=normalize, apply_b_dec_to_input=pre_bias)
    theirs.save_model(tmp_path)
    mine = load(tmp_path)
    x = torch.randn(7, 11, 24) * 3 + 1
    with torch.no_grad():
        latents = theirs.encode(x)
        reconstruction = theirs.decode(latents)
    assert torch.equal(mine(x).latents != 0, latents != 0)  # L0, exactly
    torch.testing.assert_close(mine(x).latents, latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine(x).reconstruction, reconstruction, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("release", ["v1", "v2", "v3"])
def test_saelens_reads_the_demo_releases(release: str) -> None:
    theirs = sae_lens.SAE.load_from_disk(SAES / release)
    x = torch.randn(5, 9, 64) * 10
    with torch.no_grad():
        latents = theirs.encode(x)
        reconstruction = theirs.decode(latents)
    mine = load(SAES / release)(x)
    assert torch.equal(mine.latents != 0, latents != 0)
    torch.testing.assert_close(mine.reconstruction, reconstruction, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated"])
@pytest.mark.parametrize("era", [5, 2])
def test_equals_what_saelens_makes_of_its_old_folders(
    tmp_path: Path, architecture: str, era: int
) -> None:
    if era == 2 and architecture != "standard":
        pytest.skip("there were no others yet")
    write_before_6(tmp_path, architecture, era)
    (tmp_path / "sae").mkdir()
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    tensors.pop("scaling_factor", None)
    save_file(tensors, tmp_path / "sae" / "sae_weights.safetensors")
    (tmp_path / "cfg.json").replace(tmp_path / "sae" / "cfg.json")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "sae")
    x = torch.randn(7, 11, 6) * 3
    mine = load(tmp_path / "sae")(x)
    with torch.no_grad():
        latents = theirs.encode(x)
        torch.testing.assert_close(mine.reconstruction, theirs.decode(latents))
    assert torch.equal(mine.latents != 0, latents != 0)
