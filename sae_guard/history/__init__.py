"""Records of measured versions, and the promotions of some of them to releases."""

from sae_guard.history.record import (
    NO_VERSION,
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
    pick,
    promoted_labels,
    promotions_in_force,
)
from sae_guard.history.store import (
    Contents,
    History,
    has_hash,
    read_measurement,
    read_report,
    read_token_kl,
    record_at,
)

__all__ = [
    "NO_VERSION",
    "ChangedError",
    "Contents",
    "History",
    "HistoryError",
    "NotRecordedError",
    "Promotion",
    "Record",
    "Recorded",
    "check_name",
    "find_one_record",
    "find_records",
    "has_hash",
    "pick",
    "promoted_labels",
    "promotions_in_force",
    "read_measurement",
    "read_report",
    "read_token_kl",
    "record_at",
]
