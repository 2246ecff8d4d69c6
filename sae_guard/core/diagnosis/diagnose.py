"""`diagnose`: collect every suspicion that the numbers suggest.

This module has the suspicions that follow from the measurement alone, and those on kinds of tokens
(BOS, other special tokens, attention sinks); `misfit` has those from variants that were tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sae_guard.core.diagnosis.examination import Examination, Fit, Group, Suspicion
from sae_guard.core.diagnosis.misfit import accepted, misfit
from sae_guard.core.measurement import Measurement
from sae_guard.tables import table_lines

# Share of the active latents that rounding may switch on or off without a visible effect.
_NEAR_THRESHOLDS = 0.02
_COLUMNS = ("EV", "factor", "constant", "L0", "KL")
_SHOWN = 12

Spelling = Callable[[Suspicion], str]
"""Function by which a shell writes the options of a suspicion; empty text without options."""


@dataclass(frozen=True)
class Diagnosis:
    """The suspicions, the most telling first. A suggestion, never a verdict."""

    suspicions: tuple[Suspicion, ...] = ()
    tried: tuple[str, ...] = ()
    """Lines of a table of the variants that were tried; empty unless a thorough diagnosis was
    requested."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the suspicions."""
        return tuple(suspicion.name for suspicion in self.suspicions)

    def lines(self, what: str, spelling: Spelling | None = None) -> Iterator[str]:
        """Yield two lines for each suspicion, then the table of variants.

        Args:
            what: Start of the first line of each suspicion.
            spelling: Function that writes the options of a suspicion; None leaves them out.
        """
        for suspicion in self.suspicions:
            yield f"{what}: {suspicion.name}: {suspicion.evidence}"
            options = spelling(suspicion) if spelling is not None else ""
            yield f"  try: {suspicion.remedy}" + (f" (`{options}`)" if options else "")
        yield from self.tried

    def __str__(self) -> str:
        return "\n".join(self.lines("probably")) or "nothing is suspected"


def diagnose(
    measurement: Measurement | None = None, examination: Examination | None = None
) -> Diagnosis:
    """Return the suspicions that the numbers and the provenance suggest.

    Args:
        measurement: Measurement of the whole corpus. Its reconstruction metrics count only without
            an examination, which says more.
        examination: Examination of one batch of the same corpus.
    """
    suspicions: list[Suspicion] = []
    if examination is not None:
        suspicions += misfit(examination)
        suspicions += patched_tokens(examination)
        suspicions += _rounded_thresholds(examination)
    if measurement is not None:
        suspicions = [*contradictions(measurement), *suspicions]
        if examination is None:
            suspicions += symptoms(measurement)
        elif not suspicions:
            suspicions += worse_than_zeros(measurement)
    return Diagnosis(tuple(suspicions), tuple(_tried(examination)) if examination else ())


def _rounded_thresholds(examination: Examination) -> Iterator[Suspicion]:
    share = examination.near_thresholds
    if share > _NEAR_THRESHOLDS:
        yield Suspicion(
            "bf16-threshold",
            f"all thresholds are bfloat16 numbers and the other weights are not; rounding decides "
            f"over {share:.1%} of the active latents",
            "keep the thresholds in the precision that they were trained in",
        )


def _tried(examination: Examination) -> Iterator[str]:
    if not examination.thorough:
        return
    best = accepted(examination)
    yield f"tried on {examination.n_tokens:,} tokens; " + (
        f"{best.change} fits" if best else "nothing fits better than what was loaded"
    )
    trials = sorted(examination.trials, key=lambda trial: trial.fit.rank)
    rows: list[tuple[str, ...]] = [("", *_COLUMNS)]
    rows.append(("as loaded", *_cells(examination.loaded)))
    for trial in trials[:_SHOWN]:
        rows.append((trial.change + (" <- fits" if trial is best else ""), *_cells(trial.fit)))
    yield from table_lines(rows, right=range(1, len(rows[0])))
    if len(trials) > _SHOWN:
        yield f"and {len(trials) - _SHOWN} that explain less"


def _cells(fit: Fit) -> tuple[str, ...]:
    return (
        f"{fit.explained_variance:.4f}",
        f"{fit.factor:.3f}",
        f"{fit.constant:.1%}",
        f"{fit.l0:.1f}",
        "" if fit.kl is None else f"{fit.kl:.4f}",
    )


def contradictions(measurement: Measurement) -> Iterator[Suspicion]:
    """Yield suspicions where the checkpoint's metadata and the spec's data disagree."""
    checkpoint, corpus = measurement.provenance.checkpoint, measurement.provenance.corpus
    context, length = checkpoint.get("context_size"), corpus.get("context")
    if context is not None and length is not None and length > context:
        yield Suspicion(
            "context",
            f"the SAE was trained on {context} positions, the spec measures {length}",
            f"set `data: {{context: {context}}}`",
        )


def worse_than_zeros(measurement: Measurement) -> Iterator[Suspicion]:
    """Yield a suspicion where zeros in place of the activation do less harm than the SAE."""
    patched, zero = (measurement.get(name) for name in ("ce_patched", "ce_zero"))
    if patched is not None and zero is not None and patched >= zero:
        yield Suspicion(
            "worse-than-zeros",
            f"patched CE {patched:.3f} ≥ zero-ablated CE {zero:.3f} nats: worse than no activation",
            "check the hook point, the layer and the model this SAE was trained on",
        )


def symptoms(measurement: Measurement) -> Iterator[Suspicion]:
    """Yield the suspicions that the metrics of a wrongly loaded SAE raise."""
    yield from worse_than_zeros(measurement)
    if (cosine := measurement.get("cosine")) is not None and cosine < 0.5:
        yield Suspicion(
            "misfit",
            f"cos(x, x̂) = {cosine:.2f}: the reconstruction points elsewhere",
            "check the hook point and layer, and that the decoder belongs to the encoder",
        )
    if (ratio := measurement.get("l2_ratio")) is not None and not 0.5 <= ratio <= 1.5:
        yield Suspicion(
            "scale",
            f"‖x̂‖/‖x‖ = {ratio:.2f}: the input scale is off",
            "check `sae: {normalize: …}`, `model: {processing: …}` and a scale kept elsewhere",
        )
    yield from _too_dense(measurement)


def _too_dense(measurement: Measurement) -> Iterator[Suspicion]:
    l0, d_sae = measurement.get("l0"), len(measurement.firings)
    k = measurement.provenance.checkpoint.get("k")
    if l0 is not None and k is None and l0 > 0.2 * d_sae:
        yield Suspicion(
            "threshold-dropped",
            f"L0 = {l0:.0f} of {d_sae} latents: not sparse",
            "a TopK or JumpReLU SAE read as ReLU, or a lost threshold: check "
            "`sae: {architecture: …, k: …}`",
        )


# An SAE that was trained on a kind of token reconstructs it about as well as other tokens.
_WORSE = 1.5  # relative error of the group over that of ordinary tokens
_MORE_ERROR = 3.0  # share of the squared error over share of the tokens
_MOST_ERROR = 0.5  # share of the squared error

_GROUPS = {
    "bos": (
        "bos", "the BOS token",
        "`data: {special_tokens: exclude}`, unless the SAE was trained on BOS",
    ),
    "first": (
        "bos", "the first token of a window, which is no BOS,",
        "`data: {prepend_bos: true}`, if the training did: without BOS, models treat the first "
        "token as one",
    ),
    "special": (
        "special-tokens", "special tokens",
        "`data: {special_tokens: exclude}`, or a list of ids, unless the SAE was trained on them",
    ),
    "large": (
        "large-norms", "tokens of more than ten times the usual norm",
        "explained variance is about these few tokens: if the training left them out, name their "
        "ids in `data: {special_tokens: […]}`",
    ),
}  # fmt: skip
"""Name of a group of tokens → name of the suspicion, what the tokens are, and the remedy."""


def patched_tokens(examination: Examination) -> Iterator[Suspicion]:
    """Yield a suspicion for each kind of token that is patched but badly reconstructed."""
    for group in examination.groups:
        if _stands_out(group):
            name, what, remedy = _GROUPS[group.name]
            yield Suspicion(
                name,
                f"{what} makes up {group.tokens:.1%} of the scored tokens and {group.error:.0%} of "
                f"the squared error; ‖x−x̂‖²/‖x‖² is {group.relative:.2f} there and "
                f"{group.ordinary:.2f} elsewhere",
                remedy,
            )


def _stands_out(group: Group) -> bool:
    worse = group.relative > _WORSE * group.ordinary
    more = group.error > _MORE_ERROR * group.tokens
    most = group.error > _MOST_ERROR
    if group.name == "large":  # many models have such tokens, and every SAE errs more on them
        return worse and most
    # Special tokens that make up most of the error hide all others, even if reconstructed well.
    return more and (worse or (most and group.name in ("bos", "special")))
