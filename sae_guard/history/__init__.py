"""Records of measured versions, and the promotions of some of them to releases."""

from sae_guard.history.record import (
    NO_VERSION,
    SCHEMA_VERSION,
    ChangedError,
    HistoryError,
    NotRecordedError,
    Promotion,
    Record,
    Recorded,
    check_name,
)
from sae_guard.history.references import holding, meant, meant_for, meant_one, pick
from sae_guard.history.store import Certificate, History

__all__ = [
    "NO_VERSION",
    "SCHEMA_VERSION",
    "Certificate",
    "ChangedError",
    "History",
    "HistoryError",
    "NotRecordedError",
    "Promotion",
    "Record",
    "Recorded",
    "check_name",
    "holding",
    "meant",
    "meant_for",
    "meant_one",
    "pick",
]
