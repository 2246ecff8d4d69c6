"""`Measurement`: one row per token sequence, one column per sum. Everything meets at this table."""

from sae_guard.core.measurement.table import FiringSpread, Measurement, Provenance
from sae_guard.gate.measurement_file import SCHEMA_VERSION, load, save

__all__ = [
    "SCHEMA_VERSION",
    "FiringSpread",
    "Measurement",
    "Provenance",
    "load",
    "save",
]
