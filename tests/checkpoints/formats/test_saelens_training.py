"""SAELens checkpoints of runs in progress, and scales that lie beside the weights or nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_guard.checkpoints.formats import saelens_training
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from tests.helpers.checkpoint_files import config_of, example_sae, tensors_of, write_saelens

X = torch.linspace(-3, 4, 48).view(2, 4, 6)
AVERAGE = {"normalize_activations": "expected_average_only_in"}


def write(folder: Path, architecture: str = "standard", **changes: Any) -> Path:
    sae = example_sae(architecture)
    return write_saelens(folder, sae, config=config_of(sae, **changes))


def write_batchtopk(folder: Path, threshold: Any, *, drop: str = "", **changes: Any) -> Path:
    sae = example_sae()
    config = config_of(
        sae, architecture="batchtopk", k=3.0, rescale_acts_by_decoder_norm=True,
        topk_threshold_lr=0.01, use_sparse_activations=False, aux_loss_coefficient=1.0,
        decoder_init_norm=0.1, **changes,
    )  # fmt: skip
    tensors = tensors_of(sae) | {"topk_threshold": threshold}
    tensors.pop(drop, None)
    return write_saelens(folder, sae, config=config, tensors=tensors)


def refusal(folder: Path, options: SaeOptions | None = None) -> LoadError:
    with pytest.raises(LoadError) as caught:
        load(folder, options)
    assert str(folder) in str(caught.value)
    return caught.value


def scaled(scale: float) -> Tensor:
    """The example's reconstruction where activations were multiplied by ``scale`` in training."""
    sae = example_sae()
    f = torch.relu((X * scale - sae.b_dec) @ sae.W_enc + sae.b_enc)
    return (f @ sae.W_dec + sae.b_dec) / scale


def test_batchtopk_of_a_run_in_progress_is_a_jumprelu_sae(tmp_path: Path) -> None:
    threshold = torch.tensor(1.7, dtype=torch.float64)
    sae, example = load(write_batchtopk(tmp_path, threshold)), example_sae()
    norms = example.W_dec.norm(dim=-1)
    q = ((X - example.b_dec) @ example.W_enc + example.b_enc) * norms
    latents = torch.relu(q) * (q > 1.7)
    assert torch.equal(sae(X).latents != 0, latents != 0)
    torch.testing.assert_close(sae(X).latents, latents)
    torch.testing.assert_close(
        sae(X).reconstruction, (latents / norms) @ example.W_dec + example.b_dec
    )
    assert sae.identity["architecture"] == "jumprelu"
    assert saelens_training.ASSUMED in sae.source.assumptions


def test_trap_a_topk_threshold_of_0_was_never_trained(tmp_path: Path) -> None:
    error = refusal(write_batchtopk(tmp_path, torch.tensor(0.0, dtype=torch.float64)))
    assert "never trained" in str(error)
    assert error.contract == "threshold"


@pytest.mark.parametrize(
    ("threshold", "drop", "message", "contract"),
    [
        (torch.ones(2), "", "topk_threshold has shape [2], expected []", "shapes"),
        (torch.ones(()), "topk_threshold", "expected topk_threshold and no threshold", "keys"),
        (torch.ones(()), "b_enc", "missing: b_enc, threshold", "keys"),
        (torch.tensor(float("nan")), "", "threshold has 10 values that are not finite", "finite"),
    ],
)
def test_damaged_batchtopk_checkpoints_are_refused(
    tmp_path: Path, threshold: Tensor, drop: str, message: str, contract: str
) -> None:
    error = refusal(write_batchtopk(tmp_path, threshold, drop=drop))
    assert message in str(error)
    assert error.contract == contract


def test_fields_of_a_run_are_known_by_architecture(tmp_path: Path) -> None:
    run: dict[str, Any] = {
        "l1_coefficient": 5.0,
        "lp_norm": 1.0,
        "l1_warm_up_steps": 0,
        "decoder_init_norm": 0.1,
    }
    sae = load(write(tmp_path, **run))
    assert torch.equal(sae(X).reconstruction, example_sae()(X).reconstruction)
    assert "lp_norm = 1.0: not understood" in str(refusal(write(tmp_path, "gated", **run)))


def test_trap_a_scale_in_activation_scaler_is_applied(tmp_path: Path) -> None:
    folder = write(tmp_path, **AVERAGE)
    scaler = folder / "activation_scaler.json"
    scaler.write_text('{"scaling_factor": 0.25, "has_whitening": false}')
    for options in (None, SaeOptions(scale="stored"), SaeOptions(scale=0.25)):
        sae = load(folder, options)
        torch.testing.assert_close(sae(X).reconstruction, scaled(0.25))
        assert (sae.identity["scale_in"], sae.identity["scale_out"]) == (0.25, 0.25)
        assert "activation_scaler.json" in sae.source.files
    for scale in ("folded", 0.5):
        error = refusal(folder, SaeOptions.model_validate({"scale": scale}))
        assert f"the `sae` options say {scale}" in str(error)
        assert error.contract == "scale"


def test_trap_a_scale_in_the_state_of_the_activations_store_is_applied(tmp_path: Path) -> None:
    """SAELens 3 to 5, whose final SAEs have it folded."""
    folder = write(tmp_path, **AVERAGE)
    store = folder / "activations_store_state.safetensors"
    save_file({"n_dataset_processed": torch.tensor(7)}, store)
    assert "decide in the spec" in str(refusal(folder))
    save_file({"estimated_norm_scaling_factor": torch.tensor(0.25)}, store)
    torch.testing.assert_close(load(folder)(X).reconstruction, scaled(0.25))
    (folder / "activation_scaler.json").write_text('{"scaling_factor": null}')
    torch.testing.assert_close(load(folder)(X).reconstruction, scaled(0.25))


@pytest.mark.parametrize("normalization", ["none", "layer_norm"])
def test_trap_a_stored_scale_contradicts_another_normalisation(
    tmp_path: Path, normalization: str
) -> None:
    folder = write(tmp_path, normalize_activations=normalization)
    scaler = folder / "activation_scaler.json"
    scaler.write_text('{"scaling_factor": null, "has_whitening": false}')
    load(folder)  # as every finished run has it
    scaler.write_text('{"scaling_factor": 0.25, "has_whitening": false}')
    error = refusal(folder)
    assert f"a scale of 0.25, but {folder / 'cfg.json'} has normalize_activations" in str(error)
    assert error.contract == "scale"


@pytest.mark.parametrize("factor", ["0", "-1", "NaN", "Infinity", '"1"', "true", "[1]"])
def test_a_stored_scale_is_a_number_above_0(tmp_path: Path, factor: str) -> None:
    folder = write(tmp_path, **AVERAGE)
    (folder / "activation_scaler.json").write_text(f'{{"scaling_factor": {factor}}}')
    error = refusal(folder)
    assert "allowed: a number above 0" in str(error)
    assert error.contract == "scale"


@pytest.mark.parametrize("factor", [torch.tensor([1.0, 2.0]), torch.tensor(-1.0)])
def test_an_estimated_scale_is_a_number_above_0(tmp_path: Path, factor: Tensor) -> None:
    folder = write(tmp_path, **AVERAGE)
    store = folder / "activations_store_state.safetensors"
    save_file({"estimated_norm_scaling_factor": factor}, store)
    assert "allowed: a number above 0" in str(refusal(folder))
    store.write_bytes(b"no tensors")
    assert "unreadable" in str(refusal(folder))


def test_trap_a_scale_that_is_nowhere_has_to_be_said(tmp_path: Path) -> None:
    folder = write(tmp_path, **AVERAGE)
    for options in (None, SaeOptions(scale="stored"), SaeOptions(normalize="none")):
        error = refusal(folder, options)
        assert error.contract == "scale"
        assert str(error).splitlines()[1:] == [
            "  sae.scale: folded (the weights include it)",
            "  sae.scale: the factor, sqrt(d_in) / the mean norm of the activations",
        ]
    folded = load(folder, SaeOptions(scale="folded"))
    assert torch.equal(folded(X).reconstruction, example_sae()(X).reconstruction)
    sae = load(folder, SaeOptions(scale=0.5))
    torch.testing.assert_close(sae(X).reconstruction, scaled(0.5))


def test_trap_a_whitening_is_read_only_where_it_is_folded(tmp_path: Path) -> None:
    folder = write(tmp_path, normalize_activations="covariance_whitening")
    for options in (None, SaeOptions(scale=0.5), SaeOptions(scale="stored")):
        assert "sae.scale: folded" in str(refusal(folder, options))
    load(folder, SaeOptions(scale="folded"))
    scaler = folder / "activation_scaler.json"
    scaler.write_text('{"scaling_factor": null, "has_whitening": true}')
    error = refusal(folder, SaeOptions(scale="folded"))
    assert "has_whitening is True" in str(error)
    assert error.contract == "scale"
    scaler.write_text('{"scaling_factor": null}')  # as versions that did not say it
    load(folder, SaeOptions(scale="folded"))
    (folder / "activation_whitening.safetensors").touch()
    assert "has_whitening is None" in str(refusal(folder, SaeOptions(scale="folded")))


DETAILS = {"k": 5.0, "rescale_acts_by_decoder_norm": True}


@pytest.mark.parametrize(
    ("version", "metadata", "run", "warned"),
    [
        ("6.52.0", {"training_architecture": "batchtopk"}, None, ", if the training"),
        ("6.54.8", {"training_architecture": "matryoshka_batchtopk"}, None, ", if the training"),
        ("6.54.9", {"training_architecture": "batchtopk"}, None, None),
        ("6.13.0", {"training_architecture": "batchtopk"}, None, None),
        ("6.52.0", {"training_architecture": "jumprelu"}, None, None),
        ("6.30.0", {}, AVERAGE, "off by the scale of the activations: SAELens 6.30.0"),
        ("6.30.0", {}, {"normalize_activations": "none"}, None),
        ("6.30.0", {}, AVERAGE | {"rescale_acts_by_decoder_norm": False}, None),
        ("6.30.0", {"training_architecture_details": []}, [], None),
    ],
)
def test_trap_thresholds_of_batchtopk_that_were_not_folded(
    tmp_path: Path, version: str, metadata: dict[str, Any], run: Any, warned: str | None
) -> None:
    if run is None:
        metadata = {"training_architecture_details": DETAILS, **metadata}
    else:
        run_config = {"architecture": "batchtopk", **DETAILS, **run} if run else run
        (tmp_path / "runner_cfg.json").write_text(json.dumps({"sae": run_config}))
    folder = write(tmp_path, "jumprelu", metadata={"sae_lens_version": version, **metadata})
    warning = saelens_training.warning(load(folder).source.declared)
    assert (warning is not None) == (warned is not None)
    assert (warned or "") in (warning or "")
