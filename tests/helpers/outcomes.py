"""Make outcomes of every kind, as they are rendered."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields
from typing import get_args

from sae_guard.core.report import Outcome
from sae_guard.core.worst_tokens import Worst, WorstSequence, WorstToken
from sae_guard.errors import Contract


def outcome(**changes: object) -> Outcome:
    """Make the outcome of a threshold that failed, but for the changes."""
    fields = {
        "spec": "thresholds/demo.yaml", "name": "blocks.2.hook_resid_post", "checkpoint": "v3",
        "metric": "kl", "verdict": "fail", "unit": "nats", "value": 0.41239, "low": 0.39,
        "high": 0.43478, "max": 0.2, "side": "max", "bound": 0.2, "headroom": -0.21239,
        "n_tokens": 16256, "n_sequences": 128, "where": "thresholds/demo.yaml:14",
    }  # fmt: skip
    return Outcome(**{**fields, **changes})  # type: ignore[arg-type]


SHOWN = Worst(
    (
        WorstToken(
            17, 83, 9.3121, 0.021, 9.70611, 0.5, "arxiv/1.txt", "\n  for key in sort", "ed", "\t(x)"
        ),
        WorstToken(3, 1, math.nan, 2.0, math.inf, 1.25),
    ),
    (WorstSequence(42, 1260, 0.81234, 3.1, 3.9, "", 'def f():\r\n    """\x1b[31m\\d'),),
)


def parts(*verdicts: str, cause: str = "load") -> list[Outcome]:
    """Make the first parts of the load contract."""
    bare = {f.name: f.default for f in fields(Outcome) if f.default is not MISSING}
    return [
        outcome(**{
            **bare, "kind": "contract", "metric": f"load.{name}", "verdict": verdict,
            "cause": None if verdict == "pass" else cause,
        })
        for name, verdict in zip(get_args(Contract), verdicts, strict=False)
    ]  # fmt: skip


ROWS = {
    "checkpoint": {"kl": 0.41239, "reconstruction_score": 0.9, "l0": 16.0},
    "random error": {"kl": 0.25, "reconstruction_score": None, "l0": None},
    "permuted decoder": {"kl": 5.2751, "reconstruction_score": -0.1, "l0": 16.0},
}


def controls(**changes: object) -> Outcome:
    """Make the outcome of the controls."""
    bare = {f.name: f.default for f in fields(Outcome) if f.default is not MISSING}
    own = {"kind": "controls", "metric": "controls", "controls": json.dumps(ROWS)}
    return outcome(**{**bare, "verdict": "pass", **own, **changes})


def a_change(**changes: object) -> Outcome:
    """Make the outcome of a threshold on a change since a baseline."""
    fields = {
        "metric": "kl.change", "change": "share", "value": 0.60611, "low": 0.5818, "high": 0.6304,
        "max": 0.02, "bound": 0.02, "headroom": -0.58611, "before": 0.1306, "after": 0.20976,
        "p_value": 1e-120, "baseline": "v1.2 (97dbe6cef0cb)",
    }  # fmt: skip
    return outcome(**{**fields, **changes})
