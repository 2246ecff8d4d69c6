"""Files of the smaller families, against their forward passes, and their traps."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

X = torch.linspace(-3, 4, 24).view(4, 6)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


# sparsify: W_dec lies as [d_sae, d_in], encoder.weight as [d_sae, d_in] too


def write_sparsify(folder: Path, **changes: Any) -> dict[str, Tensor]:
    tensors = {
        "encoder.weight": draw(10, 6), "encoder.bias": draw(10), "W_dec": draw(10, 7)[:, :6],
        "b_dec": draw(6),
    }  # fmt: skip
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    config = {"activation": "topk", "k": 2, "num_latents": 10, "d_in": 6, "transcode": False}
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({**config, **changes}))
    save_file(tensors, folder / "sae.safetensors")
    return tensors


def topk(post: Tensor) -> Tensor:
    top = post.topk(2, dim=-1)
    return torch.zeros_like(post).scatter(-1, top.indices, top.values)


def groupmax(post: Tensor) -> Tensor:
    groups = post.view(len(post), 2, 5)
    return (groups * (groups == groups.amax(-1, keepdim=True))).view(len(post), 10)


def signed(pre: Tensor) -> Tensor:
    return pre * (topk(pre.abs()) > 0)


@pytest.mark.parametrize(
    ("changes", "activate"),
    [
        ({}, lambda pre: topk(torch.relu(pre))),
        ({"activation": "groupmax"}, lambda pre: groupmax(torch.relu(pre))),
        ({"signed": True}, signed),
    ],
)
def test_sparsify(
    tmp_path: Path, changes: dict[str, Any], activate: Callable[[Tensor], Tensor]
) -> None:
    w = write_sparsify(tmp_path, **changes)
    latents = activate((X - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
    mine = load(tmp_path)(X)
    torch.testing.assert_close(mine.latents, latents)
    torch.testing.assert_close(mine.reconstruction, latents @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transcode": True}, "transcode is True: transcoders are not read yet"),
        ({"skip_connection": True}, "skip_connection is True"),
        ({"activation": "jumprelu"}, "activation is 'jumprelu', allowed: 'topk' or 'groupmax'"),
        ({"activation": "groupmax", "signed": True}, "activation is 'groupmax'"),
        ({"k": None}, "k is None"),
        ({"k": 11}, "k is 11, allowed: 1 to 10"),
        ({"activation": "groupmax", "k": 3}, "does not divide 10"),
        ({"d_in": 7}, "d_in is 7, but the weights have d_in 6"),
        ({"temperature": 1}, "temperature: not understood"),
    ],
)
def test_sparsify_refusals(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_sparsify(tmp_path, **changes)
    with pytest.raises(LoadError) as caught:
        load(tmp_path)
    assert message in str(caught.value)


# OpenAI


def write_openai(path: Path, **entries: Any) -> dict[str, Any]:
    held = {
        "pre_bias": draw(6), "latent_bias": draw(10), "encoder.weight": draw(10, 6),
        "decoder.weight": draw(6, 10), "stats_last_nonzero": torch.zeros(10, dtype=torch.int64),
    }  # fmt: skip
    torch.save({**held, **entries}, path)
    return held


def test_openai_relu(tmp_path: Path) -> None:
    for number, entries in enumerate(({}, {"activation": "ReLU", "activation_state_dict": {}})):
        path = tmp_path / f"{number}.pt"
        w = write_openai(path, **entries)
        f = torch.relu((X - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"])
        expected = f @ w["decoder.weight"].T + w["pre_bias"]
        torch.testing.assert_close(load(path)(X).reconstruction, expected)


@pytest.mark.parametrize(
    "said",
    [
        {"activation_state_dict": OrderedDict(k=3, postact_fn="ReLU")},
        {"activation.k": 3, "activation.postact_fn": "ReLU"},
    ],
)
def test_openai_topk_normalises_and_may_keep_fewer_than_k(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    w = write_openai(tmp_path / "8.pt", activation="TopK", **said)
    mean = X.mean(-1, keepdim=True)
    deviation = (X - mean).std(-1, keepdim=True)
    normalised = (X - mean) / (deviation + 1e-5)
    pre = (normalised - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]
    top = pre.topk(3, dim=-1)
    f = torch.zeros_like(pre).scatter(-1, top.indices, torch.relu(top.values))
    expected = (f @ w["decoder.weight"].T + w["pre_bias"]) * deviation + mean
    mine = load(tmp_path / "8.pt")(X)
    torch.testing.assert_close(mine.latents, f)
    torch.testing.assert_close(mine.reconstruction, expected)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"activation": "Identity"}, "activation is 'Identity'"),
        ({"activation": "TopK"}, "activation is 'TopK' with k None"),
        ({"activation": "TopK", "activation.k": 3, "activation.postact_fn": "Tanh"}, "'Tanh'"),
        ({"version": "4"}, "not understood: version"),
        ({"extra": torch.ones(1)}, "not understood: extra"),
    ],
)
def test_openai_refusals(tmp_path: Path, entries: dict[str, Any], message: str) -> None:
    write_openai(tmp_path / "8.pt", **entries)
    with pytest.raises(LoadError) as caught:
        load(tmp_path / "8.pt")
    assert message in str(caught.value)


# Gemma Scope: no pre-bias, whatever the names suggest


def write_gemma(folder: Path, *, lower: bool = False) -> dict[str, Any]:
    arrays = {
        "W_enc": draw(6, 10), "W_dec": draw(10, 6), "b_enc": draw(10), "b_dec": draw(6),
        "threshold": draw(10).abs(),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    named = {n.lower() if lower and n.startswith("W") else n: t for n, t in arrays.items()}
    np.savez(folder / "params.npz", allow_pickle=False, **{n: t.numpy() for n, t in named.items()})
    return arrays


@pytest.mark.parametrize("lower", [False, True])
def test_gemma_scope(tmp_path: Path, lower: bool) -> None:
    w = write_gemma(tmp_path, lower=lower)
    pre = X @ w["W_enc"] + w["b_enc"]
    f = torch.relu(pre) * (pre > w["threshold"])
    torch.testing.assert_close(load(tmp_path)(X).reconstruction, f @ w["W_dec"] + w["b_dec"])
    with pytest.raises(LoadError, match="says pre_bias False"):
        load(tmp_path, SaeOptions(pre_bias=True))


@pytest.mark.parametrize("site", ["transcoders", "embedding"])
def test_gemma_scope_refusals(tmp_path: Path, site: str) -> None:
    write_gemma(tmp_path / f"gemma-scope-2b-pt-{site}" / "layer_3")
    with pytest.raises(LoadError, match=f"Gemma Scope {site} are not read yet"):
        load(tmp_path / f"gemma-scope-2b-pt-{site}" / "layer_3")


# Bussmann: layer norm by default, an encoder bias that TopK does not use


def write_bussmann(folder: Path, **changes: Any) -> dict[str, Tensor]:
    w = {"W_enc": draw(6, 10), "W_dec": draw(10, 6), "b_enc": draw(10), "b_dec": draw(6)}
    config = {"sae_type": "topk", "top_k": 2, "hook_point": "blocks.8.hook_resid_pre", **changes}
    if config["sae_type"] == "jumprelu":
        w["jumprelu.log_threshold"] = draw(10) * 0.1
    torch.save(w, folder / "sae.pt")
    (folder / "config.json").write_text(json.dumps(config))
    return w


@pytest.mark.parametrize("kind", ["vanilla", "topk", "jumprelu"])
@pytest.mark.parametrize("normalised", [True, False])
def test_bussmann(tmp_path: Path, kind: str, normalised: bool) -> None:
    w = write_bussmann(tmp_path, sae_type=kind, input_unit_norm=normalised)
    mean = X.mean(-1, keepdim=True) if normalised else torch.zeros(4, 1)
    deviation = X.std(-1, keepdim=True) if normalised else torch.ones(4, 1)
    x = (X - mean) / (deviation + 1e-5) if normalised else X
    f = {
        "vanilla": lambda: torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]),
        "topk": lambda: topk(torch.relu((x - w["b_dec"]) @ w["W_enc"])),
        "jumprelu": lambda: (
            (r := torch.relu(x @ w["W_enc"] + w["b_enc"])) * (r > w["jumprelu.log_threshold"].exp())
        ),
    }[kind]()
    mine = load(tmp_path)(X)
    torch.testing.assert_close(mine.latents, f)
    torch.testing.assert_close(
        mine.reconstruction, (f @ w["W_dec"] + w["b_dec"]) * deviation + mean
    )
    assert declare(tmp_path / "sae.pt") == Declaration()  # the folder is the checkpoint
    assert declare(tmp_path) == Declaration(None, "blocks.8.hook_resid_pre")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sae_type": "batchtopk"}, "depend on its batch"),
        ({"sae_type": "gated"}, "sae_type is 'gated', allowed: vanilla, topk, jumprelu"),
        ({"top_k": None}, "top_k is None"),
        ({"input_unit_norm": "yes"}, "input_unit_norm is 'yes'"),
    ],
)
def test_bussmann_refusals(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_bussmann(tmp_path, **changes)
    with pytest.raises(LoadError) as caught:
        load(tmp_path)
    assert message in str(caught.value)


def test_neel(tmp_path: Path) -> None:
    w = {"W_enc": draw(6, 10), "W_dec": draw(10, 6), "b_enc": draw(10), "b_dec": draw(6)}
    torch.save(w, tmp_path / "25.pt")
    config = {"act_name": "blocks.0.mlp.hook_post", "act_size": 6, "dict_size": 10}
    (tmp_path / "25_cfg.json").write_text(json.dumps(config))
    f = torch.relu((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    mine = load(tmp_path / "25.pt")(X)
    torch.testing.assert_close(mine.reconstruction, f @ w["W_dec"] + w["b_dec"])
    assert declare(tmp_path / "25.pt") == Declaration(None, "blocks.0.mlp.hook_post")
    (tmp_path / "25_cfg.json").write_text(json.dumps({**config, "dict_size": 11}))
    with pytest.raises(LoadError, match="dict_size is 11, but the weights have 10"):
        load(tmp_path / "25.pt")


def test_goodfire(tmp_path: Path) -> None:
    w = {
        "encoder_linear.weight": draw(10, 6), "encoder_linear.bias": draw(10),
        "decoder_linear.weight": draw(6, 10), "decoder_linear.bias": draw(6),
    }  # fmt: skip
    torch.save(w, tmp_path / "sae.pth")
    f = torch.relu(X @ w["encoder_linear.weight"].T + w["encoder_linear.bias"])
    expected = f @ w["decoder_linear.weight"].T + w["decoder_linear.bias"]
    torch.testing.assert_close(load(tmp_path / "sae.pth")(X).reconstruction, expected)
