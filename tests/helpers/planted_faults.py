"""Faults, planted into a good SAE, and what names them.

Each is a checkpoint as SAELens writes it and the spec that it is measured by, as a user would have
them; `outcome` gates it as a run of pytest does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_guard.api import load_sae
from sae_guard.core.diagnosis import Diagnosis, diagnose
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import judge
from sae_guard.corpus import Corpus
from sae_guard.engine import HookSite, measure
from sae_guard.errors import LoadError
from sae_guard.examination import examine
from sae_guard.model import LanguageModel, load_model
from sae_guard.sae import SAE
from sae_guard.sae.activations import JumpReLU, ReLU, TopK
from tests.helpers.checkpoint_files import config_of, tensors_of, write_saelens


@dataclass(frozen=True)
class Good:
    """A good SAE, and where it belongs."""

    sae: SAE
    model: LanguageModel
    corpus: Corpus
    hook: str
    thresholds: tuple[Threshold, ...]
    other: SAE | None = None
    """SAE of the same size, trained from another initialisation."""


@dataclass(frozen=True)
class Planted:
    """The good SAE, model and corpus with the fault."""

    sae: SAE
    model: LanguageModel
    corpus: Corpus
    hook: str
    tensors: Mapping[str, Tensor] | None = None
    """Tensors to write instead of those of the SAE."""


@dataclass(frozen=True)
class Fault:
    """A fault, and the suspicion or the part of the load contract that names it."""

    name: str
    expected_name: str
    plant: Callable[[Good, Planted, Path], Planted | None]
    """Takes the good SAE unplanted, and a folder; None where there is no such fault of it."""


@dataclass(frozen=True)
class Outcome:
    """Verdicts and diagnosis of the gate."""

    broken: str = ""
    """Part of the load contract."""
    values: Mapping[str, float] | None = None
    crossed: tuple[str, ...] = ()
    diagnosis: Diagnosis = field(default_factory=Diagnosis)

    @property
    def gate(self) -> str:
        """Result of the gate: ``pass``, ``FAIL`` or, where there is no verdict, ``ERROR``."""
        return "ERROR" if self.broken else "FAIL" if self.crossed else "pass"

    @property
    def names(self) -> tuple[str, ...]:
        """Names that the gate gives the fault; empty where nothing names it."""
        return (f"load.{self.broken}",) if self.broken else self.diagnosis.names


def outcome(good: Good, fault: Fault, folder: Path, *, thorough: bool = False) -> Outcome | None:
    """The checkpoint with the fault, loaded, measured, judged, diagnosed; None if it has none."""
    clean = Planted(good.sae, good.model, good.corpus, good.hook)
    planted = fault.plant(good, clean, folder)
    if planted is None:
        return None
    config = config_of(planted.sae, metadata={"sae_lens_version": "6.0.0"})
    tensors = dict(planted.tensors or tensors_of(planted.sae))
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_saelens(folder / "sae", planted.sae, config=config, tensors=tensors)
    try:
        sae = load_sae(folder / "sae")
    except LoadError as error:
        return Outcome(error.contract)
    measurement = measure(planted.model, sae, planted.corpus, planted.hook)
    verdicts = [judge(measurement, threshold) for threshold in good.thresholds]
    place = HookSite.from_sae(sae, planted.hook, None)
    examination = examine(planted.model, sae, planted.corpus, place, thorough=thorough)
    return Outcome(
        values={name: measurement[name] for name in ("kl", "explained_variance", "l0")},
        crossed=tuple(
            str(v.threshold.target) for v in verdicts if v.status not in ("pass", "warn")
        ),
        diagnosis=diagnose(measurement, examination),
    )


def _of_sae(change: Callable[[SAE], SAE | None]) -> Callable[[Good, Planted, Path], Planted | None]:
    def plant(good: Good, clean: Planted, folder: Path) -> Planted | None:
        changed = change(good.sae)
        return None if changed is None else replace(clean, sae=changed)

    return plant


def _of_tensors(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor] | None],
) -> Callable[[Good, Planted, Path], Planted | None]:
    def plant(good: Good, clean: Planted, folder: Path) -> Planted | None:
        changed = change({name: tensor.clone() for name, tensor in tensors_of(good.sae).items()})
        return None if changed is None else replace(clean, tensors=changed)

    return plant


def _permuted(sae: SAE) -> SAE:
    order = torch.randperm(sae.d_sae, generator=torch.Generator().manual_seed(0))
    return replace(sae, W_dec=sae.W_dec[order])


def _other_encoder(good: Good, clean: Planted, folder: Path) -> Planted | None:
    if good.other is None:
        return None
    sae = replace(good.sae, W_enc=good.other.W_enc, b_enc=good.other.b_enc)
    return replace(clean, sae=sae)


def _neighbour(blocks: int) -> Callable[[Good, Planted, Path], Planted | None]:
    """The SAE read at another block is that block's neighbour's SAE."""

    def plant(good: Good, clean: Planted, folder: Path) -> Planted | None:
        _, block, kind = good.hook.split(".", 2)
        hook = f"blocks.{int(block) + blocks}.{kind}"
        return replace(clean, hook=hook) if hook in good.model.bridge.hook_dict else None

    return plant


def _with_b_dec(sae: SAE, b_dec: Tensor) -> SAE:
    return replace(sae, b_dec=b_dec, b_pre=None if sae.b_pre is None else b_dec)


def _without_pre_bias(sae: SAE) -> SAE | None:
    return None if sae.b_pre is None else replace(sae, b_pre=None)


def _doubled_pre_bias(sae: SAE) -> SAE | None:
    """Subtract the pre-bias, which the encoder's bias includes already, once more."""
    if sae.b_pre is None:
        return None
    return replace(sae, b_enc=sae.b_enc - sae.b_pre @ sae.W_enc)


def _in_scaled_units(good: Good, clean: Planted, folder: Path) -> Planted:
    """Return an SAE trained on activations scaled to mean norm √d, without the factor."""
    x = good.model.activations(good.corpus.tokens[:8], good.hook)[good.hook].flatten(2)
    norm = x[good.corpus.scored[:8]].norm(dim=-1).mean()
    scale = float(good.sae.d_in**0.5 / norm)
    sae = _with_b_dec(good.sae, good.sae.b_dec * scale)
    sae = replace(sae, b_enc=sae.b_enc * scale)
    return replace(clean, sae=_thresholds_times(sae, scale) or sae)


def _thresholds_times(sae: SAE, factor: float) -> SAE | None:
    if not isinstance(sae.activation, JumpReLU):
        return None
    return replace(sae, activation=JumpReLU(sae.activation.threshold * factor))


def _as_relu(kind: type) -> Callable[[SAE], SAE | None]:
    def change(sae: SAE) -> SAE | None:
        return replace(sae, activation=ReLU()) if isinstance(sae.activation, kind) else None

    return change


def _k_times(factor: float) -> Callable[[SAE], SAE | None]:
    def change(sae: SAE) -> SAE | None:
        if not isinstance(sae.activation, TopK):
            return None
        return replace(sae, activation=TopK(round(sae.activation.k * factor)))

    return change


def _threshold_of_zero(tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
    if "threshold" not in tensors:
        return None
    return {**tensors, "threshold": torch.zeros_like(tensors["threshold"])}


def _nan_in_a_row(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors["W_dec"][7] = torch.nan
    return tensors


def _rounded(names: Iterable[str]) -> Callable[[dict[str, Tensor]], dict[str, Tensor] | None]:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if not set(names) & tensors.keys():
            return None
        return {
            name: tensor.bfloat16().float() if name in names else tensor
            for name, tensor in tensors.items()
        }

    return change


def _bos_patched(good: Good, clean: Planted, folder: Path) -> Planted | None:
    if not good.corpus.excluded:
        return None
    return replace(clean, corpus=Corpus(good.corpus.tokens))


def _raw_model(good: Good, clean: Planted, folder: Path) -> Planted | None:
    """The same model before its weights were centred, and an SAE of the centred one."""
    if good.model.bridge.original_model.config.model_type != "gpt2":
        return None
    from transformers import AutoModelForCausalLM

    uncentred: Any = AutoModelForCausalLM.from_pretrained(good.model.name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in uncentred.transformer.h:
            for linear in (block.attn.c_proj, block.mlp.c_proj):
                # Along the vector of ones, which no LayerNorm lets through.
                linear.weight += torch.randn(len(linear.weight), 1, generator=generator) / 10
    uncentred.save_pretrained(folder / "model")
    good.model.tokenizer.save_pretrained(folder / "model")
    return replace(clean, model=load_model(folder / "model"))


FAULTS = (
    Fault("none", "", _of_sae(lambda sae: sae)),
    Fault("all weights rounded to bf16", "", _of_tensors(
        _rounded(["W_enc", "W_dec", "b_enc", "b_dec", "threshold"]))),
    Fault("thresholds rounded to bf16", "", _of_tensors(_rounded(["threshold"]))),
    Fault("decoder permuted", "decoder-permuted", _of_sae(_permuted)),
    Fault("encoder of another seed", "encoder-mismatch", _other_encoder),
    Fault("decoder × 1.1", "scale", _of_sae(lambda sae: replace(sae, W_dec=sae.W_dec * 1.1))),
    Fault("input scale lost", "scale", _in_scaled_units),
    Fault("SAE of the block after", "other-layer", _neighbour(-1)),
    Fault("SAE of the block before", "other-layer", _neighbour(1)),
    Fault("b_dec dropped", "pre-bias", _of_sae(
        lambda sae: _with_b_dec(sae, torch.zeros_like(sae.b_dec)))),
    Fault("pre-bias missing", "pre-bias", _of_sae(_without_pre_bias)),
    Fault("pre-bias doubled", "pre-bias", _of_sae(_doubled_pre_bias)),
    Fault("layer norm on the input", "normalize", _of_sae(
        lambda sae: replace(sae, normalize="layer_norm"))),
    Fault("TopK read as ReLU", "topk-as-relu", _of_sae(_as_relu(TopK))),
    Fault("threshold dropped (read as ReLU)", "threshold-dropped", _of_sae(_as_relu(JumpReLU))),
    Fault("threshold set to zero", "load.threshold", _of_tensors(_threshold_of_zero)),
    Fault("thresholds halved", "threshold-scale", _of_sae(lambda s: _thresholds_times(s, 0.5))),
    Fault("thresholds doubled", "threshold-scale", _of_sae(lambda s: _thresholds_times(s, 2.0))),
    Fault("k halved", "k", _of_sae(_k_times(0.5))),
    Fault("k doubled", "k", _of_sae(_k_times(2))),
    Fault("BOS patched", "bos", _bos_patched),
    Fault("model raw, SAE hooked", "space", _raw_model),
    Fault("NaN in one row", "load.finite", _of_tensors(_nan_in_a_row)),
)  # fmt: skip
"""Faults to plant. Those without a name are harmless: they must raise no alarm."""
