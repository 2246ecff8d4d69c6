"""Hypothesis strategies for property tests of your own metrics and gates.

from hypothesis import given
from sae_guard.testing import measurements

@given(measurements())
def test_my_rule(measurement): ...
"""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as npst
import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from sae_guard.core.measurement import Measurement, Provenance
from sae_guard.core.metrics import ALL_COLUMNS, COLUMNS, METRICS, ON_REQUEST
from sae_guard.core.thresholds import Threshold
from sae_guard.sae import SAE, SaeSource
from sae_guard.sae.activations import (
    AbsTopK,
    Activation,
    Gated,
    GroupMax,
    JumpReLU,
    ReLU,
    TanhReLU,
    TopK,
)

__all__ = ["logit_pairs", "logits", "measurements", "saes", "thresholds", "token_sums"]


def logits(
    *, positions: int | None = None, vocabulary: int | None = None, spread: float = 20.0
) -> st.SearchStrategy[Tensor]:
    """Generate float64 logits ``[pos, vocab]`` within ±``spread``.

    Args:
        positions: Number of positions; by default 1 to 4.
        vocabulary: Size of the vocabulary; by default 2 to 8.
        spread: Largest absolute value.
    """
    shape = st.tuples(
        st.just(positions) if positions else st.integers(1, 4),
        st.just(vocabulary) if vocabulary else st.integers(2, 8),
    )
    elements = st.floats(-spread, spread, allow_nan=False, allow_subnormal=False)
    return shape.flatmap(lambda s: npst.arrays(np.float64, s, elements=elements)).map(torch.tensor)


def logit_pairs(*, spread: float = 20.0) -> st.SearchStrategy[tuple[Tensor, Tensor]]:
    """Generate clean and patched logits, two float64 tensors of one shape ``[pos, vocab]``."""
    shapes = st.tuples(st.integers(1, 4), st.integers(2, 8))
    return shapes.flatmap(
        lambda s: st.tuples(*[logits(positions=s[0], vocabulary=s[1], spread=spread)] * 2)
    )


@st.composite
def token_sums(draw: st.DrawFn, sequences: int) -> dict[str, Any]:
    """Generate the columns of a plausible measurement, one float64 sum per sequence.

    Ablation raises the loss, and no denominator of a metric is zero.

    Args:
        draw: Passed by Hypothesis.
        sequences: Number of sequences.
    """

    def column(low: float, high: float) -> Any:
        return draw(npst.arrays(np.float64, sequences, elements=st.floats(low, high)))

    n = draw(npst.arrays(np.int64, sequences, elements=st.integers(8, 64))).astype(np.float64)
    clean = n * column(*COLUMNS["ce_clean"].typical)
    deviation = n * column(*COLUMNS["sq_deviation"].typical)
    related = {
        "n_tokens": n,
        "ce_clean": clean,
        "ce_patched": clean + n * column(-0.1, 2),
        "ce_zero": clean + n * column(1, 8),
        "ce_mean": clean + n * column(0.5, 4),
        "sq_error": deviation * column(0, 2),
        "sq_deviation": deviation,
    }
    others = [name for name in (*COLUMNS, *ON_REQUEST) if name not in related]
    return related | {name: n * column(*ALL_COLUMNS[name].typical) for name in others}


@st.composite
def measurements(
    draw: st.DrawFn, *, min_sequences: int = 1, max_sequences: int = 6, d_sae: int = 5
) -> Measurement:
    """Generate complete, finite measurements in which every metric that is a ratio is defined.

    Args:
        draw: Passed by Hypothesis.
        min_sequences: Fewest sequences.
        max_sequences: Most sequences.
        d_sae: Number of latents.
    """
    sequences = draw(st.integers(min_sequences, max_sequences))
    sums = draw(token_sums(sequences))
    firings = draw(
        npst.arrays(np.int64, d_sae, elements=st.integers(0, int(sums["n_tokens"].sum())))
    )
    return Measurement(
        np.arange(sequences, dtype=np.int64),
        {name: sums[name] for name in (*COLUMNS, *ON_REQUEST)},
        firings,
        Provenance(
            model={"name": "drawn"},
            checkpoint={"path": "drawn"},
            corpus={"sha256": "0" * 64, "n_sequences": sequences},
            hook="blocks.0.hook_resid_post",
            mean_sha256="0" * 64,
            formula_versions={name: metric.version for name, metric in METRICS.items()},
            versions={},
            device="cpu",
        ),
    )


@st.composite
def saes(draw: st.DrawFn, *, d_in: int = 6, d_sae: int = 10, transcoders: bool = False) -> SAE:
    """Generate SAEs of every architecture, normalisation, scale and pre-bias, with normal weights.

    Args:
        draw: Passed by Hypothesis.
        d_in: Width of the input.
        d_sae: Number of latents.
        transcoders: Whether to generate transcoders too, which write another activation than they
            read, with and without a skip connection; their output has width ``d_in + 1``.
    """
    # Weights come from a seed: Hypothesis would shrink thousands of floats one by one.
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    activations: dict[str, Activation] = {
        "standard": ReLU(),
        "tanh_relu": TanhReLU(),
        "topk": TopK(draw(st.integers(1, d_sae))),
        "abstopk": AbsTopK(draw(st.integers(1, d_sae))),
        "groupmax": GroupMax(
            draw(st.sampled_from([k for k in range(1, d_sae + 1) if d_sae % k == 0]))
        ),
        "jumprelu": JumpReLU(normal(d_sae).abs(), inclusive=draw(st.booleans())),
        "gated": Gated(normal(d_sae), normal(d_sae), normal(d_sae)),
    }
    architecture = draw(st.sampled_from(sorted(activations)))
    transcoder = transcoders and draw(st.booleans())
    d_out = d_in + 1 if transcoder else d_in
    b_dec = normal(d_out)
    return SAE(
        normal(d_in, d_sae),
        normal(d_sae, d_out),
        torch.zeros(d_sae) if architecture == "gated" else normal(d_sae),
        b_dec,
        activations[architecture],
        SaeSource("drawn", "drawn"),
        b_pre=draw(st.sampled_from([None, normal(d_in) if transcoder else b_dec])),
        normalize=draw(st.sampled_from(("none", "constant_norm_rescale", "layer_norm"))),
        denormalize=not transcoder,
        rescale_by_decoder_norm=draw(st.sampled_from(("none", "latents", "selection"))),
        latent_scale=draw(st.sampled_from([None, normal(d_sae).exp()])),
        scale_in=draw(st.sampled_from([1.0, 0.25])),
        scale_out=draw(st.sampled_from([1.0, 0.5])),
        W_skip=normal(d_out, d_in) if transcoder and draw(st.booleans()) else None,
        transcoder=transcoder,
    )


@st.composite
def thresholds(draw: st.DrawFn, metric: str) -> Threshold:
    """Generate thresholds on a metric, with bounds within ±20 on the sides that the metric has.

    Args:
        draw: Passed by Hypothesis.
        metric: Name of the metric.
    """
    sides = METRICS[metric].sides
    low, high = sorted(draw(st.tuples(*[st.floats(-20, 20, allow_nan=False)] * 2)))
    return Threshold(
        metric,
        max=high if "max" in sides else None,
        min=low if "min" in sides else None,
    )
