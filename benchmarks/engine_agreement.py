"""Whether sae_guard and SAELens find the same, and what float64 makes of the same logits."""

from __future__ import annotations

from pathlib import Path

import torch
from engine_setup import GPT2_SMALL, SaeGuard, Saelens, draw_tokens
from engine_tools import table

from sae_guard.engine import token_metrics as formulas

SAME = {
    "kl": "kl_div_with_sae",
    "ce_clean": "ce_loss_without_sae",
    "ce_patched": "ce_loss_with_sae",
    "ce_zero": "ce_loss_with_ablation",
    "reconstruction_score": "ce_loss_score",
    "l0": "l0",
    "l1": "l1",
    "mse": "mse",
    "cosine": "cossim",
    "l2_ratio": "l2_ratio",
    "explained_variance": "explained_variance",
}


def agreement(folder: Path) -> float:
    """The largest difference, relative, of the metrics that both sides have; prints them all."""
    tokens = draw_tokens(GPT2_SMALL, 8)
    theirs, mine = Saelens.read(folder), SaeGuard.read(folder, GPT2_SMALL)
    found, expected = mine.measure(tokens, 4), theirs.measure(tokens, 4)
    exact = in_float64(mine, tokens, 4)
    table(
        f"Agreement on {len(tokens)} windows",
        ("", "sae_guard", "SAELens", "difference", "float64"),
        [
            (
                name,
                f"{found[name]:.7f}",
                f"{expected[same]:.7f}",
                f"{found[name] - expected[same]:.1e}",
                f"{exact[name]:.7f}" if name in exact else "",
            )
            for name, same in SAME.items()
        ],
    )
    differences = [
        abs(found[name] - expected[same]) / max(1.0, abs(expected[same]))
        for name, same in SAME.items()
    ]
    return max(differences)


def in_float64(side: SaeGuard, tokens: torch.Tensor, batch: int) -> dict[str, float]:
    """What the losses are when the model's own logits are taken further in float64."""
    totals = dict.fromkeys(("kl", "ce_clean", "ce_patched"), 0.0)
    for part in torch.split(tokens, batch):
        clean, x = side.model.logits_and_activation(part, side.hook)
        written = side.sae(x).reconstruction
        patched = side.model.logits_with(part, side.hook, written.to)
        for row, p, q in zip(part, clean, patched, strict=True):
            log_p, log_q = (logits[:-1].double().log_softmax(dim=-1) for logits in (p, q))
            totals["kl"] += float((log_p.exp() * (log_p - log_q)).sum())
            totals["ce_clean"] += float(formulas.cross_entropy(log_p, row[1:]).sum())
            totals["ce_patched"] += float(formulas.cross_entropy(log_q, row[1:]).sum())
    return {name: total / tokens[:, 1:].numel() for name, total in totals.items()}
