"""SAELens 6 folders: read back exactly, or refused by name."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE
from tests.helpers.checkpoint_files import (
    config_of,
    example_sae,
    saelens_saes,
    tensors_of,
    write_saelens,
)


@given(saelens_saes())
def test_round_trip(sae: SAE) -> None:
    x = torch.linspace(-3, 4, 24).view(4, 6)
    with tempfile.TemporaryDirectory() as folder:
        loaded = load(write_saelens(Path(folder), sae))
    for mine, theirs in zip(loaded(x), sae(x), strict=True):
        assert torch.equal(mine, theirs)
    same = ("architecture", "k", "d_in", "d_sae", "pre_bias", "normalize")
    assert [loaded.identity[n] for n in same] == [sae.identity[n] for n in same]


def test_identity_tells_files_and_declared_facts(tmp_path: Path) -> None:
    identity = load(write_saelens(tmp_path, example_sae())).identity
    assert identity["prepend_bos"] is True
    assert identity["hook_name"] == "blocks.1.hook_resid_post"
    assert set(identity["files"]) == {"cfg.json", "sae_weights.safetensors"}
    json.dumps(identity, allow_nan=False)


def test_half_precision_weights_are_computed_in_float32(tmp_path: Path) -> None:
    sae = example_sae("jumprelu")
    halves = {name: t.bfloat16() for name, t in tensors_of(sae).items()}
    loaded = load(write_saelens(tmp_path, sae, tensors=halves))
    assert loaded.W_enc.dtype == torch.float32
    assert torch.equal(loaded.W_enc, halves["W_enc"].float())


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("standard", {"architecture": "tanh_relu"}, "architecture is 'tanh_relu'"),
    ("standard", {"architecture": None}, "architecture is None"),
    ("standard", {"metadata": [], "sae_lens_version": "6.0"}, "metadata is []"),
    (
        "standard",
        {"metadata": {"sae_lens_version": "6.0", "hook_head_index": 2}},
        "hook_head_index is 2",
    ),
    ("standard", {"activation_fn": "tanh-relu"}, "activation_fn = 'tanh-relu': not understood"),
    ("standard", {"k": 4}, "k = 4: not understood for a standard SAE"),
    ("standard", {"normalize_activations": "batch"}, "normalize_activations is 'batch'"),
    ("standard", {"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input is 'yes'"),
    ("standard", {"reshape_activations": "fold"}, "reshape_activations is 'fold'"),
    ("standard", {"d_in": 7}, "d_in is 7, but the weights have 6"),
    ("standard", {"d_sae": None}, "d_sae is None"),
    ("topk", {"k": None}, "k is None"),
    ("topk", {"k": 11}, "k is 11, allowed: 1 to 10"),
    ("topk", {"k": 3.0}, "k is 3.0"),
    ("topk", {"k": True}, "k is True"),
    ("standard", {"architecture": "jumprelu"}, "missing: threshold"),
    ("jumprelu", {"architecture": "standard"}, "not understood: threshold"),
]


@pytest.mark.parametrize(("architecture", "changes", "message"), REFUSED)
def test_refused_by_name(
    tmp_path: Path, architecture: str, changes: dict[str, Any], message: str
) -> None:
    sae = example_sae(architecture)
    folder = write_saelens(tmp_path, sae, config=config_of(sae, **changes))
    with pytest.raises(LoadError) as caught:
        load(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        SaeOptions(architecture="standard"),
        SaeOptions(k=4),
        SaeOptions(pre_bias=False),
        SaeOptions(normalize="layer_norm"),
    ],
)
def test_options_may_not_contradict_the_config(tmp_path: Path, options: SaeOptions) -> None:
    folder = write_saelens(tmp_path, example_sae("topk"))
    with pytest.raises(LoadError, match="the `sae` options say"):
        load(folder, options)


def _negative(tensors: dict[str, torch.Tensor]) -> None:
    tensors["threshold"] = -torch.ones(10)


def _zero(tensors: dict[str, torch.Tensor]) -> None:
    tensors["threshold"] = torch.zeros(10)


def _nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["W_dec"][2, 3] = float("nan")


def _whole_numbers(tensors: dict[str, torch.Tensor]) -> None:
    tensors["b_enc"] = torch.ones(10, dtype=torch.int64)


def _transposed(tensors: dict[str, torch.Tensor]) -> None:
    tensors["W_enc"] = tensors["W_enc"].T.contiguous()


def _flat(tensors: dict[str, torch.Tensor]) -> None:
    tensors["W_dec"] = tensors["W_dec"].flatten()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_negative, "thresholds are -1 to -1"),
        (_zero, "some above 0"),
        (_nan, "W_dec has 1 values that are not finite"),
        (_whole_numbers, "b_enc is torch.int64"),
        (_transposed, r"W_enc has shape \[10, 6\], expected \[6, 10\]"),
        (_flat, "no matrix W_dec"),
    ],
)
def test_damaged_weights_are_refused(
    tmp_path: Path, damage: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    sae = example_sae("jumprelu")
    tensors = {name: tensor.clone() for name, tensor in tensors_of(sae).items()}
    damage(tensors)
    with pytest.raises(LoadError, match=message):
        load(write_saelens(tmp_path, sae, tensors=tensors))


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '"\\ud800"'])
def test_a_config_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_saelens(tmp_path, example_sae())
    (folder / "cfg.json").write_text(text)
    with pytest.raises(LoadError, match=r"cfg\.json"):
        load(folder)


TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")


def write_transcoder(folder: Path, architecture: str, *, drop: str = "", **changes: Any) -> Path:
    """A transcoder of SAELens 6, from 6 to 5 dimensions."""
    drawn = torch.Generator().manual_seed(3)
    shapes = {"W_enc": (6, 10), "b_enc": (10,), "W_dec": (10, 5), "b_dec": (5,)}
    shapes |= {"W_skip": (5, 6)} if "skip" in architecture else {}
    shapes |= {"threshold": (10,)} if "jumprelu" in architecture else {}
    tensors = {name: torch.randn(shape, generator=drawn) for name, shape in shapes.items()}
    if "threshold" in tensors:
        tensors["threshold"].abs_()
    tensors |= changes.pop("tensors", {})
    tensors.pop(drop, None)
    sae = example_sae()
    config = {"architecture": architecture, "d_out": 5, "apply_b_dec_to_input": False, **changes}
    return write_saelens(folder, sae, config=config_of(sae, **config), tensors=tensors)


@pytest.mark.parametrize("architecture", TRANSCODERS)
@pytest.mark.parametrize("normalize", ["none", "constant_norm_rescale", "layer_norm"])
def test_trap_transcoders_normalise_their_input_alone(
    tmp_path: Path, architecture: str, normalize: str
) -> None:
    x = torch.linspace(-3, 4, 48).view(2, 4, 6)
    sae = load(write_transcoder(tmp_path, architecture, normalize_activations=normalize))
    w = load_file(tmp_path / "sae_weights.safetensors")
    z = x
    if normalize == "constant_norm_rescale":
        z = x * 6**0.5 / x.norm(dim=-1, keepdim=True)
    elif normalize == "layer_norm":
        z = x - x.mean(dim=-1, keepdim=True)
        z = z / (z.std(dim=-1, keepdim=True) + 1e-5)
    q = z @ w["W_enc"] + w["b_enc"]
    latents = torch.relu(q) * (q > w.get("threshold", torch.tensor(0.0)))
    written = latents @ w["W_dec"] + w["b_dec"]
    if "W_skip" in w:
        written = written + x @ w["W_skip"].T  # of the input as it is
    assert torch.equal(sae(x).latents != 0, latents != 0)
    torch.testing.assert_close(sae(x).latents, latents)
    torch.testing.assert_close(sae(x).reconstruction, written)
    assert (sae.transcoder, sae.b_pre, sae.d_out) == (True, None, 5)


@pytest.mark.parametrize(
    ("architecture", "changes", "message", "contract"),
    [
        (
            "transcoder",
            {"apply_b_dec_to_input": True},
            "apply_b_dec_to_input is True",
            "activation",
        ),
        ("transcoder", {"d_out": 4}, "d_out is 4, but the weights have 5", "shapes"),
        ("transcoder", {"d_out": None}, "d_out is None", "shapes"),
        ("transcoder", {"tensors": {"W_skip": torch.ones(5, 6)}}, "not understood: W_skip", "keys"),
        ("transcoder", {"tensors": {"b_pre": torch.ones(6)}}, "not understood: b_pre", "keys"),
        ("skip_transcoder", {"drop": "W_skip"}, "missing: W_skip", "keys"),
        ("jumprelu_transcoder", {"drop": "threshold"}, "missing: threshold", "keys"),
        (
            "skip_transcoder",
            {"tensors": {"W_skip": torch.ones(6, 5)}},
            "W_skip has shape [6, 5], expected [5, 6]",
            "shapes",
        ),
        (
            "transcoder",
            {"l1_coefficient": 1.0},
            "not understood for a transcoder SAE",
            "activation",
        ),
    ],
)
def test_transcoders_are_refused_by_name(
    tmp_path: Path, architecture: str, changes: dict[str, Any], message: str, contract: str
) -> None:
    with pytest.raises(LoadError) as caught:
        load(write_transcoder(tmp_path, architecture, **changes))
    assert message in str(caught.value)
    assert caught.value.contract == contract


def test_transcoders_declare_what_they_write(tmp_path: Path) -> None:
    metadata = {
        "sae_lens_version": "6.54.12",
        "model_name": "gpt2",
        "hook_name": "blocks.1.mlp.hook_in",
        "hook_name_out": "blocks.1.hook_mlp_out",
    }
    folder = write_transcoder(tmp_path, "transcoder", metadata=metadata)
    assert declare(folder) == Declaration("gpt2", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    assert load(folder).identity["hook_name_out"] == "blocks.1.hook_mlp_out"


def test_trap_a_scale_of_a_transcoder_is_that_of_its_output_too(tmp_path: Path) -> None:
    """SAELens folds it so: W_enc · s, W_dec / s, b_dec / s; the skip connection is left."""
    config = {"normalize_activations": "expected_average_only_in"}
    folder = write_transcoder(tmp_path, "skip_transcoder", **config)
    sae = load(folder, SaeOptions(scale=0.5))
    w = load_file(tmp_path / "sae_weights.safetensors")
    x = torch.linspace(-3, 4, 24).view(4, 6)
    latents = torch.relu(x @ (w["W_enc"] * 0.5) + w["b_enc"])
    written = latents @ (w["W_dec"] / 0.5) + w["b_dec"] / 0.5 + x @ w["W_skip"].T
    torch.testing.assert_close(sae(x).reconstruction, written)


def test_declared(tmp_path: Path) -> None:
    folder = write_saelens(tmp_path, example_sae())
    assert declare(folder) == Declaration("gpt2", "blocks.1.hook_resid_post")
    (folder / "cfg.json").write_text(
        json.dumps(config_of(example_sae(), metadata={"hook_name": 8}))
    )
    with pytest.raises(LoadError, match="hook_name is 8"):
        declare(folder)
