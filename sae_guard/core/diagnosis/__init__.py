"""Measurement and examination → what was probably loaded or used wrongly. A suggestion, never a
verdict."""

from sae_guard.core.diagnosis.diagnose import Diagnosis, diagnose
from sae_guard.core.diagnosis.examination import Examination, Fit, Group, Pairing, Trial
from sae_guard.core.diagnosis.misfit import OTHER_PLACE, SCALED_DECODER
from sae_guard.core.diagnosis.suspicion import NAMES, Suspicion

__all__ = [
    "NAMES",
    "OTHER_PLACE",
    "SCALED_DECODER",
    "Diagnosis",
    "Examination",
    "Fit",
    "Group",
    "Pairing",
    "Suspicion",
    "Trial",
    "diagnose",
]
