"""Suggest what was probably loaded or used wrongly, from a measurement and an examination.

A diagnosis is a suggestion; it never changes a verdict.
"""

from sae_guard.core.diagnosis.diagnose import Diagnosis, Spelling, diagnose
from sae_guard.core.diagnosis.examination import (
    NAMES,
    Examination,
    Fit,
    Group,
    Pairing,
    Setting,
    Suspicion,
    Trial,
)
from sae_guard.core.diagnosis.misfit import OTHER_HOOK_POINT, SCALED_DECODER

__all__ = [
    "NAMES", "OTHER_HOOK_POINT", "SCALED_DECODER", "Diagnosis", "Examination", "Fit", "Group",
    "Pairing", "Setting", "Spelling", "Suspicion", "Trial", "diagnose",
]  # fmt: skip
