"""What SAELens itself saves, loaded here: the same latents and the same reconstruction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_guard.checkpoints.formats import saelens_training
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.demo import SAES
from sae_guard.errors import LoadError
from tests.helpers.saelens_before_6_files import write as write_before_6

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


def draw(theirs: Any) -> Any:
    """The same SAE with every weight drawn, and thresholds above 0."""
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            parameter.normal_()
            if key == "threshold":
                parameter.abs_()
        if hasattr(theirs, "topk_threshold"):
            theirs.topk_threshold.fill_(7.3)
    return theirs


@pytest.mark.parametrize(
    "architecture",
    ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"],
)
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_transcoders_equal_saelens(tmp_path: Path, architecture: str, normalize: str) -> None:
    from sae_lens.registry import get_sae_class

    torch.manual_seed(0)
    sae_class, config_class = get_sae_class(architecture)
    config: Any = config_class(
        d_in=24, d_sae=64, d_out=20, apply_b_dec_to_input=False, normalize_activations=normalize
    )
    config.metadata.hook_name_out = "blocks.0.hook_mlp_out"
    theirs = draw(sae_class(config))
    theirs.save_model(tmp_path)
    x = torch.randn(7, 11, 24) * 3 + 1
    with torch.no_grad():
        latents, written = theirs.encode(x), theirs.forward(x)
    mine = load(tmp_path)
    assert torch.equal(mine(x).latents != 0, latents != 0)  # L0, exactly
    torch.testing.assert_close(mine(x).latents, latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine(x).reconstruction, written, rtol=1e-5, atol=1e-4)
    assert mine.identity["hook_name_out"] == "blocks.0.hook_mlp_out"


IN_TRAINING: dict[str, dict[str, Any]] = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": {"k": 5},
    "topk not rescaled": {"k": 5, "rescale_acts_by_decoder_norm": False},
    "abstopk": {"k": 5},
    "batchtopk": {"k": 5.5},
    "batchtopk not rescaled": {"k": 5.5, "rescale_acts_by_decoder_norm": False},
    "matryoshka_batchtopk": {"k": 5.5, "matryoshka_widths": [16, 64]},
}


def in_training(name: str, **shared: Any) -> Any:
    from sae_lens.registry import get_sae_training_class

    torch.manual_seed(0)
    sae_class, config_class = get_sae_training_class(name.split()[0])
    complete: dict[str, Any] = {"d_in": 24, "d_sae": 64, **IN_TRAINING[name], **shared}
    return draw(sae_class(config_class(**complete)))


@pytest.mark.parametrize("name", IN_TRAINING)
@pytest.mark.parametrize("pre_bias", [True, False])
def test_a_run_in_progress_equals_what_save_inference_model_writes(
    tmp_path: Path, name: str, pre_bias: bool
) -> None:
    theirs = in_training(name, apply_b_dec_to_input=pre_bias)
    theirs.save_model(tmp_path / "running")
    theirs.save_inference_model(tmp_path / "finished")
    finished = sae_lens.SAE.load_from_disk(tmp_path / "finished")
    x = torch.randn(7, 11, 24) * 3 + 1
    with torch.no_grad():
        latents = finished.encode(x)
        reconstruction = finished.decode(latents)
    assert 0 < float((latents != 0).float().mean()) < 1
    for folder in ("running", "finished"):
        mine = load(tmp_path / folder)(x)
        assert torch.equal(mine.latents != 0, latents != 0)  # L0, exactly
        torch.testing.assert_close(mine.latents, latents, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(mine.reconstruction, reconstruction, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", IN_TRAINING)
def test_trap_the_scale_of_a_run_in_progress_is_folded_only_at_its_end(
    tmp_path: Path, name: str
) -> None:
    from sae_lens.training.activation_scaler import ActivationScaler

    scale = 0.31
    theirs = in_training(name, normalize_activations="expected_average_only_in")
    theirs.save_model(tmp_path / "running")
    ActivationScaler(scale).save(str(tmp_path / "running" / "activation_scaler.json"))
    rescaled = getattr(theirs.cfg, "rescale_acts_by_decoder_norm", False)
    theirs.fold_activation_norm_scaling_factor(scale)
    theirs.save_inference_model(tmp_path / "finished")
    finished = sae_lens.SAE.load_from_disk(tmp_path / "finished")
    x = torch.randn(7, 11, 24) * 9 + 1
    with torch.no_grad():
        latents = finished.encode(x)
        reconstruction = finished.decode(latents)
    mine = load(tmp_path / "running")(x)
    assert torch.equal(mine.latents != 0, latents != 0)  # L0, exactly
    # Folding shrinks the decoder rows, and with them latents that are in units of these.
    unit = scale if rescaled else 1.0
    torch.testing.assert_close(mine.latents, latents * unit, rtol=1e-5, atol=5e-5)
    torch.testing.assert_close(mine.reconstruction, reconstruction, rtol=1e-5, atol=5e-4)


def test_trap_a_batchtopk_that_never_trained_has_threshold_0(tmp_path: Path) -> None:
    theirs = in_training("batchtopk")
    theirs.topk_threshold.zero_()
    theirs.save_model(tmp_path)
    with pytest.raises(LoadError, match="never trained") as caught:
        load(tmp_path)
    assert caught.value.contract == "threshold"


def test_trap_the_unfolded_threshold_of_older_versions_is_told(tmp_path: Path) -> None:
    theirs = in_training("batchtopk", normalize_activations="expected_average_only_in")
    theirs.save_inference_model(tmp_path / "now")
    assert (
        saelens_training.warning(load(tmp_path / "now", SaeOptions(scale="folded")).source.declared)
        is None
    )
    theirs.cfg.metadata.sae_lens_version = "6.54.8"
    theirs.save_inference_model(tmp_path / "before")
    warning = saelens_training.warning(
        load(tmp_path / "before", SaeOptions(scale="folded")).source.declared
    )
    assert "issue 763" in str(warning)
