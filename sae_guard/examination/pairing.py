"""Whether encoder and decoder belong together, by the cosines of their latents' vectors."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import normalize

from sae_guard.core.diagnosis import Pairing
from sae_guard.sae import SAE

# Cosines that exist at once.
_ELEMENTS = 2**24


def nearest_rows(
    sae: SAE, latents: Int[Tensor, " latents"]
) -> tuple[Pairing, Int[Tensor, " latents"]]:
    """How these latents' encoder columns lie to the decoder's rows, and which rows are nearest.

    Args:
        sae: That reads and writes the same space.
        latents: Some of them, at least one.
    """
    latents = latents.to(sae.device)
    columns = normalize(sae.W_enc[:, latents].T, dim=-1)
    own = (columns * normalize(sae.W_dec[latents], dim=-1)).sum(dim=-1)
    best = own.new_full((len(latents),), -2.0)
    row = latents.clone()
    step = max(1, _ELEMENTS // len(latents))
    for start in range(0, sae.d_sae, step):
        cosines = columns @ normalize(sae.W_dec[start : start + step], dim=-1).T
        found = cosines.max(dim=-1)
        row = torch.where(found.values > best, found.indices + start, row)
        best = torch.maximum(best, found.values)
    # Rows that are doubles of each other are no mistake.
    is_own = (row == latents) | (own >= best - 1e-6)
    pairing = Pairing(
        own=float(own.median()), best=float(best.median()), own_share=float(is_own.float().mean())
    )
    return pairing, row


def rematched(sae: SAE, latents: Int[Tensor, " latents"], rows: Int[Tensor, " latents"]) -> SAE:
    """The SAE with the decoder rows of these latents replaced by others of its own."""
    W_dec = sae.W_dec.clone()
    W_dec[latents.to(sae.device)] = sae.W_dec[rows]
    return replace(sae, W_dec=W_dec)
