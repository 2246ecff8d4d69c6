"""Bussmann's repositories: layer norm, an encoder bias that TopK does not use, thresholds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.errors import LoadError
from tests.helpers.drawn import X, check, draw, jumprelu, topk

MATRYOSHKA = ("batch-topk", "global-matryoshka-topk")


def write(folder: Path, tensors: dict[str, Tensor] | None = None, **changes: Any) -> dict[str, Any]:
    w = {
        "W_enc": draw(6, 10), "W_dec": draw(10, 6, seed=1), "b_enc": draw(10), "b_dec": draw(6),
        **(tensors or {}),
    }  # fmt: skip
    config = {
        "sae_type": "topk", "top_k": 2, "hook_point": "blocks.8.hook_resid_pre",
        "model_name": "gpt2-small", "input_unit_norm": False, "act_size": 6, "dict_size": 10,
        **changes,
    }  # fmt: skip
    if config["sae_type"] == "jumprelu":
        w["jumprelu.log_threshold"] = draw(10, seed=2) * 0.1
    if config["sae_type"] in MATRYOSHKA and tensors is None:
        w["threshold"] = torch.tensor(0.7)
    torch.save(w, folder / "sae.pt")
    (folder / "config.json").write_text(json.dumps(config))
    return w


@pytest.mark.parametrize("kind", ["vanilla", "topk", "jumprelu", *MATRYOSHKA])
@pytest.mark.parametrize("normalised", [True, False])
def test_equals_the_forward_pass(tmp_path: Path, kind: str, normalised: bool) -> None:
    w = write(tmp_path, sae_type=kind, input_unit_norm=normalised)
    mean = X.mean(-1, keepdim=True) if normalised else torch.zeros(2, 5, 1)
    deviation = X.std(-1, keepdim=True) if normalised else torch.ones(2, 5, 1)
    x = (X - mean) / (deviation + 1e-5) if normalised else X
    centred = (x - w["b_dec"]) @ w["W_enc"]
    if kind == "vanilla":
        latents = torch.relu(centred + w["b_enc"])
    elif kind == "topk":
        latents = topk(torch.relu(centred))
    elif kind == "jumprelu":
        positive = torch.relu(x @ w["W_enc"] + w["b_enc"])
        latents = positive * (positive > w["jumprelu.log_threshold"].exp())
    else:
        latents = jumprelu(centred, w["threshold"])
    sae = load(tmp_path)
    check(sae, latents, (latents @ w["W_dec"] + w["b_dec"]) * deviation + mean)
    assert sae.source.declared["hook_name"] == "blocks.8.hook_resid_pre"
    assert sae.source.declared["model_name"] == "gpt2-small"
    assert declare(tmp_path / "sae.pt") == Declaration()  # the folder is the checkpoint
    assert declare(tmp_path) == Declaration("gpt2-small", "blocks.8.hook_resid_pre")


@pytest.mark.parametrize("kind", ["topk", *MATRYOSHKA])
def test_trap_the_stored_encoder_bias_is_not_used(tmp_path: Path, kind: str) -> None:
    write(tmp_path, sae_type=kind)
    assert not load(tmp_path).b_enc.any()


def test_trap_jumprelu_takes_no_pre_bias_off(tmp_path: Path) -> None:
    write(tmp_path, sae_type="jumprelu")
    assert load(tmp_path).b_pre is None


@pytest.mark.parametrize("kind", ["batchtopk", *MATRYOSHKA])
def test_trap_batchtopk_without_a_threshold_depends_on_batch_mates(
    tmp_path: Path, kind: str
) -> None:
    write(tmp_path, {}, sae_type=kind)
    with pytest.raises(LoadError, match="depend on its batch") as caught:
        load(tmp_path)
    assert caught.value.contract == "batch_mates"


@pytest.mark.parametrize("name", ["threshold", "aux_threshold"])
def test_trap_the_thresholds_of_an_unmerged_branch_are_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: torch.tensor(0.7)}, sae_type="batchtopk")
    with pytest.raises(LoadError, match="unmerged branch") as caught:
        load(tmp_path)
    assert caught.value.contract == "batch_mates"


@pytest.mark.parametrize("kind", MATRYOSHKA)
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_trap_a_threshold_that_was_never_trained_is_refused(
    tmp_path: Path, kind: str, value: float
) -> None:
    write(tmp_path, {"threshold": torch.tensor(value)}, sae_type=kind)
    with pytest.raises(LoadError, match="never trained"):
        load(tmp_path)


def test_trap_matrices_that_lie_the_other_way_round(tmp_path: Path) -> None:
    w = write(tmp_path)
    turned = {n: t.T.contiguous() if t.ndim == 2 else t for n, t in w.items()}
    torch.save(turned, tmp_path / "sae.pt")
    latents = topk(torch.relu((X - w["b_dec"]) @ w["W_enc"]))
    check(load(tmp_path), latents, latents @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sae_type": "gated"}, "sae_type is 'gated', allowed: vanilla, topk, jumprelu"),
        ({"sae_type": ["topk"]}, "sae_type is ['topk'], allowed"),
        ({"top_k": None}, "top_k is None"),
        ({"input_unit_norm": "yes"}, "input_unit_norm is 'yes'"),
        ({"input_unit_norm": None}, "input_unit_norm is None, expected true or false"),
        ({"dict_size": 11}, "dict_size is 11, but the weights have 10"),
        ({"hook_point": 3}, "hook_point is 3, expected text"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(LoadError) as caught:
        load(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_encoder_bias": True}, "use_encoder_bias is True, allowed: False"),
        ({"tied_weights": True}, "tied_weights is True"),
        ({"activation": "gelu"}, "activation is 'gelu'"),
        ({"activation": "relu", "input_unit_norm": True}, "did not undo the normalisation"),
    ],
)
def test_trap_files_of_the_first_weeks_may_compute_something_else(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write(tmp_path, **changes)
    with pytest.raises(LoadError) as caught:
        load(tmp_path)
    assert message in str(caught.value)


def test_switches_of_the_first_weeks_that_change_nothing(tmp_path: Path) -> None:
    write(tmp_path, use_encoder_bias=False, tied_weights=False, activation="relu")
    assert load(tmp_path).identity["architecture"] == "topk"
