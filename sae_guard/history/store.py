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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from hashlib import sha256
from pathlib import Path
from typing import Generic

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
class _Documents(Generic[Document]):
    """All documents of a folder: those that could be read, and why the others could not."""

    by_id: dict[str, Document]
    """Id → document, in the order of time."""
    paths: dict[str, str]
    """Id → path or URL of its folder."""
    unreadable: tuple[str, ...]
    """Error message for each document that could not be read."""


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

    def records(self) -> tuple[list[Recorded], tuple[str, ...]]:
        """Return all records, the oldest first, and an error message per unreadable record.

        Raises:
            HistoryError: The folder cannot be read.
        """
        documents = _read_all(Record, self._records, _RECORD)
        return [
            Recorded(id, documents.paths[id], record) for id, record in documents.by_id.items()
        ], documents.unreadable

    def record(self, id: str) -> Recorded:
        """Return the record with an id, without reading any other.

        Raises:
            HistoryError: There is no such record, or it cannot be read, or was changed.
        """
        if not _ID.fullmatch(id):
            raise HistoryError(f"{id!r} is no id of a record")
        path, data = self._records.path_of(id), self._records.read(id, _RECORD)
        return Recorded(id, path, _checked(Record, id, data, f"{path}/{_RECORD}"))

    def measurement(self, recorded: Recorded) -> Measurement:
        """Read the measurement of a record, bit for bit, but not the values of single tokens.

        `token_kl` reads these.

        Raises:
            HistoryError: A file cannot be read, or was changed.
        """
        return _measurement(self._records, recorded)

    def token_kl(self, recorded: Recorded) -> TokenKL | None:
        """Read the KL of every scored token, bit for bit; None for an old record without it.

        Raises:
            HistoryError: The file cannot be read, or was changed.
        """
        return _token_kl(self._records, recorded)

    def report(self, recorded: Recorded) -> RunReport | None:
        """Read the run's report of the case; None for an old record without it.

        Raises:
            HistoryError: The file cannot be read, or was changed.
            SetupError: The report is from a later version of this package.
        """
        return _report(self._records, recorded)

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
        documents = _read_all(Promotion, self._promotions, _PROMOTION)
        return list(documents.by_id.values()), documents.unreadable

    @property
    def _records(self) -> Folder:
        return Folder(f"{self.url.rstrip('/')}/records")

    @property
    def _promotions(self) -> Folder:
        return Folder(f"{self.url.rstrip('/')}/promotions")


@dataclass(frozen=True)
class RecordFolder:
    """The folder of one record with its files, in a history or copied out of one."""

    recorded: Recorded
    has_hash: bool
    """True if the folder's name contains a hash, and ``record.json`` has that hash."""
    folder: Folder

    @classmethod
    def from_url(cls, url: str) -> RecordFolder:
        """Open the folder at a path or URL.

        Raises:
            ChangedError: ``record.json`` was changed: its hash is not that in the folder's name.
            HistoryError: There is no record, or it cannot be read.
            SetupError: fsspec does not know the URL.
        """
        parent, _, name = url.rstrip("/").rpartition("/")
        folder, file = Folder(parent), f"{url.rstrip('/')}/{_RECORD}"
        data = folder.read(name, _RECORD)
        has_hash = _ID.fullmatch(name) is not None
        if has_hash:
            check_hash(name, data, file)
        return cls(Recorded(name, url, parse(Record, data, file)), has_hash, folder)

    def measurement(self) -> Measurement:
        """Read the measurement, as `History.measurement` does."""
        return _measurement(self.folder, self.recorded)

    def token_kl(self) -> TokenKL | None:
        """Read the KL of every scored token, as `History.token_kl` does."""
        return _token_kl(self.folder, self.recorded)

    def report(self) -> RunReport | None:
        """Read the run's report of the case, as `History.report` does."""
        return _report(self.folder, self.recorded)


def check_hash(name: str, data: bytes, file: str) -> None:
    """Raise `ChangedError` unless the name of a folder ends with the hash of its JSON."""
    if not name.endswith(_hash(data)):
        raise ChangedError(f"{file} was changed since it was written: its hash differs")


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


def _measurement(folder: Folder, recorded: Recorded) -> Measurement:
    names = set(recorded.record.files)
    # A record may name any file: read none but those that this class writes.
    if names - {TOKENS, REPORT} != {SEQUENCES, LATENTS}:
        raise HistoryError(
            f"{recorded.path}: its files are {sorted(names)}, expected {LATENTS}, {SEQUENCES} and "
            f"perhaps {TOKENS} and {REPORT}"
        )
    files = {name: _read(folder, recorded, name) for name in sorted(names - {REPORT})}
    return measurement_from_parquet(files, recorded.record.provenance, recorded.path)


def _token_kl(folder: Folder, recorded: Recorded) -> TokenKL | None:
    if TOKENS not in recorded.record.files:
        return None
    return tokens_from_parquet(_read(folder, recorded, TOKENS), recorded.path)


def _report(folder: Folder, recorded: Recorded) -> RunReport | None:
    if REPORT not in recorded.record.files:
        return None
    return report_from_json(_read(folder, recorded, REPORT), file=f"{recorded.path}/{REPORT}")


def _read(folder: Folder, recorded: Recorded, name: str) -> bytes:
    data = folder.read(recorded.id, name)
    if sha256(data).hexdigest() != recorded.record.files[name].sha256:
        raise ChangedError(f"{recorded.path}/{name} was changed: its sha256 is another")
    return data


def _read_all(kind: type[Document], folder: Folder, head: str) -> _Documents[Document]:
    documents, paths, unreadable = {}, {}, []
    for id, path, data in _heads_with_id(folder, head):
        try:
            documents[id], paths[id] = _checked(kind, id, data, f"{path}/{head}"), path
        except HistoryError as error:
            unreadable.append(str(error))
    # Folder names begin with the time in whole seconds: the documents know it more exactly.
    by_id = dict(sorted(documents.items(), key=lambda item: (item[1].created, item[0])))
    return _Documents(by_id, paths, tuple(unreadable))


def _checked(kind: type[Document], name: str, data: bytes, file: str) -> Document:
    check_hash(name, data, file)
    return parse(kind, data, file)


def _heads_with_id(folder: Folder, head: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield the heads of the folders whose name is an id; others were not written by this class."""
    for name, path, data in folder.heads(head):
        if _ID.fullmatch(name):
            yield name, path, data


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
