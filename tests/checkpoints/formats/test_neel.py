"""Neel Nanda's 1L SAEs and their kin: ``NAME.pt`` beside ``NAME_cfg.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.errors import LoadError
from tests.helpers.drawn import X, check
from tests.helpers.releases.neel import ATTENTION, CONFIG, write

FIRST_RUNS = {"d_mlp": 6, "dict_mult": 2, "seed": 52}


@pytest.mark.parametrize(
    ("config", "declared"),
    [
        (CONFIG, Declaration(None, "blocks.0.mlp.hook_post")),
        (ATTENTION, Declaration("gpt2-small", "blocks.5.attn.hook_z")),
        (FIRST_RUNS, Declaration("gelu-1l", "blocks.0.mlp.hook_post")),
    ],
    ids=["1L", "attention", "first runs"],
)
@pytest.mark.parametrize("turned", [False, True])
def test_equals_the_forward_pass(
    tmp_path: Path, config: dict[str, Any], declared: Declaration, turned: bool
) -> None:
    w = write(tmp_path, config, turned=turned)
    latents = torch.relu((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    sae = load(tmp_path / "25.pt")
    check(sae, latents, latents @ w["W_dec"] + w["b_dec"])
    assert declare(tmp_path / "25.pt") == declared
    assert sae.source.declared["hook_name"] == declared.hook
    assert any("W_enc lies as [10, 6]" in a for a in sae.source.assumptions) is turned


def test_trap_the_decoder_of_the_originals_is_not_of_unit_norm(tmp_path: Path) -> None:
    w = write(tmp_path, CONFIG)
    assert torch.equal(load(tmp_path / "25.pt").W_dec, w["W_dec"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dict_size": 11}, "dict_size is 11, but the weights have 10"),
        ({"act_size": [6]}, "act_size is [6], but the weights have 6"),
        ({"d_mlp": 7}, "d_mlp is 7, but the weights have 6"),
        ({"act_name": 3}, "hook_point is 3, expected text"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, {**CONFIG, **changes})
    with pytest.raises(LoadError) as caught:
        load(tmp_path / "25.pt")
    assert message in str(caught.value)
