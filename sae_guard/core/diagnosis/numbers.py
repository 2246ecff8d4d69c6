"""Suspicions from the measurement alone, where no batch was examined."""

from __future__ import annotations

from collections.abc import Iterator

from sae_guard.core.diagnosis.suspicion import Suspicion
from sae_guard.core.measurement import Measurement
from sae_guard.errors import UndefinedMetricError


def contradictions(measurement: Measurement) -> Iterator[Suspicion]:
    """Where the checkpoint's own words and the spec's data disagree."""
    checkpoint, corpus = measurement.provenance.checkpoint, measurement.provenance.corpus
    context, length = checkpoint.get("context_size"), corpus.get("context")
    if context is not None and length is not None and length > context:
        yield Suspicion(
            "context",
            f"the SAE was trained on {context} positions, the spec measures {length}",
            f"set `data: {{context: {context}}}`",
        )


def worse_than_zeros(measurement: Measurement) -> Iterator[Suspicion]:
    """Where zeros in place of the activation do less harm."""
    patched, zero = (_value_or_none(measurement, name) for name in ("ce_patched", "ce_zero"))
    if patched is not None and zero is not None and patched >= zero:
        yield Suspicion(
            "worse-than-zeros",
            f"patched CE {patched:.3f} ≥ zero-ablated CE {zero:.3f} nats: worse than no activation",
            "check the hook point, the layer and the model this SAE was trained on",
        )


def symptoms(measurement: Measurement) -> Iterator[Suspicion]:
    """Signatures of a wrong load in the measured numbers."""
    yield from worse_than_zeros(measurement)
    if (cosine := _value_or_none(measurement, "cosine")) is not None and cosine < 0.5:
        yield Suspicion(
            "misfit",
            f"cos(x, x̂) = {cosine:.2f}: the reconstruction points elsewhere",
            "check the hook point and layer, and that the decoder belongs to the encoder",
        )
    if (ratio := _value_or_none(measurement, "l2_ratio")) is not None and not 0.5 <= ratio <= 1.5:
        yield Suspicion(
            "scale",
            f"‖x̂‖/‖x‖ = {ratio:.2f}: the input scale is off",
            "check `sae: {normalize: …}`, `model: {processing: …}` and a scale kept elsewhere",
        )
    yield from _too_dense(measurement)


def _too_dense(measurement: Measurement) -> Iterator[Suspicion]:
    l0, d_sae = _value_or_none(measurement, "l0"), len(measurement.firings)
    k = measurement.provenance.checkpoint.get("k")
    if l0 is not None and k is None and l0 > 0.2 * d_sae:
        yield Suspicion(
            "threshold-dropped",
            f"L0 = {l0:.0f} of {d_sae} latents: not sparse",
            "a TopK or JumpReLU SAE read as ReLU, or a lost threshold: check "
            "`sae: {architecture: …, k: …}`",
        )


def _value_or_none(measurement: Measurement, name: str) -> float | None:
    try:
        return measurement[name]
    except UndefinedMetricError:
        return None
