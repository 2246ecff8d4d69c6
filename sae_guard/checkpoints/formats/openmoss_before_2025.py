"""lm_saes 1.0 and 1.1 (Llama Scope): ``hyperparams.json`` beside ``checkpoints/final.safetensors``.

https://github.com/OpenMOSS/Language-Model-SAEs, `src/lm_saes/sae.py` at v1.0.0. Its loader folds
the scale of the dataset and then, with ``sparsity_include_decoder_norm``, the norms n of the
decoder rows into the weights. With the factors fi and fo of input and output it computes

    x̂ = (f(n·((fi·x − b_dec·fi/fo) W_enc + b_enc)) / n · W_dec + b_dec) / fo

where b_dec·fi/fo is subtracted only with ``apply_decoder_bias_to_pre_encoder``. The threshold θ of
a JumpReLU is stored before the fold: it becomes θ·fo with n, and θ·fi without.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.assemble import ForwardSettings
from sae_guard.checkpoints.files import CheckpointFiles
from sae_guard.checkpoints.format import ConfigLocation, FolderLayout, Format, Opened
from sae_guard.checkpoints.formats.openmoss_config import (
    FIELDS,
    LM_CONFIG,
    NORM,
    Config,
    Norm,
    declare,
)
from sae_guard.checkpoints.options import SaeOptions, ambiguous
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from sae_guard.sae import SAE

_CONFIG = "hyperparams.json"
_WEIGHTS = (
    "checkpoints/final.safetensors", "checkpoints/pruned.safetensors", "checkpoints/final.pt",
    "checkpoints/pruned.pt", "sae_weights.safetensors", "sae_weights.pt",
)  # fmt: skip
_FIELDS = FIELDS | {
    NORM, "seed", "bias_init_method", "decoder_exactly_fixed_norm", "init_decoder_norm",
    "init_encoder_norm", "init_encoder_with_decoder_transpose", "lp", "l1_coefficient",
    "l1_coefficient_warmup_steps", "initial_k", "k_warmup_steps", "use_batch_norm_mse",
    "use_ghost_grads", "tp_size", "ddp_size",
}  # fmt: skip


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE of a folder with ``hyperparams.json``.

    Raises:
        LoadError: The latents depend on the batch, the encoder has a gated linear unit, TopK and
            JumpReLU are both possible, or the config is unknown in part or contradicted.
    """
    config = Config.read(opened, _FIELDS)
    opened, architecture = config.opened, _architecture(config, options)
    norms = _norm(config, "in"), _norm(config, "out")
    scale_in, scale_out = scales = config.scales(norms, options, may_be_folded=False)
    pre_bias = config.biased and config.flag("apply_decoder_bias_to_pre_encoder")
    settings = config.settings(architecture, scales, "latents", pre_bias=pre_bias)
    tensors = config.tensors()
    if architecture == "jumprelu" and "b_enc" in tensors:
        threshold = config.number("jump_relu_threshold")
        unit = scale_out if settings.rescale_by_decoder_norm == "latents" else scale_in
        per_latent = tensors["b_enc"].flatten().float()
        tensors["threshold"] = per_latent.new_full(per_latent.shape, threshold * unit)
    if pre_bias and scale_in != scale_out and "b_dec" in tensors:
        tensors["b_pre"] = tensors["b_dec"].float() * (scale_in / scale_out)
    source = opened.source(FORMAT.name, *_assumptions(settings), declaration=declare(opened))
    return config.sae(tensors, settings, source)


def _architecture(config: Config, options: SaeOptions) -> str:
    architecture = config.architecture
    threshold = config.number("jump_relu_threshold", default=0)
    if architecture != "topk" or threshold <= 0:
        return architecture
    if options.architecture in ("topk", "jumprelu"):
        return options.architecture
    k = config.values.get("top_k")
    topk = f"topk (act_fn is 'topk', and lm_saes 1 computes it with top_k {k!r})"
    jumprelu = (
        f"jumprelu (jump_relu_threshold is {threshold:g}, and lm_saes 1 says that it converts to "
        "it)"
    )
    subject = f"{config.path} is ambiguous"
    raise ambiguous(subject, "activation", ("architecture", topk), ("architecture", jumprelu))


def _norm(config: Config, side: str) -> Norm:
    name = f"{NORM}.{side}"
    stored: Any = config.values.get(NORM)
    if stored is None:
        return Norm(name, None)
    if not isinstance(stored, dict):
        raise LoadError(f"{config.path}: {NORM} is {stored!r}, expected an object", "scale")
    value = stored.get(side)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise LoadError(f"{config.path}: {name} is {value!r}, expected a number", "scale")
    return Norm(name, value)


def _assumptions(settings: ForwardSettings) -> Iterator[str]:
    if settings.scale_in != 1 or settings.scale_out != 1:
        yield (
            "lm_saes 1 saved weights into which no scale is folded, and folds it while loading; "
            "here it is applied to the input, so that latents are in units of the scaled input"
        )
    if settings.rescale_by_decoder_norm == "latents":
        yield "latents are multiplied by the norms of their decoder rows, as lm_saes 1 folds them"


def matches(files: CheckpointFiles) -> bool:
    """Recognise the format by the name of the config."""
    return files.config_file is not None and files.config_file.name == _CONFIG


FORMAT = Format(
    name="lm_saes 1 (Llama Scope)",
    recognised_by="`hyperparams.json` with `checkpoints/final.safetensors`, `final.pt` or "
    "`sae_weights.safetensors`",
    holds="relu, topk and jumprelu SAEs and transcoders; not batch-wise norms and encoders with a "
    "gated linear unit; a topk SAE with a `jump_relu_threshold` needs the option architecture "
    "(topk or jumprelu)",
    folders=tuple(FolderLayout(_CONFIG, weights) for weights in _WEIGHTS),
    config_locations=(ConfigLocation(_CONFIG, r"checkpoints/.*", levels_up=(1,), rank=1),),
    configs_above=(LM_CONFIG,),
    declare=declare,
    matches=matches,
    read=read,
)
