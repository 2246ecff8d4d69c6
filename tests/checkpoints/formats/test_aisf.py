"""Files of AI Safety Foundation's library, against its forward pass, and their traps."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

X = torch.linspace(-3, 4, 48).view(2, 4, 6)
MODULE = "sparse_autoencoder.autoencoder.model"


class SparseAutoencoderConfig(BaseModel):
    model_config = ConfigDict(extra="allow")


class SparseAutoencoderState(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    config: Any
    state_dict: Any


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def weights(*axis: int) -> dict[str, Tensor]:
    """A state dict, with an axis of components or none."""
    bias = draw(*axis, 6)
    return {
        "tied_bias": bias,
        "pre_encoder_bias._bias_reference": bias,
        "encoder.weight": draw(*axis, 10, 6),
        "encoder.bias": draw(*axis, 10),
        "decoder.weight": draw(*axis, 6, 10),
        "post_decoder_bias._bias_reference": bias,
    }


def save(path: Path, state_dict: Any, **config: Any) -> Path:
    """Save as the library does: a pydantic object of its classes, which are removed for reading."""
    sizes = {"n_input_features": 6, "n_learned_features": 10, "n_components": None}
    state = SparseAutoencoderState(
        config=SparseAutoencoderConfig(**{**sizes, **config}), state_dict=state_dict
    )
    classes: tuple[type, ...] = (SparseAutoencoderConfig, SparseAutoencoderState)
    parents = [MODULE.rsplit(".", level)[0] for level in (2, 1)]
    for name in (*parents, MODULE):
        sys.modules[name] = types.ModuleType(name)
    before = [cls.__module__ for cls in classes]
    for cls in classes:
        cls.__module__ = MODULE
        setattr(sys.modules[MODULE], cls.__name__, cls)
    try:
        torch.save(state, path)
    finally:
        for cls, module in zip(classes, before, strict=True):
            cls.__module__ = module
        for name in (*parents, MODULE):
            del sys.modules[name]
    return path


def compare(sae: Any, w: dict[str, Tensor], *, tanh: bool = False) -> None:
    latents = torch.relu((X - w["tied_bias"]) @ w["encoder.weight"].T + w["encoder.bias"])
    latents = latents.tanh() if tanh else latents
    mine = sae(X)
    assert torch.equal(mine.latents != 0, latents != 0)
    torch.testing.assert_close(mine.latents, latents, rtol=1e-5, atol=1e-5)
    expected = latents @ w["decoder.weight"].T + w["tied_bias"]
    torch.testing.assert_close(mine.reconstruction, expected, rtol=1e-5, atol=1e-4)


def test_pydantic_object(tmp_path: Path) -> None:
    w = weights()
    sae = load(save(tmp_path / "sae.pt", w))
    compare(sae, w)
    assert sae.source.assumptions == ()
    assert sae.source.declared["stored_dtype"] == "float32"


@pytest.mark.parametrize("prefix", ["", "_"])
def test_state_dicts_of_before_the_pydantic_object(tmp_path: Path, prefix: str) -> None:
    w = weights()
    renamed = {n if n == "tied_bias" else prefix + n: tensor for n, tensor in w.items()}
    torch.save(renamed, tmp_path / "sae.pt")
    sae = load(tmp_path / "sae.pt")
    compare(sae, w)
    assert "the activation is ReLU" in sae.source.assumptions[0]


def test_private_weights_of_the_first_versions(tmp_path: Path) -> None:
    w = weights()
    w["decoder.weight"] = torch.nn.functional.normalize(w["decoder.weight"], dim=0)
    private = {
        "_" + n.replace("r.", "r._") if "coder." in n else n: tensor for n, tensor in w.items()
    }
    assert {"_encoder._weight", "_encoder._bias", "_decoder._weight"} < private.keys()
    torch.save(private, tmp_path / "sae.pt")
    compare(load(tmp_path / "sae.pt"), w)
    private["_decoder._weight"] = w["decoder.weight"] * 2
    torch.save(private, tmp_path / "sae.pt")
    with pytest.raises(LoadError, match=r"columns of lengths 2 to 2, allowed: 0\.95 to 1\.05"):
        load(tmp_path / "sae.pt")


def test_trap_several_saes_per_file_have_an_axis(tmp_path: Path) -> None:
    w = weights(3)
    path = save(tmp_path / "sae.pt", w, n_components=3)
    for index in range(3):
        sae = load(path, name=str(index))
        compare(sae, {name: tensor[index] for name, tensor in w.items()})
        assert sae.source.path == f"{path}#{index}"
    with pytest.raises(LoadError, match=r"holds 3 SAEs; say which: .*#0 or .*#1 or .*#2"):
        load(path)
    with pytest.raises(LoadError, match="has no SAE '3'"):
        load(path, name="3")


def test_trap_one_component_still_has_an_axis(tmp_path: Path) -> None:
    w = weights(1)
    path = save(tmp_path / "sae.pt", w, n_components=1)
    for name in (None, "0"):
        compare(load(path, name=name), {n: tensor[0] for n, tensor in w.items()})


def test_components_by_their_hook_points(tmp_path: Path) -> None:
    w = weights(2)
    hooks = ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]
    path = save(tmp_path / "sae.pt", w, n_components=2, component_names=hooks)
    for name in ("1", hooks[1]):
        sae = load(path, name=name)
        compare(sae, {n: tensor[1] for n, tensor in w.items()})
        assert sae.source.declared["hook_name"] == hooks[1]
    with pytest.raises(LoadError, match=r"say which: .*#blocks.0.hook_mlp_out or "):
        load(path)


@pytest.mark.parametrize(
    "fields",
    [{"type": "tanh_encoder"}, {"sae_type": "normalized_sae", "noise_scale": 0.0}],
)
def test_trap_tanh_of_a_fork_is_only_in_its_config(tmp_path: Path, fields: dict[str, Any]) -> None:
    w = weights()
    path = save(tmp_path / "sae.pt", w, **fields)
    compare(load(path), w, tanh=True)
    with pytest.raises(LoadError, match="says architecture 'tanh_relu'"):
        load(path, SaeOptions(architecture="standard"))
    path = save(tmp_path / "sae.pt", w, sae_type="sae", noise_scale=1.0, l1_coefficient=0.1)
    compare(load(path), w)


def test_checkpoint_of_lightning_does_not_say_its_activation(tmp_path: Path) -> None:
    w = weights()
    tensors = {f"sparse_autoencoder.{name}": tensor for name, tensor in w.items()}
    tensors["train_metrics.activity.fired"] = torch.zeros(10, dtype=torch.int64)
    torch.save({"state_dict": tensors, "pytorch-lightning_version": "2.1"}, tmp_path / "sae.pt")
    with pytest.raises(LoadError, match=r"ambiguous(.|\n)*sae.architecture: standard, or"):
        load(tmp_path / "sae.pt")
    compare(load(tmp_path / "sae.pt", SaeOptions(architecture="standard")), w)
    compare(load(tmp_path / "sae.pt", SaeOptions(architecture="tanh_relu")), w, tanh=True)
    with pytest.raises(LoadError, match="'gated', allowed: standard or tanh_relu"):
        load(tmp_path / "sae.pt", SaeOptions(architecture="gated"))


def test_trap_copies_of_the_bias_that_differ_are_refused(tmp_path: Path) -> None:
    w = weights()
    w["post_decoder_bias._bias_reference"] = draw(6) + 1
    with pytest.raises(LoadError, match=r"post_decoder_bias._bias_reference differs from tied"):
        load(save(tmp_path / "sae.pt", w))


def test_trap_noise_in_the_encoder_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "sae.pt", weights(), sae_type="normalized_sae", noise_scale=1.0)
    with pytest.raises(LoadError, match=r"noise_scale is 1\.0, allowed: 0") as caught:
        load(path)
    assert caught.value.contract == "deterministic"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_components": 2}, "n_components is 2, but encoder.weight has shape [10, 6]"),
        ({"n_input_features": 7}, "n_input_features is 7"),
        ({"n_learned_features": 10.0}, "n_learned_features is 10.0"),
        ({"temperature": 2}, "config: temperature = 2: not understood"),
        ({"type": "gated"}, "the type is 'gated'; allowed: normalized_sae, sae, tanh_encoder"),
        ({"type": ["sae"]}, "the type is ['sae']"),
        ({"component_names": 3}, "component_names is 3, expected a list of 1"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    path = save(tmp_path / "sae.pt", weights(), **config)
    with pytest.raises(LoadError) as caught:
        load(path)
    assert message in str(caught.value)


def test_state_dicts_that_are_refused(tmp_path: Path) -> None:
    def message(state_dict: Any, name: str | None = None, **config: Any) -> str:
        with pytest.raises(LoadError) as caught:
            load(save(tmp_path / "sae.pt", state_dict, **config), name=name)
        return str(caught.value)

    assert "holds a single SAE, of another name or none; remove #0" in message(weights(), "0")
    assert "state_dict is a list" in message([1])
    assert "encoder.bias is a int" in message({**weights(), "encoder.bias": 3})
    assert "not understood: encoder.gain" in message({**weights(), "encoder.gain": draw(10)})
    assert "missing: b_enc" in message(
        {name: tensor for name, tensor in weights().items() if name != "encoder.bias"}
    )
    assert "no axis of 3 components" in message(
        {**weights(3), "encoder.bias": draw(10)}, "0", n_components=3
    )
    assert "encoder.weight has shape [6], expected [d_sae, d_in]" in message(
        {**weights(), "encoder.weight": draw(6)}
    )
    early = {
        "tied_bias": draw(6),
        "encoder.Linear.weight": draw(10, 6),
        "decoder.ConstrainedUnitNormLinear.weight": draw(6, 10),
    }
    assert "versions before 0.10" in message(early)
