"""`Measurement`: one row per token sequence, one column per sum. Everything meets at this table."""

from sae_guard.measurement.file import SCHEMA_VERSION, load, save
from sae_guard.measurement.table import FiringSpread, Measurement, Provenance

__all__ = [
    "SCHEMA_VERSION",
    "FiringSpread",
    "Measurement",
    "Provenance",
    "load",
    "save",
]
