"""dictionary_learning files: the class decides the forward pass, and the traps of the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.formats.dictionary_learning import CLASSES
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

D_IN, D_SAE = 6, 10
KEYS: dict[str, dict[str, tuple[int, ...]]] = {
    "AutoEncoder": {"bias": (6,), "encoder.weight": (10, 6), "encoder.bias": (10,),
                    "decoder.weight": (6, 10)},
    "AutoEncoderNew": {"encoder.weight": (10, 6), "encoder.bias": (10,),
                       "decoder.weight": (6, 10), "decoder.bias": (6,)},
    "GatedAutoEncoder": {"decoder_bias": (6,), "r_mag": (10,), "gate_bias": (10,),
                         "mag_bias": (10,), "encoder.weight": (10, 6), "decoder.weight": (6, 10)},
    "JumpReluAutoEncoder": {"W_enc": (6, 10), "b_enc": (10,), "W_dec": (10, 6), "b_dec": (6,),
                            "threshold": (10,)},
    "AutoEncoderTopK": {"b_dec": (6,), "threshold": (), "encoder.weight": (10, 6),
                        "encoder.bias": (10,), "decoder.weight": (6, 10)},
    "BatchTopKSAE": {"b_dec": (6,), "threshold": (), "encoder.weight": (10, 6),
                     "encoder.bias": (10,), "decoder.weight": (6, 10)},
    "MatryoshkaBatchTopKSAE": {"W_enc": (6, 10), "b_enc": (10,), "W_dec": (10, 6), "b_dec": (6,),
                               "threshold": ()},
}  # fmt: skip
WITH_K = ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE")


def state(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    tensors = {key: torch.randn(shape, generator=generator) for key, shape in KEYS[name].items()}
    if "threshold" in tensors:
        tensors["threshold"] = tensors["threshold"].abs() + 0.1
    if name in WITH_K:
        tensors["k"] = torch.tensor(3)
    if name.startswith("Matryoshka"):
        tensors["group_sizes"] = torch.tensor([4, 6])
    return tensors


def write(
    folder: Path, name: str, *, tensors: Any = None, trainer: dict[str, Any] | None = None
) -> Path:
    torch.save(state(name) if tensors is None else tensors, folder / "ae.pt")
    config = {"trainer": {"dict_class": name, **(trainer or {})}, "buffer": {}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def slow_forward(name: str, w: dict[str, Tensor], x: Tensor) -> Tensor:
    """The library's forward passes, from its source."""
    if name in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        encoder, decoder, b_enc, b_dec = w["W_enc"], w["W_dec"], w["b_enc"], w["b_dec"]
    else:
        encoder, decoder = w["encoder.weight"].T, w["decoder.weight"].T
        b_enc = w.get("encoder.bias", torch.zeros(D_SAE))
        b_dec = next(w[n] for n in ("bias", "decoder.bias", "decoder_bias", "b_dec") if n in w)
    pre_bias = name not in ("AutoEncoderNew", "JumpReluAutoEncoder")
    pre = (x - b_dec if pre_bias else x) @ encoder + b_enc
    if name == "GatedAutoEncoder":
        f = (pre + w["gate_bias"] > 0) * torch.relu(w["r_mag"].exp() * pre + w["mag_bias"])
    elif name == "AutoEncoderTopK":
        post = torch.relu(pre)
        top = post.topk(3, dim=-1)
        f = torch.zeros_like(post).scatter(-1, top.indices, top.values)
    elif "threshold" in w:
        f = torch.relu(pre) * (torch.relu(pre) > w["threshold"])
    else:
        f = torch.relu(pre)
    return f @ decoder + b_dec


@pytest.mark.parametrize("name", CLASSES)
def test_each_class_by_its_config(tmp_path: Path, name: str) -> None:
    x = torch.linspace(-3, 4, 24).view(4, 6)
    sae = load(write(tmp_path, name))
    torch.testing.assert_close(sae(x).reconstruction, slow_forward(name, state(name), x))
    assert sae.source.format == f"dictionary_learning {name}"
    assert set(sae.source.files) == {"config.json", "ae.pt"}


def same(a: SAE, b: SAE) -> bool:
    x = torch.linspace(-3, 4, 24).view(4, 6)
    return torch.equal(a(x).reconstruction, b(x).reconstruction)


@pytest.mark.parametrize("name", ["AutoEncoder", "GatedAutoEncoder", "MatryoshkaBatchTopKSAE"])
def test_decisive_keys_need_no_config(tmp_path: Path, name: str) -> None:
    with_config = load(write(tmp_path, name))
    (tmp_path / "config.json").unlink()
    assert same(load(tmp_path / "ae.pt"), with_config)


def test_topk_or_batchtopk_has_to_be_said_without_a_config(tmp_path: Path) -> None:
    torch.save(state("AutoEncoderTopK"), tmp_path / "ae.pt")
    with pytest.raises(LoadError) as caught:
        load(tmp_path / "ae.pt")
    assert str(caught.value).splitlines()[1:] == [
        "  sae.architecture: topk (AutoEncoderTopK)",
        "  sae.architecture: jumprelu (BatchTopKSAE)",
    ]
    for architecture in ("topk", "jumprelu"):
        options = SaeOptions.model_validate({"architecture": architecture})
        assert load(tmp_path / "ae.pt", options).activation.architecture == architecture


def test_a_checkpoint_of_a_step_uses_the_config_above(tmp_path: Path) -> None:
    write(tmp_path, "AutoEncoderTopK")
    (tmp_path / "checkpoints").mkdir()
    torch.save(state("AutoEncoderTopK"), tmp_path / "checkpoints" / "ae_100.pt")
    assert same(load(tmp_path / "checkpoints" / "ae_100.pt"), load(tmp_path))


def test_an_annealed_k_is_that_of_the_buffer(tmp_path: Path) -> None:
    assert load(write(tmp_path, "AutoEncoderTopK", trainer={"k": 9})).identity["k"] == 3


def test_files_of_2024_have_no_k_and_a_decoder_that_is_a_parameter(tmp_path: Path) -> None:
    tensors = state("AutoEncoderTopK")
    expected = load(write(tmp_path, "AutoEncoderTopK"))
    old = {n: t for n, t in tensors.items() if n not in ("k", "threshold", "decoder.weight")}
    old["decoder"] = tensors["decoder.weight"].T.contiguous()
    folder = tmp_path / "old"
    folder.mkdir()
    assert same(load(write(folder, "AutoEncoderTopK", tensors=old, trainer={"k": 3})), expected)
    (folder / "config.json").unlink()
    assert same(load(folder / "ae.pt", SaeOptions(k=3)), expected)
    with pytest.raises(LoadError, match=r"sae\.k: a whole number"):
        load(folder / "ae.pt")


def test_a_gated_file_without_r_mag_has_zeros(tmp_path: Path) -> None:
    tensors = state("GatedAutoEncoder")
    del tensors["r_mag"]
    sae = load(write(tmp_path, "GatedAutoEncoder", tensors=tensors))
    zeros = {**tensors, "r_mag": torch.zeros(D_SAE)}
    x = torch.linspace(-3, 4, 24).view(4, 6)
    torch.testing.assert_close(sae(x).reconstruction, slow_forward("GatedAutoEncoder", zeros, x))


def test_a_threshold_of_minus_one_was_never_trained(tmp_path: Path) -> None:
    tensors = {**state("BatchTopKSAE"), "threshold": torch.tensor(-1.0)}
    with pytest.raises(LoadError, match="never trained"):
        load(write(tmp_path, "BatchTopKSAE", tensors=tensors))
    top = {**state("AutoEncoderTopK"), "threshold": torch.tensor(-1.0)}
    load(write(tmp_path, "AutoEncoderTopK", tensors=top))  # TopK does not read it


def write_backup(folder: Path, name: str, **changes: Any) -> Path:
    """The ``ae.pt`` of an interrupted run; a change to None leaves an entry out."""
    backup = {
        "step": 5, "ae": state(name), "optimizer": {}, "config": {"dict_class": name},
        "norm_factor": 4.0, **changes,
    }  # fmt: skip
    torch.save(
        {n: v for n, v in backup.items() if not isinstance(v, str) or v != "left out"},
        folder / "ae.pt",
    )
    return folder / "ae.pt"


@pytest.mark.parametrize("name", CLASSES)
def test_trap_a_backup_expects_activations_divided_by_norm_factor(
    tmp_path: Path, name: str
) -> None:
    x = torch.linspace(-30, 40, 48).view(2, 4, 6)
    sae = load(write_backup(tmp_path, name))
    expected = slow_forward(name, state(name), x / 4.0) * 4.0
    torch.testing.assert_close(sae(x).reconstruction, expected, rtol=1e-5, atol=1e-4)
    assert sae.source.format == f"dictionary_learning {name} backup"
    assert (sae.scale_in, sae.scale_out) == (0.25, 0.25)


def test_a_norm_factor_may_be_a_tensor_or_none(tmp_path: Path) -> None:
    sae = load(write_backup(tmp_path, "AutoEncoder", norm_factor=torch.tensor(4.0)))
    assert sae.scale_in == 0.25
    assert load(write_backup(tmp_path, "AutoEncoder", norm_factor=None)).scale_in == 1


def test_trap_a_backup_without_norm_factor_is_ambiguous(tmp_path: Path) -> None:
    path = write_backup(tmp_path, "AutoEncoder", norm_factor="left out")
    with pytest.raises(LoadError) as caught:
        load(path)
    assert caught.value.contract == "scale"
    assert str(caught.value).splitlines()[1:] == [
        "  sae.scale: folded (activations were not normalised)",
        "  sae.scale: 1 / norm_factor",
    ]
    assert load(path, SaeOptions(scale="folded")).scale_in == 1
    assert load(path, SaeOptions(scale=0.25)).scale_in == 0.25


def test_trap_a_finished_run_in_the_form_of_a_backup_may_be_folded(tmp_path: Path) -> None:
    path = write_backup(tmp_path, "AutoEncoder", optimizer="left out")
    with pytest.raises(LoadError) as caught:
        load(path)
    assert caught.value.contract == "scale"
    assert str(caught.value).splitlines()[1:] == [
        "  sae.scale: folded (they do, as at the end of training)",
        "  sae.scale: stored (they do not: activations are divided by it)",
    ]
    assert load(path, SaeOptions(scale="folded")).scale_in == 1
    assert load(path, SaeOptions(scale="stored")).scale_in == 0.25
    assert load(path, SaeOptions(scale=0.25)).scale_in == 0.25


@pytest.mark.parametrize(
    ("changes", "scale", "message", "contract"),
    [
        ({"norm_factor": 0.0}, None, "norm_factor is 0.0, allowed: a number above 0", "scale"),
        ({"norm_factor": float("nan")}, None, "norm_factor is nan", "scale"),
        ({"norm_factor": "4"}, None, "norm_factor is '4'", "scale"),
        ({}, "folded", "divided by norm_factor 4, the `sae` options say folded", "scale"),
        ({}, 0.5, "has scale 0.25, the `sae` options say 0.5", "scale"),
        ({"config": []}, None, "config is a list, expected an object", "readable"),
        ({"ae": [1]}, None, "ae is a list, expected an object", "readable"),
        ({"config": {"dict_class": ["AutoEncoder"]}}, None, "is ['AutoEncoder']", "activation"),
        ({"config": {"dict_class": "AutoEncodr"}}, None, "did you mean AutoEnc", "activation"),
    ],
)
def test_backups_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], scale: Any, message: str, contract: str
) -> None:
    path = write_backup(tmp_path, "AutoEncoder", **changes)
    with pytest.raises(LoadError) as caught:
        load(path, SaeOptions.model_validate({"scale": scale}))
    assert message in str(caught.value)
    assert caught.value.contract == contract


def test_trap_a_backup_of_another_class_than_its_config_says(tmp_path: Path) -> None:
    write(tmp_path, "BatchTopKSAE")
    write_backup(tmp_path, "AutoEncoderTopK")
    with pytest.raises(LoadError, match="dict_class is 'AutoEncoderTopK', but 'BatchTopKSAE' in"):
        load(tmp_path)


def test_trap_an_untrained_threshold_of_a_backup_is_refused(tmp_path: Path) -> None:
    tensors = {**state("BatchTopKSAE"), "threshold": torch.tensor(-1.0)}
    with pytest.raises(LoadError, match="never trained"):
        load(write_backup(tmp_path, "BatchTopKSAE", ae=tensors))


@pytest.mark.parametrize("key", ["trainer", "buffer"])
def test_a_config_of_another_shape_is_refused(tmp_path: Path, key: str) -> None:
    write(tmp_path, "AutoEncoder")
    (tmp_path / "config.json").write_text(json.dumps({key: [1]}))
    with pytest.raises(LoadError, match=f"{key} is a list, expected an object"):
        load(tmp_path)


def test_a_k_of_several_values_is_refused(tmp_path: Path) -> None:
    tensors = {**state("AutoEncoderTopK"), "k": torch.tensor([3, 4])}
    with pytest.raises(LoadError, match=r"k has shape \[2\]"):
        load(write(tmp_path, "AutoEncoderTopK", tensors=tensors))


def test_trap_a_buffer_of_inputs_and_outputs_is_that_of_a_transcoder(tmp_path: Path) -> None:
    write(tmp_path, "AutoEncoder")
    assert not load(tmp_path).transcoder
    config = {"trainer": {"dict_class": "AutoEncoder"}, "buffer": {"io": "in_and_out"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(tmp_path).transcoder


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("AutoEncoder", SaeOptions(pre_bias=False), "says pre_bias True"),
        ("AutoEncoderTopK", SaeOptions(k=4), "says k 3"),
        ("BatchTopKSAE", SaeOptions(architecture="topk"), "says architecture 'jumprelu'"),
    ],
)
def test_options_may_not_contradict_the_class(
    tmp_path: Path, name: str, options: SaeOptions, message: str
) -> None:
    with pytest.raises(LoadError, match=message):
        load(write(tmp_path, name), options)


def test_an_unknown_class_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="did you mean AutoEncoder"):
        load(write(tmp_path, "AutoEncoder", trainer={"dict_class": "AutoEncodr"}))
    torch.save({"a": torch.ones(1)}, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text('{"trainer": {}}')
    with pytest.raises(
        LoadError, match=r"trainer\.dict_class is missing, .*; allowed: AutoEncoder, "
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("trainer", "buffer", "hook"),
    [
        ({"layer": 3}, {}, "blocks.3.hook_resid_post"),
        ({"layer": 3, "submodule_name": "resid_post_layer_3"}, {}, "blocks.3.hook_resid_post"),
        ({"layer": 3, "submodule_name": None}, {"io": "out"}, "blocks.3.hook_resid_post"),
        ({"layer": 3, "submodule_name": "mlp3"}, {}, None),
        ({"layer": 3}, {"io": "in"}, None),
        ({}, {}, None),
        ({"layer": "3"}, {}, None),
    ],
)
def test_declared(
    tmp_path: Path, trainer: dict[str, Any], buffer: dict[str, Any], hook: str | None
) -> None:
    (tmp_path / "ae.pt").write_bytes(b"")
    config = {"trainer": {"lm_name": "pythia", **trainer}, "buffer": buffer}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert declare(tmp_path) == Declaration("pythia", hook)
