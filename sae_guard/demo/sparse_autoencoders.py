"""Train the demo's sparse autoencoders (SAEs).

There is no auxiliary loss and no resampling of dead latents: none dies, because there are few, the
encoder starts as the transpose of the decoder, and ``b_dec`` as the mean activation.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

logger = logging.getLogger(__name__)

_HIDDEN_STATE = 3
"""Index of the output of block 2: hidden state 0 is the embedding, so block n leaves n + 1."""
_WARM_UP_STEPS = 50
_DECAY_SHARE = 0.3
"""Share of the steps, at the end, in which the learning rate falls to zero."""
_CALIBRATION_BATCHES = 50
"""Batches over whose smallest active latents the threshold is averaged."""
_LOG_EVERY = 1000  # steps


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of the training of one SAE.

    ``per_token`` keeps the ``k`` largest latents of each token (TopK, Gao et al. 2024).
    ``per_batch`` keeps the ``k * batch_size`` largest of a batch (BatchTopK, Bussmann et al. 2024),
    so that tokens that are hard to reconstruct may use more than ``k``.
    """

    selection: Literal["per_token", "per_batch"]
    steps: int
    d_sae: int = 512
    k: int = 16
    batch_size: int = 2048  # activations
    peak_learning_rate: float = 3e-3


@torch.no_grad()
def collect_activations(model: GPT2LMHeadModel, windows: torch.Tensor) -> torch.Tensor:
    """Return the activations at the demo's hook point, without those of BOS.

    Args:
        model: The demo's language model.
        windows: Token ids ``[windows, context]``, BOS first.

    Returns:
        Activations ``[windows * (context - 1), d_model]``.
    """
    parts = [
        model.transformer(batch, output_hidden_states=True).hidden_states[_HIDDEN_STATE][:, 1:]
        for batch in torch.split(windows, 64)
    ]
    return torch.cat(parts).flatten(0, 1)


def scale_of(activations: torch.Tensor) -> float:
    """Return the power of two by which to multiply activations to bring their spread near 1.

    A power of two, because multiplying by it rounds nothing: after the training the scale can be
    folded into the weights exactly.

    Args:
        activations: ``[rows, d_model]``; the spread is the root of their mean variance.
    """
    spread = activations.var(dim=0).mean().sqrt().item()
    return 2.0 ** round(-math.log2(spread))


class SparseAutoencoder(torch.nn.Module):
    """An SAE in training: encoder ``[d_in, d_sae]``, decoder ``[d_sae, d_in]``, and their biases.

    Decoder rows have length 1. ``b_dec`` is subtracted from the input and added to the output.
    """

    def __init__(self, recipe: Recipe, mean: torch.Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.recipe = recipe
        rows = F.normalize(torch.randn(recipe.d_sae, len(mean), generator=generator), dim=1)
        self.W_dec = torch.nn.Parameter(rows)
        self.W_enc = torch.nn.Parameter(rows.t().clone())
        self.b_enc = torch.nn.Parameter(torch.zeros(recipe.d_sae))
        self.b_dec = torch.nn.Parameter(mean.clone())

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Return latents ``[rows, d_sae]`` of inputs ``[rows, d_in]``, 0 but for the largest."""
        latents = torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)
        if self.recipe.selection == "per_token":
            return keep_largest(latents, self.recipe.k)
        # BatchTopK: the batch competes as one.
        return keep_largest(latents.flatten(), self.recipe.k * len(latents)).view_as(latents)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return reconstructions ``[rows, d_in]`` of latents ``[rows, d_sae]``."""
        return latents @ self.W_dec + self.b_dec

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Remove from each row's gradient the part along the row, which changes only its length.

        Lengths are set back to 1 after each step; Adam's moments should not hold that part.
        """
        gradient = self.W_dec.grad
        assert gradient is not None, "there was no backward pass"
        gradient -= (gradient * self.W_dec).sum(dim=1, keepdim=True) * self.W_dec

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Bring every decoder row back to length 1."""
        self.W_dec.copy_(F.normalize(self.W_dec, dim=1))


def keep_largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Return the values with all but the ``count`` largest along the last dimension set to zero."""
    largest, indices = values.topk(count, dim=-1, sorted=False)
    return torch.zeros_like(values).scatter(-1, indices, largest)


def _learning_rate_factor(step: int, steps: int) -> float:
    """Rise linearly to 1, stay there, and fall linearly to 0."""
    warm_up = (step + 1) / _WARM_UP_STEPS
    decay = (steps - step) / (_DECAY_SHARE * steps)
    return min(1.0, warm_up, decay)


def train_sparse_autoencoder(
    activations: torch.Tensor, recipe: Recipe, generator: torch.Generator
) -> tuple[SparseAutoencoder, float]:
    """Train an SAE to reconstruct activations.

    Args:
        activations: ``[rows, d_in]``, of a spread near 1.
        recipe: Hyperparameters.
        generator: Source of the first weights and of the batches.

    Returns:
        The SAE, and the threshold for its latents: the mean, over batches, of the smallest latent
        that a batch keeps. Under ``per_batch`` selection a gate that sees single tokens compares
        with it, and gets about the same number of active latents.
    """
    sae = SparseAutoencoder(recipe, activations.mean(dim=0), generator)
    optimizer = torch.optim.Adam(sae.parameters(), lr=recipe.peak_learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _learning_rate_factor(step, recipe.steps)
    )
    for step in range(recipe.steps):
        x = _draw_batch(activations, recipe, generator)
        latents = sae.encode(x)
        loss = F.mse_loss(sae.decode(latents), x)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        sae.project_decoder_gradient()
        optimizer.step()
        schedule.step()
        sae.normalize_decoder()
        if step % _LOG_EVERY == 0 or step == recipe.steps - 1:
            logger.info("SAE, step %d of %d: squared error %.4f", step, recipe.steps, loss.item())
    return sae, _calibrate(sae, activations, generator)


def _draw_batch(
    activations: torch.Tensor, recipe: Recipe, generator: torch.Generator
) -> torch.Tensor:
    rows = torch.randint(len(activations), (recipe.batch_size,), generator=generator)
    return activations[rows]


@torch.no_grad()
def _calibrate(
    sae: SparseAutoencoder, activations: torch.Tensor, generator: torch.Generator
) -> float:
    """Return the mean, over batches, of the smallest active latent."""
    smallest = []
    for _ in range(_CALIBRATION_BATCHES):
        latents = sae.encode(_draw_batch(activations, sae.recipe, generator))
        smallest.append(latents[latents > 0].min().item())
    return sum(smallest) / len(smallest)
