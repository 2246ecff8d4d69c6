"""`hook_resid_mid` on a bridge is the input of the MLP's norm; here it becomes the residual.

In TransformerLens 3.9 and 4.x a value put in at ``blocks.L.hook_resid_mid`` reaches the MLP only:
the residual stream beside it keeps the old value, so a patch there looks far less harmful than it
is (zeros do exactly what zeros at ``hook_mlp_out`` do). HookedTransformer replaced the residual.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sae_guard.errors import SetupError

HookFunction = Callable[[Tensor, Any], Tensor | None]
Replace = Callable[[Tensor, Any], Tensor]
Hooks = list[tuple[str, HookFunction]]
Run = Callable[[Tensor, Hooks], Tensor]

SUFFIX = ".hook_resid_mid"


def with_residual(hook: str, replace: Replace) -> Hooks:
    """Hooks that replace the MLP's input and make the block's output of it and the MLP's.

    Adding the change to the output instead would round at the size of the old residual.
    """
    seen: list[Tensor] = []

    def at_mid(activation: Tensor, hook: Any) -> Tensor:
        seen.append(replace(activation, hook))
        return seen[-1]

    def at_mlp_out(activation: Tensor, hook: Any) -> None:
        seen.append(activation)

    def at_post(activation: Tensor, hook: Any) -> Tensor:
        mlp_out, mid = seen.pop(), seen.pop()
        return mid + mlp_out

    return [
        (hook, at_mid),
        (_beside(hook, "hook_mlp_out"), at_mlp_out),
        (_beside(hook, "hook_resid_post"), at_post),
    ]


def reaches_residual(run: Run, hook: str) -> bool:
    """Whether a value put in at ``hook`` arrives in the residual, found by trying.

    With the MLP's output set to zeros the block's output is the residual beside it: the new value
    or the old one.

    Raises:
        SetupError: It is neither.
    """
    seen: dict[str, Tensor] = {}

    def double(activation: Tensor, hook: Any) -> Tensor:
        seen["old"], seen["new"] = activation.clone(), 2 * activation
        return seen["new"]

    def silence(activation: Tensor, hook: Any) -> Tensor:
        return torch.zeros_like(activation)

    def look(activation: Tensor, hook: Any) -> Tensor:
        seen["post"] = activation.clone()
        return activation

    tokens = torch.zeros(1, 2, dtype=torch.int64)
    post, mlp_out = _beside(hook, "hook_resid_post"), _beside(hook, "hook_mlp_out")
    run(tokens, [(hook, double), (mlp_out, silence), (post, look)])
    for name, answer in (("new", True), ("old", False)):
        if name in seen and torch.allclose(seen["post"], seen[name], rtol=1e-3):
            return answer
    raise SetupError(f"cannot tell what {hook!r} replaces in this model; use a residual hook point")


def _beside(hook: str, name: str) -> str:
    return hook.removesuffix(SUFFIX) + "." + name
