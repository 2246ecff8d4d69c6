"""Makes a replacement at `hook_resid_mid` reach the residual stream on TransformerLens bridges.

``blocks.L.hook_resid_mid`` is the residual between attention and MLP. In HookedTransformer a
replacement there changed the residual stream. On the bridges of TransformerLens 3.9 and 4.x it
changes the input of the MLP only, and the residual stream keeps its old value: a patched SAE then
looks much less harmful than it is (zeros have the same effect as zeros at ``hook_mlp_out``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sae_guard.errors import SetupError

HookFunction = Callable[[Tensor, Any], Tensor | None]
"""(activation, hook point) → replacement, or None to leave the activation as it is."""
Replace = Callable[[Tensor, Any], Tensor]
Hooks = list[tuple[str, HookFunction]]
Run = Callable[[Tensor, Hooks], Tensor]

SUFFIX = ".hook_resid_mid"


def with_residual(hook: str, replace: Replace) -> Hooks:
    """Return hooks that replace the residual at ``hook`` for the MLP and for the blocks after it.

    The block's output becomes the replacement plus the output of the MLP. Adding the difference of
    the two residuals to the output instead would have rounding errors of the size of the old one.

    Args:
        hook: A hook point that ends in `SUFFIX`.
        replace: Hook function that returns the replacement.
    """
    # Filled and emptied within each run: [replacement, output of the MLP].
    pending: list[Tensor] = []

    def replace_mid(activation: Tensor, hook: Any) -> Tensor:
        pending.append(replace(activation, hook))
        return pending[-1]

    def record_mlp_out(activation: Tensor, hook: Any) -> None:
        pending.append(activation)

    def replace_post(activation: Tensor, hook: Any) -> Tensor:
        mlp_out, mid = pending.pop(), pending.pop()
        return mid + mlp_out

    return [
        (hook, replace_mid),
        (_in_same_block(hook, "hook_mlp_out"), record_mlp_out),
        (_in_same_block(hook, "hook_resid_post"), replace_post),
    ]


def reaches_residual(run: Run, hook: str) -> bool:
    """Try out whether a replacement at ``hook`` reaches the residual stream.

    The residual at ``hook`` is doubled and the output of the MLP set to zeros. The output of the
    block is then the residual stream: doubled or not.

    Args:
        run: Runs the model on token ids [batch, pos] with hooks.
        hook: A hook point that ends in `SUFFIX`.

    Raises:
        SetupError: The output is neither the doubled residual nor the old one.
    """
    activations: dict[str, Tensor] = {}

    def double(activation: Tensor, hook: Any) -> Tensor:
        activations["old"], activations["doubled"] = activation.clone(), 2 * activation
        return activations["doubled"]

    def zero(activation: Tensor, hook: Any) -> Tensor:
        return torch.zeros_like(activation)

    def record_post(activation: Tensor, hook: Any) -> Tensor:
        activations["post"] = activation.clone()
        return activation

    tokens = torch.zeros(1, 2, dtype=torch.int64)
    mlp_out = _in_same_block(hook, "hook_mlp_out")
    post = _in_same_block(hook, "hook_resid_post")
    run(tokens, [(hook, double), (mlp_out, zero), (post, record_post)])
    for name, answer in (("doubled", True), ("old", False)):
        if name in activations and torch.allclose(
            activations["post"], activations[name], rtol=1e-3
        ):
            return answer
    raise SetupError(
        f"the effect of replacing {hook!r} is unclear in this model: it is neither the residual "
        "stream nor the input of the MLP; use hook_resid_pre or hook_resid_post"
    )


def _in_same_block(hook: str, name: str) -> str:
    return hook.removesuffix(SUFFIX) + "." + name
