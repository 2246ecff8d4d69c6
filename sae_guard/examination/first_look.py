"""What an SAE, as it was loaded, makes of the batch."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from sae_guard.core.diagnosis import Examination, Group
from sae_guard.examination.batch import Batch
from sae_guard.examination.fitting import along_ones, fit_of, near_thresholds
from sae_guard.sae import SAE
from sae_guard.sae.sparse_forward import code

# Trained on what the patched model predicts, and not to reconstruct.
_END_TO_END = ("e2e_sae",)


def first_look(batch: Batch, sae: SAE) -> tuple[Examination, Int[Tensor, " d_sae"]]:
    """The examination without trials, and how often each latent fired."""
    scored = batch.corpus.scored
    x, y = (
        batch.whole(hook)[scored.to(batch.whole(hook).device)]
        for hook in (batch.place.read, batch.place.replaced)
    )
    coded = code(sae, x.to(sae.device))
    y, y_hat = y.cpu().double(), coded.reconstruction.cpu().double()
    ordinary = batch.ordinary[scored]
    l0 = float(coded.l0.cpu()[ordinary].double().mean())
    firings = coded.firings.cpu()
    norms = sae.decoder_norms().cpu()[firings > 0]
    return Examination(
        n_tokens=int(ordinary.sum()),
        architecture=sae.activation.architecture,
        processing=batch.model.processing,
        loaded=fit_of(y[ordinary], y_hat[ordinary], l0),
        decoder_norms=(float(norms.min()), float(norms.max())) if len(norms) else (0.0, 0.0),
        zero_bias=not bool(sae.b_dec.any()),
        ones_in_error=along_ones((y - y_hat)[ordinary]),
        ones_in_activation=along_ones(y[ordinary]),
        groups=tuple(_groups(batch, y, y - y_hat)),
        near_thresholds=near_thresholds(sae, x[ordinary.to(x.device)]),
        reconstructs=sae.source.format not in _END_TO_END,
    ), firings


def _groups(
    batch: Batch, y: Float[Tensor, "scored d_out"], error: Float[Tensor, "scored d_out"]
) -> list[Group]:
    scored = batch.corpus.scored
    squared, length = error.square().sum(dim=-1), y.square().sum(dim=-1)

    def relative(chosen: Tensor) -> float:
        return float(squared[chosen].sum() / length[chosen].sum())

    return [
        Group(
            name,
            tokens=float(chosen.double().mean()),
            error=float(squared[chosen].sum() / squared.sum()),
            relative=relative(chosen),
            ordinary=relative(batch.ordinary[scored]),
        )
        for name, mask in batch.groups.items()
        if bool((chosen := mask[scored]).any())
    ]
