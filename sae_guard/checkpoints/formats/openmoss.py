"""OpenMOSS since 2025: ``config.json`` beside ``sae_weights.safetensors`` or ``sae_weights.pt``.

https://github.com/OpenMOSS/Language-Model-SAEs, `src/lm_saes/sae.py` until 2025-05, then
`src/llamascopium/models/sae.py` and `sparse_dictionary.py`:

    x̂ = (f(n·((fi·x − b_pre) W_enc + b_enc)) / n · W_dec + b_dec) / fo

where fi and fo are sqrt(d_model) over the average norms of the input and of the output, and n is 1
or, with ``sparsity_include_decoder_norm``, the norm of a latent's decoder row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sae_guard.checkpoints.assemble import ForwardSettings
from sae_guard.checkpoints.format import FolderLayout, Format, Opened, is_tensor
from sae_guard.checkpoints.formats.openmoss_config import (
    FIELDS,
    LM_CONFIG,
    NORM,
    Config,
    Norm,
    declare,
    unwrapped,
)
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE

_THRESHOLDS = ("log_jumprelu_threshold", "activation_function.log_jumprelu_threshold")
_FIELDS = FIELDS | {
    "force_unit_decoder_norm", "jumprelu_threshold_grad_scale", "jumprelu_threshold_window",
    "use_triton_kernel", "sparsity_threshold_for_triton_spmm_kernel", "sparsity_threshold_for_csr",
    "promote_act_fn_dtype", "matryoshka_widths", "matryoshka_loss_weights",
    "use_matryoshka_aux_loss",
}  # fmt: skip


def _matches(opened: Opened) -> bool:
    names, config_file = opened.entries.keys(), opened.config_file or opened.weights
    in_config = "hook_point_in" in (opened.config or {})
    return (
        (in_config and config_file.name == "config.json")
        or {"W_E", "W_D"} <= names
        or not names.isdisjoint(_THRESHOLDS)
        or any(name.startswith(f"{NORM}.") for name in names)
    )


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE of an OpenMOSS folder with ``config.json``.

    Raises:
        LoadError: The latents depend on the batch, the encoder has a gated linear unit, the scale
            is ambiguous, or the config is unknown in part or contradicted.
    """
    config = Config.read(opened, _FIELDS)
    opened, architecture = config.opened, config.architecture
    if architecture != "jumprelu" and config.number("jump_relu_threshold", default=0) != 0:
        raise LoadError(
            f"{config.path}: jump_relu_threshold is {config.values['jump_relu_threshold']!r} with "
            f"act_fn {config.values['act_fn']!r}, allowed: 0",
            "activation",
        )
    tensors = config.tensors()
    if architecture == "jumprelu":
        _take_threshold(tensors, config)
    since_2025_06 = "W_E" in opened.entries
    hook_in, hook_out = config.hooks
    norms = _norm(opened, hook_in), _norm(opened, hook_out)
    scales = config.scales(norms, options, may_be_folded=since_2025_06)
    pre_bias = _pre_bias(config, since_2025_06=since_2025_06)
    settings = config.settings(architecture, scales, "selection", pre_bias=pre_bias)
    assumptions = _assumptions(opened, config, settings)
    source = opened.source("OpenMOSS", *assumptions, declaration=declare(opened))
    return config.sae(tensors, settings, source)


def _take_threshold(tensors: dict[str, Tensor], config: Config) -> None:
    from sae_guard.checkpoints.tensor_files import float32

    stored = [name for name in _THRESHOLDS if name in tensors]
    if len(stored) != 1:
        raise LoadError(
            f"{config.opened.weights}: act_fn is {config.values['act_fn']!r} with "
            f"{' and '.join(stored) or 'no threshold'}, expected one of {' or '.join(_THRESHOLDS)}",
            "keys",
        )
    log = float32({stored[0]: tensors.pop(stored[0])}, config.opened.weights)
    tensors["threshold"] = log[stored[0]].exp()


def _norm(opened: Opened, hook: str) -> Norm:
    name = f"{NORM}.{hook}"
    stored = opened.entries.get(name)
    if not is_tensor(stored) or stored.numel() != 1 or not stored.is_floating_point():
        return Norm(name, None)
    return Norm(name, float(stored))


def _pre_bias(config: Config, *, since_2025_06: bool) -> bool:
    """Return whether b_dec is subtracted from the scaled input; since 2025-06 it never is."""
    if since_2025_06:
        if config.flag("apply_decoder_bias_to_pre_encoder", default=False):
            raise LoadError(
                f"{config.path}: apply_decoder_bias_to_pre_encoder is true, allowed: false "
                "(OpenMOSS does not compute it for tensors of these names)",
                "activation",
            )
        return False
    # The default changed in 2025-02, so the config must state the value.
    return config.biased and config.flag("apply_decoder_bias_to_pre_encoder")


def _assumptions(opened: Opened, config: Config, settings: ForwardSettings) -> Iterator[str]:
    scaled = settings.scale_in != 1 or settings.scale_out != 1
    rounded = {
        str(value.dtype).removeprefix("torch.")
        for name, value in opened.entries.items()
        if name.startswith(f"{NORM}.") and is_tensor(value) and value.element_size() < 4
    }
    if scaled and rounded:
        yield f"the scale is that of a norm rounded to {', '.join(sorted(rounded))}"
    if scaled and "W_E" not in opened.entries:
        yield "OpenMOSS folded no scale into the weights that it saved before 2025-06"
    folded = config.norm == "inference" or (config.norm == "dataset-wise" and not scaled)
    if folded and settings.architecture == "jumprelu":
        yield (
            "thresholds are in the units of the weights: OpenMOSS does not rescale them when it "
            "folds the scale into the weights"
        )
    if settings.architecture == "topk" and "W_E" not in opened.entries:
        yield (
            "each token has at least top_k positive pre-activations: for one with fewer, OpenMOSS "
            "before 2025-06 let every latent through, the negative ones too"
        )


FORMAT = Format(
    name="OpenMOSS",
    recognised_by="`config.json` (`hook_point_in`) with `sae_weights.safetensors` or "
    "`sae_weights.pt`, or the keys `W_E` and `W_D`",
    holds="relu, topk and jumprelu SAEs and transcoders, also Matryoshka ones; not batchtopk, "
    "batch-wise norms, encoders with a gated linear unit and `.dcp` folders; since 2025-06, a "
    "dataset-wise norm needs the option scale (stored or folded)",
    folders=(
        FolderLayout("config.json", "sae_weights.safetensors"),
        FolderLayout("config.json", "sae_weights.pt"),
    ),
    configs_above=(LM_CONFIG,),
    declare=declare,
    matches=lambda opened: _matches(unwrapped(opened)),
    read=read,
)
