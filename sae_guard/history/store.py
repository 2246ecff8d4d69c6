"""`History`: records and promotions in a folder, which are added and never changed.

    FOLDER/records/TIME-NAME-HASH/record.json           written last
    FOLDER/records/TIME-NAME-HASH/sequences.parquet
    FOLDER/records/TIME-NAME-HASH/latents.parquet
    FOLDER/records/TIME-NAME-HASH/tokens.parquet        missing in old records
    FOLDER/records/TIME-NAME-HASH/report.json           missing in old records; opened only for it
    FOLDER/promotions/TIME-LABEL-HASH/promotion.json

HASH is a hash of the JSON, which contains the hashes of the other files. So accidental changes are
detected, and two writers that do not know of each other never write the same folder. Somebody who
changes a record on purpose can rename its folder too: the hash is no signature.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from hashlib import sha256
from pathlib import Path

from sae_guard.core.measurement import Measurement, TokenKL
from sae_guard.core.report import RunReport
from sae_guard.core.report_json import report_from_json
from sae_guard.files import expanded
from sae_guard.history.folder import Folder
from sae_guard.history.parquet import (
    LATENTS,
    SEQUENCES,
    TOKENS,
    measurement_from_parquet,
    tokens_from_parquet,
)
from sae_guard.history.record import (
    NAME,
    ChangedError,
    Document,
    FileRow,
    HistoryError,
    Promotion,
    Record,
    Recorded,
    parse,
    to_json,
)

_ID = re.compile(rf"\d{{8}}T\d{{6}}Z-({NAME})-([0-9a-f]{{12}})")
_RECORD, _PROMOTION = "record.json", "promotion.json"
REPORT = "report.json"
"""File with the run's report of the case; records from before 2026-12 have none."""


@dataclass(frozen=True)
class Contents:
    """Records and promotions of a history, as far as they could be read."""

    records: list[Recorded]
    """All records, the oldest first."""
    promotions: list[Promotion]
    """All promotions, the oldest first."""
    unreadable: tuple[str, ...] = ()
    """Error message for each record and each promotion that could not be read."""
    unreadable_promotions: tuple[str, ...] = ()
    """The part of ``unreadable`` that is about promotions."""


@dataclass(frozen=True)
class History:
    """A history in a local folder, or behind a URL that fsspec knows: ``s3://…``, ``file://…``."""

    url: str
    """Path of the folder, or its URL."""

    def prepare(self) -> None:
        """Create the folder, so that a long measurement does not fail at its end.

        Raises:
            HistoryError: The folder cannot be created.
            SetupError: fsspec does not know the URL.
        """
        self._records.prepare()

    def add(self, record: Record, files: Mapping[str, bytes]) -> Recorded:
        """Write a record and its files; they are on disk when this returns.

        Args:
            record: The record; it names the files with their hashes.
            files: Name → content of each file.

        Raises:
            HistoryError: The record cannot be written.
            ValueError: The files are not those that the record names.
        """
        rows_of_files = {
            name: file_row(data, record.files[name].rows) for name, data in files.items()
        }
        if rows_of_files != record.files:
            raise ValueError(f"the record names other files than {sorted(files)}")
        data = to_json(record)
        name = _id(record.name, record, data)
        path = self._records.write(name, {**files, _RECORD: data}, _RECORD)
        return Recorded(name, path, record)

    def read(self) -> Contents:
        """Read all records and promotions.

        Raises:
            HistoryError: The folder cannot be read.
        """
        records, bad_records = self.records()
        promotions, bad_promotions = self.promotions()
        unreadable = (*bad_records, *bad_promotions)
        return Contents(records, promotions, unreadable, bad_promotions)

    def records(self) -> tuple[list[Recorded], tuple[str, ...]]:
        """Return all records, the oldest first, and an error message per unreadable record.

        Raises:
            HistoryError: The folder cannot be read.
        """
        documents, unreadable = _read_all(Record, self._records, _RECORD)
        return [Recorded(*document) for document in documents], unreadable

    def record(self, id: str) -> Recorded:
        """Return the record with an id, without reading any other.

        Raises:
            HistoryError: There is no such record, or it cannot be read, or was changed.
        """
        if not _ID.fullmatch(id):
            raise HistoryError(f"{id!r} is no id of a record")
        path, data = self._records.path_of(id), self._records.read(id, _RECORD)
        return Recorded(id, path, _checked(Record, id, data, f"{path}/{_RECORD}"))

    def promote(self, promotion: Promotion) -> str:
        """Write a promotion, and return its id.

        Raises:
            HistoryError: The promotion cannot be written.
        """
        data = to_json(promotion)
        name = _id(promotion.label, promotion, data)
        self._promotions.write(name, {_PROMOTION: data}, _PROMOTION)
        return name

    def promotions(self) -> tuple[list[Promotion], tuple[str, ...]]:
        """Return all promotions, the oldest first, and an error message per unreadable one.

        Raises:
            HistoryError: The folder cannot be read.
        """
        documents, unreadable = _read_all(Promotion, self._promotions, _PROMOTION)
        return [promotion for _, _, promotion in documents], unreadable

    @property
    def _records(self) -> Folder:
        return Folder(f"{self.url.rstrip('/')}/records")

    @property
    def _promotions(self) -> Folder:
        return Folder(f"{self.url.rstrip('/')}/promotions")


def record_at(url: str) -> Recorded:
    """Read the record in the folder at a path or URL: in a history, or copied out of one.

    Raises:
        ChangedError: ``record.json`` was changed: its hash is not that in the folder's name.
        HistoryError: There is no record, or it cannot be read.
        SetupError: fsspec does not know the URL.
    """
    folder, name = Folder.of_entry(url)
    data, file = folder.read(name, _RECORD), f"{url.rstrip('/')}/{_RECORD}"
    record = _checked(Record, name, data, file) if has_hash(name) else parse(Record, data, file)
    return Recorded(name, url, record)


def has_hash(name: str) -> bool:
    """Return whether the name of a record's folder contains the hash of its ``record.json``."""
    return _ID.fullmatch(name) is not None


def read_measurement(recorded: Recorded) -> Measurement:
    """Read the measurement of a record, bit for bit, but not the values of single tokens.

    `read_token_kl` reads these.

    Raises:
        HistoryError: A file cannot be read, or was changed.
    """
    names = set(recorded.record.files)
    # A record may name any file: read none but those that this module writes.
    if names - {TOKENS, REPORT} != {SEQUENCES, LATENTS}:
        raise HistoryError(
            f"{recorded.path}: its files are {sorted(names)}, expected {LATENTS}, {SEQUENCES} and "
            f"perhaps {TOKENS} and {REPORT}"
        )
    files = {name: _read(recorded, name) for name in sorted(names - {REPORT})}
    return measurement_from_parquet(files, recorded.record.provenance, recorded.path)


def read_token_kl(recorded: Recorded) -> TokenKL | None:
    """Read the KL of every scored token, bit for bit; None for an old record without it.

    Raises:
        HistoryError: The file cannot be read, or was changed.
    """
    if TOKENS not in recorded.record.files:
        return None
    return tokens_from_parquet(_read(recorded, TOKENS), recorded.path)


def read_report(recorded: Recorded) -> RunReport | None:
    """Read the run's report of the case; None for an old record without it.

    Raises:
        HistoryError: The file cannot be read, or was changed.
        SetupError: The report is from a later version of this package.
    """
    if REPORT not in recorded.record.files:
        return None
    return report_from_json(_read(recorded, REPORT), file=f"{recorded.path}/{REPORT}")


def _read(recorded: Recorded, file: str) -> bytes:
    folder, name = Folder.of_entry(recorded.path)
    data = folder.read(name, file)
    if sha256(data).hexdigest() != recorded.record.files[file].sha256:
        raise ChangedError(f"{recorded.path}/{file} was changed: its sha256 is another")
    return data


def file_row(data: bytes, n: int) -> FileRow:
    """Return the record's entry for a file with ``n`` rows."""
    return FileRow(sha256=sha256(data).hexdigest(), bytes=len(data), rows=n)


def file_rows(measurement: Measurement, files: Mapping[str, bytes]) -> dict[str, FileRow]:
    """Return the record's entries for the files of its measurement.

    Args:
        measurement: The measurement.
        files: Name → content of the files that `parquet.to_parquet` made of it, and others.
    """
    # Files of other names, such as the report, are no tables: one row.
    lengths = {SEQUENCES: measurement.n_sequences, LATENTS: len(measurement.firings)}
    if measurement.tokens is not None:
        lengths[TOKENS] = int(measurement.tokens.scored.sum())
    return {name: file_row(data, lengths.get(name, 1)) for name, data in files.items()}


def _id(name: str, document: Record | Promotion, data: bytes) -> str:
    created = document.created.astimezone(UTC)
    return f"{created:%Y%m%dT%H%M%SZ}-{name}-{_hash(data)}"


def _hash(data: bytes) -> str:
    # git may convert the line ends of a checkout. JSON has none inside of texts, so that ignoring
    # their kind ignores no content.
    return sha256(data.replace(b"\r\n", b"\n")).hexdigest()[:12]


def _read_all(
    kind: type[Document], folder: Folder, head: str
) -> tuple[list[tuple[str, str, Document]], tuple[str, ...]]:
    """Read all documents of a folder.

    Returns:
        Id, path or URL, and document of each that can be read, in the order of time; and an error
        message for each of the others.
    """
    documents, unreadable = [], []
    for id, path, data in folder.heads(head):
        if not _ID.fullmatch(id):
            continue  # another program wrote this folder
        try:
            documents.append((id, path, _checked(kind, id, data, f"{path}/{head}")))
        except HistoryError as error:
            unreadable.append(str(error))
    # Folder names begin with the time in whole seconds: the documents know it more exactly.
    documents.sort(key=lambda document: (document[2].created, document[0]))
    return documents, tuple(unreadable)


def _checked(kind: type[Document], name: str, data: bytes, file: str) -> Document:
    """Parse a document; raise `ChangedError` unless its folder's name ends with its hash."""
    if not name.endswith(_hash(data)):
        raise ChangedError(f"{file} was changed since it was written: its hash differs")
    return parse(kind, data, file)


DEFAULT = Path(".sae_guard", "history")
"""Default folder of the history, in the root folder of a project."""
VARIABLE = "SAE_GUARD_HISTORY"
"""Environment variable with the folder or URL of the history."""


def locate(text: str | None, root: Path) -> str:
    """Return the path or URL of the history.

    Args:
        text: Path or URL from an option; without it ``$SAE_GUARD_HISTORY`` applies, and without
            that the default.
        root: Folder that relative paths start from.
    """
    location = text or os.environ.get(VARIABLE) or str(DEFAULT)
    return location if "://" in location else str(root / expanded(location))


def nearest_project(folder: Path) -> Path:
    """Return the nearest folder with a history: this one or one above it; or else this one."""
    candidates = (folder, *folder.parents)
    return next((parent for parent in candidates if (parent / DEFAULT).is_dir()), folder)
