"""mats_sae_training files: a pickled config of a package that is not installed."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.safe_pickle.inert import InertObject
from sae_guard.errors import LoadError
from tests.helpers.checkpoint_files import example_sae, tensors_of

X = torch.linspace(-3, 4, 24).view(4, 6)
CONFIG: dict[str, Any] = {
    "model_name": "gpt2-small",
    "hook_point": "blocks.{layer}.hook_resid_pre",
    "hook_point_layer": 8,
    "hook_point_head_index": None,
    "d_in": 6,
    "d_sae": 10,
    "dtype": torch.float32,
    "device": torch.device("cpu"),
    "prepend_bos": True,
}


def write(path: Path, config: Any, tensors: Any = None) -> Path:
    """A file as the training package writes it, without it being there afterwards."""
    package = types.ModuleType("sae_training")
    module = types.ModuleType("sae_training.config")

    class LanguageModelSAERunnerConfig:
        def __init__(self, **facts: Any) -> None:
            self.__dict__.update(facts)

    LanguageModelSAERunnerConfig.__module__ = "sae_training.config"
    LanguageModelSAERunnerConfig.__qualname__ = "LanguageModelSAERunnerConfig"
    module.LanguageModelSAERunnerConfig = LanguageModelSAERunnerConfig  # type: ignore[attr-defined]
    sys.modules |= {"sae_training": package, "sae_training.config": module}
    try:
        cfg = LanguageModelSAERunnerConfig(**config) if isinstance(config, dict) else config
        state = tensors_of(example_sae()) if tensors is None else tensors
        torch.save({"cfg": cfg, "state_dict": state}, path)
    finally:
        del sys.modules["sae_training"], sys.modules["sae_training.config"]
    return path


def test_the_config_is_read_as_a_record(tmp_path: Path) -> None:
    parameters = {n: torch.nn.Parameter(t) for n, t in tensors_of(example_sae()).items()}
    for number, tensors in enumerate((None, parameters)):
        sae = load(write(tmp_path / f"{number}.pt", CONFIG, tensors))
        assert torch.equal(sae(X).reconstruction, example_sae()(X).reconstruction)
        assert sae.source.format == "mats_sae_training"
        assert sae.identity["prepend_bos"] is True
        assert sae.identity["hook_name"] == "blocks.8.hook_resid_pre"
    assert "sae_training" not in sys.modules


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**CONFIG, "normalize_activations": True}, "expected_average_only_in"),
        ({**CONFIG, "activation_fn": "gelu"}, "activation function 'gelu'"),
        ({**CONFIG, "d_sae": 11}, "d_sae is 11"),
        ({"d_sae": 10}, "has no d_in; it has: d_sae"),
        (3, "has no d_in; it has: nothing"),
    ],
)
def test_refusals(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(LoadError) as caught:
        load(write(tmp_path / "sae.pt", config))
    assert message in str(caught.value)


def test_a_state_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="state_dict is list"):
        load(write(tmp_path / "list.pt", CONFIG, [1]))


TRANSCODER: dict[str, Any] = {
    **CONFIG,
    "hook_point": "blocks.{layer}.ln2.hook_normalized",
    "is_transcoder": True,
    "out_hook_point": "blocks.{layer}.hook_mlp_out",
    "out_hook_point_layer": 8,
    "d_out": 5,
    "is_sparse_connection": False,
}


def transcoder_tensors(d_out: int = 5) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(4)
    shapes = {"W_enc": (6, 10), "b_enc": (10,), "W_dec": (10, d_out), "b_dec": (6,)}
    shapes["b_dec_out"] = (d_out,)
    return {name: torch.randn(shape, generator=drawn) for name, shape in shapes.items()}


@pytest.mark.parametrize("d_out", [5, None])
def test_trap_pre_bias_is_not_the_out_bias(tmp_path: Path, d_out: int | None) -> None:
    w = transcoder_tensors(d_out or 6)
    sae = load(write(tmp_path / "t.pt", {**TRANSCODER, "d_out": d_out}, w))
    x = torch.linspace(-3, 4, 48).view(2, 4, 6)
    latents = torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    assert torch.equal(sae(x).latents != 0, latents != 0)
    torch.testing.assert_close(sae(x).latents, latents)
    torch.testing.assert_close(sae(x).reconstruction, latents @ w["W_dec"] + w["b_dec_out"])
    assert sae.transcoder
    assert sae.identity["hook_name"] == "blocks.8.ln2.hook_normalized"
    assert sae.identity["hook_name_out"] == "blocks.8.hook_mlp_out"


def test_a_transcoder_may_be_finetuned(tmp_path: Path) -> None:
    w = transcoder_tensors()
    plain = load(write(tmp_path / "1.pt", TRANSCODER, {**w, "scaling_factor": torch.ones(10)}))
    factor = torch.linspace(0.5, 1.5, 10)
    sae = load(write(tmp_path / "f.pt", TRANSCODER, {**w, "scaling_factor": factor}))
    assert plain.latent_scale is None
    torch.testing.assert_close(
        sae(X).reconstruction, (plain(X).latents * factor) @ w["W_dec"] + w["b_dec_out"]
    )


@pytest.mark.parametrize(
    ("config", "changes", "message", "contract"),
    [
        ({"is_transcoder": False}, {}, "is_transcoder is False, and there is a b_dec_out", "keys"),
        ({}, {"b_dec_out": None}, "is_transcoder is True, and there is no b_dec_out", "keys"),
        ({"is_transcoder": "yes"}, {}, "is_transcoder is 'yes'", "keys"),
        ({"hook_point_head_index": 1}, {}, "hook_point_head_index is 1", "readable"),
        ({}, {"b_dec": None}, "expected W_enc, b_enc, b_dec, W_dec and b_dec_out", "keys"),
        ({}, {"W_skip": torch.ones(5, 6)}, "expected W_enc, b_enc, b_dec", "keys"),
        ({}, {"W_enc": None}, "no matrix W_enc", "keys"),
        ({}, {"b_dec": torch.ones(5)}, "b_pre has shape [5], expected [6]", "shapes"),
        ({"d_out": 4}, {}, "d_out is 4, but the weights have 5", "shapes"),
        ({"d_out": None}, {}, "d_out is 6, but the weights have 5", "shapes"),
        ({"d_sae": 11}, {}, "d_sae is 11", "shapes"),
    ],
)
def test_transcoders_are_refused_by_name(
    tmp_path: Path, config: dict[str, Any], changes: dict[str, Any], message: str, contract: str
) -> None:
    tensors = {n: t for n, t in (transcoder_tensors() | changes).items() if t is not None}
    with pytest.raises(LoadError) as caught:
        load(write(tmp_path / "t.pt", {**TRANSCODER, **config}, tensors))
    assert message in str(caught.value)
    assert caught.value.contract == contract


def test_a_record_keeps_its_state_and_nothing_else() -> None:
    inert = InertObject(1, key=2)
    inert.__setstate__({"a": 1})
    inert.__setstate__((1, 2))
    assert vars(inert) == {"a": 1}
