"""`diagnose`: all that the numbers suggest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from sae_guard.core.diagnosis.examination import Examination, Fit
from sae_guard.core.diagnosis.misfit import accepted, misfit
from sae_guard.core.diagnosis.numbers import contradictions, symptoms, worse_than_zeros
from sae_guard.core.diagnosis.suspicion import Suspicion
from sae_guard.core.diagnosis.tokens import patched_tokens
from sae_guard.core.measurement import Measurement

# Of the active latents: as many as may be switched on or off by rounding without being noticed.
_NEAR_THRESHOLDS = 0.02
_COLUMNS = ("EV", "factor", "constant", "L0", "KL")
_SHOWN = 12


@dataclass(frozen=True)
class Diagnosis:
    """What is suspected, most telling first, and what was tried. A suggestion, never a verdict."""

    suspicions: tuple[Suspicion, ...] = ()
    tried: tuple[str, ...] = ()
    """A table of trials, as lines, where it was asked for."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the suspicions."""
        return tuple(suspicion.name for suspicion in self.suspicions)

    @property
    def json(self) -> str:
        """What `of_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Diagnosis:
        """The diagnosis that another process made."""
        held = json.loads(text)
        suspicions = tuple(Suspicion(**each) for each in held["suspicions"])
        return cls(suspicions, tuple(held["tried"]))

    def lines(self, what: str) -> Iterator[str]:
        """Two lines for each suspicion, the first begun by ``what``; then what was tried."""
        for each in self.suspicions:
            yield f"{what}: {each.name}: {each.evidence}"
            yield f"  try: {each.remedy}"
        yield from self.tried

    def __str__(self) -> str:
        return "\n".join(self.lines("probably")) or "nothing is suspected"


def diagnose(
    measurement: Measurement | None = None, examination: Examination | None = None
) -> Diagnosis:
    """What the numbers and the provenance suggest.

    Args:
        measurement: Of the whole corpus; what it says of the fit counts where nothing was examined.
        examination: Of one batch of the same.
    """
    found: list[Suspicion] = []
    if examination is not None:
        found += misfit(examination)
        found += patched_tokens(examination)
        found += _rounded_thresholds(examination)
    if measurement is not None:
        found = [*contradictions(measurement), *found]
        if examination is None:
            found += symptoms(measurement)
        elif not found:
            found += worse_than_zeros(measurement)
    return Diagnosis(tuple(found), tuple(_tried(examination)) if examination else ())


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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join([f"{row[0]:<{widths[0]}}", *cells]).rstrip()
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
