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
from sae_guard.history.references import (
    find_one_record,
    find_records,
    find_spec_record,
    pick,
    promotions_in_force,
)
from sae_guard.history.store import History, RecordFolder

__all__ = [
    "NO_VERSION",
    "SCHEMA_VERSION",
    "ChangedError",
    "History",
    "HistoryError",
    "NotRecordedError",
    "Promotion",
    "Record",
    "RecordFolder",
    "Recorded",
    "check_name",
    "find_one_record",
    "find_records",
    "find_spec_record",
    "pick",
    "promotions_in_force",
]
