"""Records of measured versions, and the promotions of some of them to releases."""

from sae_guard.history.promotions import (
    last_release,
    promoted_labels,
    promoted_releases,
    releases_in_force,
    retraction_message,
)
from sae_guard.history.record import (
    NO_VERSION,
    ChangedError,
    HistoryError,
    NotRecordedError,
    PromotedRecord,
    Promotion,
    Record,
    Recorded,
    check_name,
)
from sae_guard.history.references import (
    find_records,
    find_retraction,
    records_of_names,
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
    "PromotedRecord",
    "Promotion",
    "Record",
    "Recorded",
    "check_name",
    "find_records",
    "find_retraction",
    "has_hash",
    "last_release",
    "promoted_labels",
    "promoted_releases",
    "read_measurement",
    "read_report",
    "read_token_kl",
    "record_at",
    "records_of_names",
    "releases_in_force",
    "retraction_message",
]
