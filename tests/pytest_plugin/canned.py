"""Replace measuring with fixed numbers: a conftest that imports this gates without torch.

Every checkpoint keeps the load contract. The module is copied into the project, so it imports
nothing of the tests.
"""

from __future__ import annotations

import numpy as np

from sae_guard.core.diagnosis import Diagnosis
from sae_guard.core.measurement import Measurement, Provenance
from sae_guard.core.metrics import COLUMNS
from sae_guard.errors import Contract
from sae_guard.gate.cases import Case
from sae_guard.gate.early import Watch
from sae_guard.gate.session import GateSession

KL = {"good": 0.01, "bad": 0.5}


def measure(self: GateSession, case: Case, watch: Watch | None) -> Measurement:
    """Return a measurement whose sums are 8 per sequence of 8 tokens, except that of KL."""
    sums = {name: np.full(4, 8.0) for name in COLUMNS}
    sums["kl"] = np.full(4, 8.0 * KL[case.member])
    sums["sq_error"] = np.full(4, 0.1)
    provenance = Provenance(
        model={}, checkpoint={}, corpus={"n_sequences": 4, "sha256": ""}, hook=case.spec.hook,
        mean_sha256="", formula_versions={}, versions={}, device="cpu",
    )  # fmt: skip
    return Measurement(np.arange(4), sums, np.ones(4, dtype=np.int64), provenance)


def check(self: GateSession, case: Case, contract: Contract) -> None:
    """Accept every checkpoint: nothing is loaded."""


def diagnosis(self: GateSession, case: Case, measurement: Measurement) -> Diagnosis:
    """Return an empty diagnosis: nothing is examined."""
    return Diagnosis()


GateSession._measure = measure  # type: ignore[method-assign]
GateSession.check = check  # type: ignore[method-assign]
GateSession.diagnosis = diagnosis  # type: ignore[method-assign]
