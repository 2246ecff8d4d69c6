"""Records of what was measured of each version, and which of them were promoted."""

from sae_guard.history.make import Occasion, check_name, make
from sae_guard.history.record import (
    SCHEMA_VERSION,
    HistoryError,
    NotRecordedError,
    Promotion,
    Record,
    Recorded,
)
from sae_guard.history.store import History, baselines, pick

__all__ = [
    "SCHEMA_VERSION",
    "History",
    "HistoryError",
    "NotRecordedError",
    "Occasion",
    "Promotion",
    "Record",
    "Recorded",
    "baselines",
    "check_name",
    "make",
    "pick",
]
