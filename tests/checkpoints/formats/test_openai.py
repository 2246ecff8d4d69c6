"""OpenAI: ReLU and TopK SAEs, against their forward pass; what the files do not say."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from tests.helpers.drawn import X, check, draw

STATISTICS = {"latents_activation_frequency": torch.ones(10), "latents_mean_square": torch.ones(10)}
TOPK = {"activation": "TopK", "activation.k": 3, "activation.postact_fn": "ReLU"}


def write(path: Path, *, released: bool = True, **entries: Any) -> dict[str, Any]:
    weights = {
        "pre_bias": draw(6), "latent_bias": draw(10), "encoder.weight": draw(10, 6),
        "decoder.weight": draw(6, 10, seed=1),
        "stats_last_nonzero": torch.zeros(10, dtype=torch.int64),
        **(STATISTICS if released else {}),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**weights, **entries}, path)
    return weights


@pytest.mark.parametrize("entries", [{}, {"activation": "ReLU", "activation_state_dict": {}}])
def test_relu(tmp_path: Path, entries: dict[str, Any]) -> None:
    w = write(tmp_path / "8.pt", **entries)
    latents = torch.relu((X - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"])
    expected = latents @ w["decoder.weight"].T + w["pre_bias"]
    check(load(tmp_path / "8.pt"), latents, expected)


@pytest.mark.parametrize(
    "entries",
    [
        {"activation_state_dict": OrderedDict(k=3, postact_fn="ReLU")},
        {"activation.k": 3, "activation.postact_fn": "ReLU"},
    ],
)
def test_trap_topk_normalises_without_saying_so_and_may_keep_fewer_than_k(
    tmp_path: Path, entries: dict[str, Any]
) -> None:
    w = write(tmp_path / "8.pt", activation="TopK", **entries)
    mean = X.mean(-1, keepdim=True)
    deviation = (X - mean).std(-1, keepdim=True)
    normalised = (X - mean) / (deviation + 1e-5)
    pre = (normalised - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"] - 4
    write(tmp_path / "8.pt", activation="TopK", latent_bias=w["latent_bias"] - 4, **entries)
    top = pre.topk(3, dim=-1)
    latents = torch.zeros_like(pre).scatter(-1, top.indices, torch.relu(top.values))
    assert bool(((latents != 0).sum(-1) < 3).any())
    expected = (latents @ w["decoder.weight"].T + w["pre_bias"]) * deviation + mean
    check(load(tmp_path / "8.pt"), latents, expected)


def test_a_tied_decoder(tmp_path: Path) -> None:
    w = write(tmp_path / "8.pt")
    tied = {n: v for n, v in w.items() if n != "decoder.weight"}
    torch.save({**tied, "decoder.linear.weight": w["encoder.weight"]}, tmp_path / "8.pt")
    latents = torch.relu((X - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"])
    check(load(tmp_path / "8.pt"), latents, latents @ w["encoder.weight"] + w["pre_bias"])
    torch.save({**tied, "decoder.linear.weight": w["encoder.weight"] + 1}, tmp_path / "8.pt")
    with pytest.raises(LoadError, match=r"decoder\.linear\.weight differs from encoder\.weight"):
        load(tmp_path / "8.pt")


def test_trap_a_file_of_the_training_says_neither_activation_nor_normalisation(
    tmp_path: Path,
) -> None:
    write(tmp_path / "8.pt", released=False)
    with pytest.raises(LoadError, match=r"decide in the spec:\n  sae\.architecture: st"):
        load(tmp_path / "8.pt")
    with pytest.raises(LoadError, match=r"train\.py"):
        load(tmp_path / "8.pt", SaeOptions(architecture="topk", k=3))
    sae = load(tmp_path / "8.pt", SaeOptions(architecture="standard"))
    assert sae.identity["architecture"] == "standard"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"activation": "Identity"}, "activation is 'Identity'"),
        ({"activation": "TopK"}, "activation is 'TopK' with k None"),
        ({**TOPK, "activation.postact_fn": "Tanh"}, "'Tanh'"),
        ({"activation": "TopK", "activation_state_dict": [3]}, "with k None"),
        ({"version": "4"}, "not understood: version"),
        ({"extra": torch.ones(1)}, "not understood: extra"),
    ],
)
def test_refusals(tmp_path: Path, entries: dict[str, Any], message: str) -> None:
    write(tmp_path / "8.pt", **entries)
    with pytest.raises(LoadError) as caught:
        load(tmp_path / "8.pt")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("gpt2-small/resid_post_mlp_v5_32k", Declaration("gpt2-small", "blocks.8.hook_resid_post")),
        ("gpt2-small/resid_post_attn_v4", Declaration("gpt2-small", "blocks.8.hook_resid_mid")),
        ("resid_delta_attn_v5_128k", Declaration(None, "blocks.8.hook_attn_out")),
        ("resid_delta_mlp", Declaration(None, "blocks.8.hook_mlp_out")),
        ("mlp_post_act", Declaration(None, "blocks.8.mlp.hook_post")),
        ("elsewhere", Declaration()),
    ],
)
def test_the_path_says_where(tmp_path: Path, folder: str, expected: Declaration) -> None:
    path = tmp_path / folder / "autoencoders" / "8.pt"
    write(path)
    assert declare(path) == expected
    assert load(path).source.declared.get("hook_name") == expected.hook
