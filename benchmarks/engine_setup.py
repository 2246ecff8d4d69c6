"""The two sides of `benchmarks/engine.py`: one model, one SAE, the same tokens.

The model has random weights and is read from a folder by both sides as the same TransformerLens
bridge (HookedTransformer takes the same FLOPs). Its token embedding is enlarged and every other
token repeats the one before it, so that the model predicts something and ablations hurt; with
losses that nothing changes there would be nothing to agree on. The SAE is SAELens's own, saved by
SAELens, and loaded by SAELens on its side and by sae_guard on the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, TopKSAE, TopKSAEConfig
from sae_lens.evals import get_downstream_reconstruction_metrics, get_sparsity_and_variance_metrics
from sae_lens.training.activation_scaler import ActivationScaler
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from sae_guard.cache import Cache
from sae_guard.checkpoints.load import load
from sae_guard.core.measurement import Measurement
from sae_guard.corpus import Corpus
from sae_guard.demo import MODEL
from sae_guard.engine import Intervention, measure, measure_all
from sae_guard.model import LanguageModel, load_model

# Both sides patch every token. SAELens scores KL and L0 at the last position of a window too, where
# no next token follows and sae_guard scores nothing: the token there is nowhere else, and SAELens
# is told to ignore it, which no other position can notice.
LAST = 1


@dataclass(frozen=True)
class Shape:
    """A GPT-2 and a TopK SAE at the residual stream before one of its blocks."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    layer: int
    latents: int
    k: int = 32
    context: int = 128

    @property
    def hook(self) -> str:
        """The hook point that the SAE reads and replaces."""
        return f"blocks.{self.layer}.hook_resid_pre"


GPT2_SMALL = Shape(layers=12, width=768, heads=12, vocabulary=50_257, layer=8, latents=24_576)
SMALL = Shape(layers=4, width=256, heads=4, vocabulary=8_192, layer=2, latents=4_096)


def write(shape: Shape, folder: Path) -> None:
    """Draw the model and the SAE and save them below ``folder``, each as its library does."""
    torch.manual_seed(0)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocabulary, n_embd=shape.width, n_layer=shape.layers,
            n_head=shape.heads, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    sae = TopKSAE(TopKSAEConfig(d_in=shape.width, d_sae=shape.latents, k=shape.k))
    sae.cfg.metadata.hook_name = shape.hook
    with torch.no_grad():
        model.transformer.wte.weight.mul_(3)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.02)
        W_dec = torch.nn.functional.normalize(torch.randn(shape.latents, shape.width), dim=-1)
        sae.W_dec.copy_(W_dec)
        sae.W_enc.copy_(W_dec.T)
        sae.b_enc.normal_(std=0.01)
        sae.b_dec.normal_(std=0.01)
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(folder / "model")
    sae.save_model(folder / "sae")


def draw_tokens(shape: Shape, windows: int) -> Tensor:
    """Windows of random tokens, each with a chance of one half to repeat the one before it."""
    generator = torch.Generator().manual_seed(1)
    size = (windows, shape.context)
    tokens = torch.randint(LAST + 1, shape.vocabulary, size, generator=generator)
    repeated = torch.rand(size, generator=generator) < 0.5
    for at in range(1, shape.context):
        tokens[:, at] = torch.where(repeated[:, at], tokens[:, at - 1], tokens[:, at])
    tokens[:, -1] = LAST
    return tokens


@dataclass(frozen=True)
class Given:
    """Hands SAELens the tokens, where it expects its store of activations."""

    batches: list[Tensor]

    def get_batch_tokens(self, size: int) -> Tensor:
        """The next batch."""
        assert size == len(self.batches[0])
        return self.batches.pop(0)


@dataclass(frozen=True)
class Saelens:
    """SAELens's evaluation with every metric that depends on the model or the SAE's latents."""

    model: LanguageModel
    sae: Any

    @classmethod
    def read(cls, folder: Path) -> Saelens:
        """The model and the SAE of `write`."""
        return cls(load_model(folder / "model"), SAE.load_from_disk(folder / "sae"))

    def reconstruction(self, tokens: Tensor, batch: int) -> dict[str, float]:
        """KL and cross-entropies: clean, with the SAE, ablated."""
        batches = list(torch.split(tokens, batch))
        result: dict[str, float] = get_downstream_reconstruction_metrics(
            self.sae, self.model.bridge, Given(batches), ActivationScaler(),
            compute_kl=True, compute_ce_loss=True, n_batches=len(batches),
            eval_batch_size_prompts=batch, ignore_tokens=[LAST],
        )  # fmt: skip
        return result

    def sparsity(self, tokens: Tensor, batch: int) -> dict[str, float]:
        """L0, L1, explained variance and their kin, and how often each latent fires."""
        batches = list(torch.split(tokens, batch))
        result, _ = get_sparsity_and_variance_metrics(
            self.sae, self.model.bridge, Given(batches), ActivationScaler(),
            n_batches=len(batches), compute_l2_norms=True, compute_sparsity_metrics=True,
            compute_variance_metrics=True, compute_featurewise_density_statistics=True,
            eval_batch_size_prompts=batch, model_kwargs={}, ignore_tokens=[LAST],
        )  # fmt: skip
        metrics: dict[str, float] = result
        return metrics

    def measure(self, tokens: Tensor, batch: int) -> dict[str, float]:
        """Both."""
        with torch.no_grad():
            return self.reconstruction(tokens, batch) | self.sparsity(tokens, batch)


@dataclass(frozen=True)
class SaeGuard:
    """sae_guard's engine, or its plain path where ``reference``."""

    model: LanguageModel
    sae: Any
    hook: str
    reference: bool = False
    cache: Cache | None = None

    @classmethod
    def read(cls, folder: Path, shape: Shape, *, reference: bool = False) -> SaeGuard:
        """The model and the SAE of `write`."""
        return cls(load_model(folder / "model"), load(folder / "sae"), shape.hook, reference)

    def measure(self, tokens: Tensor, batch: int) -> Measurement:
        """Every metric."""
        return measure(
            self.model, self.sae, Corpus(tokens), self.hook,
            batch_size=batch, reference=self.reference, cache=self.cache,
        )  # fmt: skip

    def measure_several(self, tokens: Tensor, batch: int, saes: int) -> list[Measurement]:
        """Every metric of several SAEs at the hook point, in one sweep."""
        patches = [Intervention(another(self.sae, number), self.hook) for number in range(saes)]
        return measure_all(self.model, patches, Corpus(tokens), batch_size=batch, cache=self.cache)


def another(sae: Any, number: int) -> Any:
    """An SAE of the same shape that is not the same: nothing of it was measured before."""
    return replace(sae, b_enc=sae.b_enc + 1e-4 * number)
