"""The slow pass of `benchmarks/exactness.py`: the definitions written out, in float64.

Nothing of sae_guard is used but the tensors that an SAE and a corpus hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AutoModelForCausalLM

from sae_guard.corpus import Corpus
from sae_guard.sae import SAE
from sae_guard.sae.activations import JumpReLU, TopK

_NEAR = 4.0
"""Times what float32 is off by: a pre-activation that is nearer to a step may be on either side."""
_TOKENS_AT_ONCE = 512
_BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers"}

Edit = Callable[[Tensor], Tensor]
Reconstruct = Callable[[SAE, Tensor], Tensor]
PerToken = dict[str, Float[Tensor, "sequence pos-1"]]


class Case(NamedTuple):
    """An SAE where its reconstruction is put."""

    hook: str
    sae: SAE
    name: str


class Model(Protocol):
    """What is run: a `SlowModel`, or sae_guard's `LanguageModel` as its plain path uses it."""

    def logits_and_activations(
        self, tokens: Int[Tensor, "sequence pos"], /, *hooks: str
    ) -> tuple[Float[Tensor, "sequence pos vocab"], list[Tensor]]:
        """The clean run."""

    def logits_with(
        self, tokens: Int[Tensor, "sequence pos"], hook: str, edit: Edit, /
    ) -> Float[Tensor, "sequence pos vocab"]:
        """A run with the activation at a hook point edited."""


class SlowModel:
    """The Hugging Face model by itself, read and edited by torch's own hooks."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager"
        )
        self._model.train(mode=False)
        self._blocks: Any = self._model.get_submodule(_BLOCKS[self._model.config.model_type])

    def logits_and_activations(
        self, tokens: Int[Tensor, "sequence pos"], /, *hooks: str
    ) -> tuple[Float[Tensor, "sequence pos vocab"], list[Tensor]]:
        """The clean run; raises `ValueError` for hook points other than residual ones."""
        seen: dict[str, Tensor] = {}

        def keeper(hook: str) -> Edit:
            return lambda x: seen.setdefault(hook, x.clone())

        logits = self._run(tokens, {hook: keeper(hook) for hook in hooks})
        return logits, [seen[hook] for hook in hooks]

    def logits_with(
        self, tokens: Int[Tensor, "sequence pos"], hook: str, edit: Edit, /
    ) -> Float[Tensor, "sequence pos vocab"]:
        """A run with the activation edited; raises `ValueError` like the clean one."""
        return self._run(tokens, {hook: edit})

    @torch.no_grad()
    def _run(self, tokens: Tensor, edits: dict[str, Edit]) -> Tensor:
        handles = [self._register(hook, edit) for hook, edit in edits.items()]
        try:
            logits: Tensor = self._model(tokens, use_cache=False).logits
            return logits
        finally:
            for handle in handles:
                handle.remove()

    def _register(self, hook: str, edit: Edit) -> Any:
        _, layer, name = hook.split(".")
        block = self._blocks[int(layer)]
        if name == "hook_resid_pre":
            return block.register_forward_pre_hook(lambda _, args: (edit(args[0]), *args[1:]))
        if name != "hook_resid_post":
            raise ValueError(f"the slow pass knows no {hook}: hook_resid_pre, hook_resid_post")
        return block.register_forward_hook(
            lambda _, args, out: (edit(out[0]), *out[1:]) if isinstance(out, tuple) else edit(out)
        )


def activations(
    model: Model, corpus: Corpus, hooks: Sequence[str]
) -> list[Float[Tensor, "sequence pos d_model"]]:
    """The activations of a clean run, at each hook point."""
    parts = [model.logits_and_activations(part, *hooks)[1] for part in _parts(corpus.tokens)]
    return [torch.cat(found) for found in zip(*parts, strict=True)]


def losses(
    model: Model, reconstruct: Reconstruct, corpus: Corpus, cases: Sequence[Case], *, zero: bool
) -> list[PerToken]:
    """Of each case, KL and CE of every position with a next token; NaN where it is not scored.

    Args:
        model: What is run, whole each time.
        reconstruct: What is made of an SAE and an activation.
        corpus: Of which the tokens and the excluded ids are used.
        cases: Of the model.
        zero: Whether zero ablations are run too.
    """
    parts = [
        _losses(model, reconstruct, part, patched_positions(part, corpus), cases, zero=zero)
        for part in _parts(corpus.tokens)
    ]
    return [
        {name: torch.cat([part[name] for part in case]) for name in case[0]}
        for case in zip(*parts, strict=True)
    ]


def _losses(
    model: Model,
    reconstruct: Reconstruct,
    tokens: Int[Tensor, "sequence pos"],
    patched: Bool[Tensor, "sequence pos"],
    cases: Sequence[Case],
    *,
    zero: bool,
) -> list[PerToken]:
    def log_probs(logits: Tensor) -> Tensor:
        return logits[:, :-1].double().log_softmax(dim=-1)

    def log_probs_with(hook: str, value: Edit) -> Tensor:
        def edit(x: Tensor) -> Tensor:
            return torch.where(patched[..., None], value(x), x)

        return log_probs(model.logits_with(tokens, hook, edit))

    def ce(log_q: Tensor) -> Tensor:
        return -log_q.gather(-1, tokens[:, 1:, None])[..., 0]

    log_p, found = log_probs(model.logits_and_activations(tokens)[0]), []
    for case in cases:
        log_q = log_probs_with(case.hook, partial(reconstruct, case.sae))
        kl = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
        values = {"kl": kl, "ce_clean": ce(log_p), "ce_patched": ce(log_q)}
        if zero:
            values["ce_zero"] = ce(log_probs_with(case.hook, torch.zeros_like))
        found.append({k: v.masked_fill(~patched[:, :-1], torch.nan) for k, v in values.items()})
    return found


def patched_positions(
    tokens: Int[Tensor, "sequence pos"], corpus: Corpus
) -> Bool[Tensor, "sequence pos"]:
    """Where no excluded token is."""
    patched = torch.ones_like(tokens, dtype=torch.bool)
    for excluded in corpus.excluded:
        patched &= tokens != excluded
    return patched


def reconstruction(sae: SAE, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
    """The formula in the dtype of ``x``; raises `ValueError` for SAEs that it is not of."""
    q = _pre_activations(sae, x)
    if isinstance(sae.activation, TopK):
        kept = q >= _largest(q, sae.activation.k)[..., -1:]
    elif isinstance(sae.activation, JumpReLU):
        kept = q > sae.activation.threshold.to(x)
    else:
        raise ValueError(f"{sae.source.path}: the slow pass knows TopK and JumpReLU")
    reconstructed: Tensor = (q.clamp(min=0) * kept) @ sae.W_dec.to(x) + sae.b_dec.to(x)
    return reconstructed


def decided(
    sae: SAE,
    x: Float[Tensor, "sequence pos d_in"],
    x_float32: Float[Tensor, "sequence pos d_in"],
    patched: Bool[Tensor, "sequence pos"],
) -> Bool[Tensor, " sequence"]:
    """Whether float32 can tell which latents fire, at every patched position.

    TopK and JumpReLU are steps: a pre-activation that is nearer to the step than float32 is exact
    may fall on either side, and the reconstruction jumps.

    Args:
        sae: TopK or JumpReLU.
        x: Activations in float64.
        x_float32: The same of a float32 model.
        patched: Positions that matter.
    """
    q = _pre_activations(sae, x)
    reach = _NEAR * (_pre_activations(sae, x_float32) - q).abs().amax(dim=-1)
    if isinstance(sae.activation, TopK):
        last, next_ = _largest(q, sae.activation.k + 1)[..., -2:].unbind(dim=-1)
        near = last - next_ <= reach
    else:
        assert isinstance(sae.activation, JumpReLU)
        near = (q - sae.activation.threshold.to(x)).abs().amin(dim=-1) <= reach
    return ~(near & patched).any(dim=1)


def _pre_activations(sae: SAE, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
    plain = (sae.normalize, sae.rescale_by_decoder_norm, sae.scale_in, sae.scale_out)
    beside = (sae.latent_scale, sae.W_skip)
    if plain != ("none", "none", 1.0, 1.0) or any(part is not None for part in beside):
        raise ValueError(f"{sae.source.path}: the slow pass knows no normalised or scaled SAEs")
    centred = x if sae.b_pre is None else x - sae.b_pre.to(x)
    q: Tensor = centred @ sae.W_enc.to(x) + sae.b_enc.to(x)
    return q


def _largest(q: Float[Tensor, "*batch d_sae"], k: int) -> Float[Tensor, "*batch k"]:
    return q.sort(dim=-1, descending=True).values[..., :k]


def _parts(tokens: Int[Tensor, "sequence pos"]) -> Iterator[Tensor]:
    step = max(1, _TOKENS_AT_ONCE // tokens.shape[1])
    return (tokens[at : at + step] for at in range(0, len(tokens), step))
