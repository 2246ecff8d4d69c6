"""Trials at other hook points, and of decoders whose rows are in another order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sae_guard.engine import HookSite
from sae_guard.examination.trials import Reach, nearby_sites, nearest_rows, rearrange_decoder
from sae_guard.sae.controls import identity_sae
from tests.helpers.checkpoint_files import example_sae


def test_nearest_rows_equal_those_of_all_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    sae = example_sae()
    monkeypatch.setattr("sae_guard.examination.trials._ELEMENTS", 9)  # three rows at a time
    latents = torch.tensor([4, 1, 7])
    pairing, rows = nearest_rows(sae, latents)
    cosines = torch.nn.functional.cosine_similarity(
        sae.W_enc.T[latents].unsqueeze(1), sae.W_dec.unsqueeze(0), dim=-1
    )
    assert rows.tolist() == cosines.argmax(dim=1).tolist()
    own = cosines[range(3), latents]
    assert pairing.own == pytest.approx(float(own.median()), abs=1e-6)
    assert pairing.best == pytest.approx(float(cosines.amax(dim=1).median()), abs=1e-6)
    assert pairing.own_share == pytest.approx(float((rows == latents).float().mean()))


def test_a_permutation_of_the_decoder_is_undone() -> None:
    sae = identity_sae(8)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    permuted = replace(sae, W_dec=sae.W_dec[order])
    latents = torch.arange(16)
    pairing, rows = nearest_rows(permuted, latents)
    assert pairing.own_share < 0.5
    assert torch.equal(rearrange_decoder(permuted, latents, rows).W_dec, sae.W_dec)
    assert nearest_rows(sae, latents)[0].own_share == 1


HOOKS = {
    f"blocks.{block}.{kind}"
    for block in range(4)
    for kind in ("hook_resid_pre", "hook_resid_post", "hook_mlp_out", "attn.hook_z", "mlp.hook_in")
}  # without hook_resid_mid, as in parallel blocks


@pytest.mark.parametrize(
    ("hook", "reach", "expected"),
    [
        ("blocks.1.hook_mlp_out", "next_blocks", ["0.hook_mlp_out", "2.hook_mlp_out"]),
        ("blocks.0.hook_mlp_out", "near", ["1.hook_mlp_out"]),
        ("blocks.3.attn.hook_z", "near", ["2.attn.hook_z", "3.hook_mlp_out"]),
        (
            "blocks.3.hook_resid_post", "near",
            ["2.hook_resid_post", "3.hook_resid_pre", "2.hook_resid_pre", "3.hook_mlp_out"],
        ),
        ("ln_final.hook_out", "far", []),
    ],
)  # fmt: skip
def test_nearby_sites_come_in_order_of_similarity(
    hook: str, reach: Reach, expected: list[str]
) -> None:
    sites = list(nearby_sites(HookSite(hook, hook), HOOKS, reach))
    assert [site.read.removeprefix("blocks.") for site in sites] == expected
    assert all(site.read == site.replaced for site in sites)


def test_far_sites_are_all_kinds_up_to_three_blocks_away() -> None:
    hook = "blocks.0.hook_mlp_out"
    sites = {site.read for site in nearby_sites(HookSite(hook, hook), HOOKS, "far")}
    assert sites == {h for h in HOOKS if "hook_z" not in h and "hook_in" not in h} - {hook}


def test_hook_points_of_a_transcoder_move_together() -> None:
    site = HookSite("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    assert list(nearby_sites(site, HOOKS, "near")) == [
        HookSite(f"blocks.{block}.mlp.hook_in", f"blocks.{block}.hook_mlp_out") for block in (0, 2)
    ]
