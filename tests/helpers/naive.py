"""The metrics by definition: the raw Hugging Face model in float64, one window at a time.

No TransformerLens, nothing of sae_guard's metrics, model or engine; forward hooks and loops.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Edit = Callable[[Tensor], Tensor]
SaeFunction = Callable[[Tensor], tuple[Tensor, Tensor]]

# Where the blocks are, and in a block: whose output attention adds to the residual, whose input
# are the heads, whose input the MLP reads, whose output it adds. In Gemma norms come in between.
_LLAMA = ("model.layers", "self_attn", "self_attn.o_proj", "mlp", "mlp")
_GEMMA = (
    "model.layers",
    "post_attention_layernorm",
    "self_attn.o_proj",
    "mlp",
    "post_feedforward_layernorm",
)
MODULES = {
    "gpt2": ("transformer.h", "attn", "attn.c_proj", "mlp", "mlp"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gpt_neox": ("gpt_neox.layers", "attention", "attention.dense", "mlp", "mlp"),
    "gpt_neo": ("transformer.h", "attn", "attn.attention.out_proj", "mlp", "mlp"),
    "opt": ("model.decoder.layers", "self_attn", "self_attn.out_proj", "fc1", "fc2"),
    "phi": ("model.layers", "self_attn", "self_attn.dense", "mlp", "mlp"),
}


def logits(model: Any, window: Tensor, hook: str | None = None, edit: Edit | None = None) -> Tensor:
    """Logits [pos, vocab] of one window, with the activation at a hook point edited."""
    handles = [] if hook is None or edit is None else _register(model, hook, edit)
    try:
        with torch.no_grad():
            logits: Tensor = model(window[None]).logits[0]
            return logits
    finally:
        for handle in handles:
            handle.remove()


def activation(model: Any, window: Tensor, hook: str) -> Tensor:
    """The activation [pos, d_in] at a hook point."""
    activations: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        activations.append(x.clone())
        return x

    logits(model, window, hook, keep)
    return activations[0]


def _register(model: Any, hook: str, edit: Edit) -> list[Any]:
    blocks, attention_out, heads_in, mlp_in, mlp_out = MODULES[model.config.model_type]
    _, layer, *rest = hook.split(".")
    block = model.get_submodule(blocks)[int(layer)]
    name = rest[-1]
    if name == "hook_resid_mid":
        return _register_middle(block, block.get_submodule(attention_out), edit)
    path = {
        "hook_resid_pre": "",
        "hook_resid_post": "",
        "hook_mlp_out": mlp_out,
        "hook_in": mlp_in,
        "hook_attn_out": attention_out,
        "hook_z": heads_in,
    }[name]
    module = block.get_submodule(path)
    if name in ("hook_resid_pre", "hook_z", "hook_in"):
        return [
            module.register_forward_pre_hook(lambda _, args: (_edited(args[0], edit), *args[1:]))
        ]
    return [module.register_forward_hook(lambda _, args, out: _replace(out, edit))]


def _register_middle(block: Any, attention_out: Any, edit: Edit) -> list[Any]:
    """After attention the residual is block input + attention output; change the second."""
    before: list[Tensor] = []

    def keep(_: Any, args: tuple[Tensor, ...]) -> None:
        before.append(args[0][0])

    def change(attended: Tensor) -> Tensor:
        return edit(before[-1] + attended) - before[-1]

    return [
        block.register_forward_pre_hook(keep),
        attention_out.register_forward_hook(lambda _, args, out: _replace(out, change)),
    ]


def _replace(output: Any, edit: Edit) -> Any:
    if isinstance(output, tuple):
        return (_edited(output[0], edit), *output[1:])
    return _edited(output, edit)


def _edited(values: Tensor, edit: Edit) -> Tensor:
    """Edit [1, pos, d] or, as OPT's MLP has it, [pos, d]."""
    return edit(values.flatten(0, -2)).reshape(values.shape)


def directions(sha256: str, row: int, positions: int, width: int) -> Tensor:
    """Draw a random unit vector per position, keyed by the corpus and the window."""
    key = np.array([int(sha256[:16], 16), row], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    values = generator.standard_normal((positions, width), dtype=np.float32).astype(np.float64)
    return torch.from_numpy(values / np.sqrt((values**2).sum(axis=1, keepdims=True)))


def metrics(
    model: Any,
    sae: SaeFunction,
    windows: Iterable[Tensor],
    excluded: set[int],
    hook: str,
    hook_out: str | None = None,
    sha256: str = "",
) -> dict[str, float]:
    """Every ratio metric of the SAE on the windows; ``model`` and ``sae`` in float64.

    A transcoder reads ``hook`` and replaces ``hook_out``. With the hash of the corpus, the one that
    compares with random errors too.
    """
    windows, hook_out = list(windows), hook_out or hook
    scored = {
        id(w): [at for at in range(len(w) - 1) if int(w[at]) not in excluded] for w in windows
    }
    coded = {id(w): sae(activation(model, w, hook)) for w in windows}
    clean_x = {id(w): activation(model, w, hook_out) for w in windows}
    mean = torch.cat([clean_x[id(w)][scored[id(w)]] for w in windows]).mean(dim=0)
    total = defaultdict[str, float](float)
    for row, window in enumerate(windows):
        x = clean_x[id(window)]
        for name, value in _window(
            model,
            coded[id(window)],
            window,
            x,
            mean,
            scored[id(window)],
            excluded,
            hook_out,
            directions(sha256, row, *x.shape) if sha256 else None,
        ).items():
            total[name] += value
    return ratios(total)


def _window(
    model: Any,
    coded: tuple[Tensor, Tensor],
    window: Tensor,
    x: Tensor,
    mean: Tensor,
    scored: list[int],
    excluded: set[int],
    hook: str,
    direction: Tensor | None,
) -> dict[str, float]:
    patched = torch.tensor([int(token) not in excluded for token in window])[:, None]
    x_hat, latents = coded
    clean = logits(model, window)

    def with_replaced(replacement: Tensor) -> Tensor:
        return logits(model, window, hook, lambda a: torch.where(patched, replacement, a))

    outputs = {
        "patched": with_replaced(x_hat),
        "zero": with_replaced(x * 0),
        "mean": with_replaced(mean.expand_as(x)),
    }
    errors = {}
    if direction is not None:
        length = (x - x_hat).norm(dim=-1, keepdim=True)
        errors["kl_random_error"] = with_replaced(x + length * direction)
    total = defaultdict[str, float](float)
    for at in scored:
        target = int(window[at + 1])
        p, q = clean[at].softmax(0), outputs["patched"][at].softmax(0)
        total["n_tokens"] += 1
        total["kl"] += float((p * (p / q).log()).sum())
        for name, output in errors.items():
            total[name] += float((p * (p / output[at].softmax(0)).log()).sum())
        total["ce_clean"] -= math.log(p[target])
        for name, output in outputs.items():
            total[f"ce_{name}"] -= math.log(output[at].softmax(0)[target])
        total["l0"] += int((latents[at] != 0).sum())
        total["l1"] += float(latents[at].abs().sum())
        total["sq_error"] += float(((x[at] - x_hat[at]) ** 2).sum())
        total["sq_deviation"] += float(((x[at] - mean) ** 2).sum())
        lengths = float(x[at].norm()), float(x_hat[at].norm())
        total["l2_ratio"] += lengths[1] / lengths[0]
        dot = float(x[at] @ x_hat[at])
        total["cosine"] += dot / (lengths[0] * lengths[1]) if lengths[1] else 0.0
    return total


def ratios(total: Mapping[str, float]) -> dict[str, float]:
    """Divide the pooled sums of columns: every ratio metric whose columns are there."""
    n, clean = total["n_tokens"], total["ce_clean"]
    harm = total["ce_patched"] - clean
    random = total.get("kl_random_error")
    compared = {} if random is None else {"kl_vs_random_error": total["kl"] / random}
    return {
        **({"kl_random_error": random / n, **compared} if random is not None else {}),
        "kl": total["kl"] / n,
        "ce_clean": clean / n,
        "ce_patched": total["ce_patched"] / n,
        "ce_zero": total["ce_zero"] / n,
        "ce_mean": total["ce_mean"] / n,
        "ce_increase": harm / n,
        "reconstruction_score": 1 - harm / (total["ce_zero"] - clean),
        "reconstruction_score[mean]": 1 - harm / (total["ce_mean"] - clean),
        "l0": total["l0"] / n,
        "l1": total["l1"] / n,
        "explained_variance": 1 - total["sq_error"] / total["sq_deviation"],
        "fvu": total["sq_error"] / total["sq_deviation"],
        "mse": total["sq_error"] / n,
        "l2_ratio": total["l2_ratio"] / n,
        "cosine": total["cosine"] / n,
    }
