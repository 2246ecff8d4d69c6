"""The history, and where it is: records and promotions, added to and never changed.

    FOLDER/records/TIME-NAME-HASH/record.json           written last
    FOLDER/records/TIME-NAME-HASH/sequences.parquet
    FOLDER/records/TIME-NAME-HASH/latents.parquet
    FOLDER/records/TIME-NAME-HASH/tokens.parquet        since they are kept
    FOLDER/records/TIME-NAME-HASH/report.json           likewise; reading a history never opens it
    FOLDER/promotions/TIME-LABEL-HASH/promotion.json

HASH is of the JSON, which holds the hashes of the files beside it: who changes a record is found
out, and writers that know nothing of each other do not collide.
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
from sae_guard.history.parquet import LATENTS, SEQUENCES, TOKENS, of_parquet, tokens_of_parquet
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
"""Everything that the run reported of the case; records made before 2026-12 have none."""


@dataclass(frozen=True)
class Found(Generic[Document]):
    """What was read, and why the rest was not."""

    read: dict[str, Document]
    """By id, in the order of time."""
    paths: dict[str, str]
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class History:
    """A folder, or any URL that fsspec knows: ``s3://…``, ``hf://datasets/…``, ``file://…``."""

    url: str

    def prepare(self) -> None:
        """See that records can be kept, before what takes long.

        Raises:
            HistoryError: A folder cannot be made.
            SetupError: fsspec does not know the URL.
        """
        self._records.prepare()

    def add(self, record: Record, files: Mapping[str, bytes]) -> Recorded:
        """Keep a record with its files; it is kept when this returns.

        Raises:
            HistoryError: It cannot be written.
            ValueError: The files are not those that the record names.
        """
        told = {name: rows(data, record.files[name].rows) for name, data in files.items()}
        if told != record.files:
            raise ValueError(f"the record names other files than {sorted(files)}")
        data = to_json(record)
        name = _id(record.name, record, data)
        path = self._records.write(name, {**files, _RECORD: data}, _RECORD)
        return Recorded(name, path, record)

    def records(self) -> tuple[list[Recorded], tuple[str, ...]]:
        """All records, the oldest first; and of each that cannot be read, why.

        Raises:
            HistoryError: The folder cannot be read.
        """
        found = _all(Record, self._records, _RECORD)
        return [
            Recorded(name, found.paths[name], record) for name, record in found.read.items()
        ], found.unreadable

    def record(self, id: str) -> Recorded:
        """The record of an id, and nothing else is read.

        Raises:
            HistoryError: There is none, or it cannot be read, or was changed.
        """
        if not _ID.fullmatch(id):
            raise HistoryError(f"{id!r} is no id of a record")
        path, data = self._records.path_of(id), self._records.read(id, _RECORD)
        return Recorded(id, path, _checked(Record, id, data, f"{path}/{_RECORD}"))

    def measurement(self, recorded: Recorded) -> Measurement:
        """What was measured, bit for bit, but for the values of single tokens (`token_kl`).

        Raises:
            HistoryError: Its files cannot be read, or are not those that were written.
        """
        return _measurement(self._records, recorded)

    def token_kl(self, recorded: Recorded) -> TokenKL | None:
        """KL of every scored token, bit for bit; None of records made before it was kept.

        Raises:
            HistoryError: The file cannot be read, or is not the one that was written.
        """
        return _token_kl(self._records, recorded)

    def report(self, recorded: Recorded) -> RunReport | None:
        """Read what the run reported of the case; None of records made before it was kept.

        Raises:
            HistoryError: The file cannot be read, or is not the one that was written.
            SetupError: It is of a later version of this package.
        """
        return _report(self._records, recorded)

    def promote(self, promotion: Promotion) -> str:
        """Keep a promotion; its id. Raises `HistoryError`."""
        data = to_json(promotion)
        name = _id(promotion.label, promotion, data)
        self._promotions.write(name, {_PROMOTION: data}, _PROMOTION)
        return name

    def promotions(self) -> tuple[list[Promotion], tuple[str, ...]]:
        """All promotions, the oldest first; and of each that cannot be read, why."""
        found = _all(Promotion, self._promotions, _PROMOTION)
        return list(found.read.values()), found.unreadable

    @property
    def _records(self) -> Folder:
        return Folder(f"{self.url.rstrip('/')}/records")

    @property
    def _promotions(self) -> Folder:
        return Folder(f"{self.url.rstrip('/')}/promotions")


@dataclass(frozen=True)
class Certificate:
    """A record with the files beside it, in a history or outside of any."""

    recorded: Recorded
    named: bool
    """Whether the name of the folder holds the hash of ``record.json``, and so vouches for it."""
    folder: Folder

    @classmethod
    def at(cls, url: str) -> Certificate:
        """Of the folder at this path or URL.

        Raises:
            ChangedError: It is not what was written.
            HistoryError: There is no record, or none that can be read.
            SetupError: fsspec does not know the URL.
        """
        above, _, name = url.rstrip("/").rpartition("/")
        folder, file = Folder(above), f"{url.rstrip('/')}/{_RECORD}"
        data = folder.read(name, _RECORD)
        named = _ID.fullmatch(name) is not None
        if named:
            check_hash(name, data, file)
        return cls(Recorded(name, url, parse(Record, data, file)), named, folder)

    def measurement(self) -> Measurement:
        """As `History.measurement`."""
        return _measurement(self.folder, self.recorded)

    def token_kl(self) -> TokenKL | None:
        """As `History.token_kl`."""
        return _token_kl(self.folder, self.recorded)

    def report(self) -> RunReport | None:
        """As `History.report`."""
        return _report(self.folder, self.recorded)


def check_hash(name: str, data: bytes, file: str) -> None:
    """Raise `ChangedError` unless the name of an entry holds the hash of its JSON."""
    if not name.endswith(_hash(data)):
        raise ChangedError(f"{file} was changed since it was written: its hash differs")


def rows(data: bytes, n: int) -> FileRow:
    """What a record says of a file beside it."""
    return FileRow(sha256=sha256(data).hexdigest(), bytes=len(data), rows=n)


def files_of(measurement: Measurement, files: Mapping[str, bytes]) -> dict[str, FileRow]:
    """What a record says of the files of its measurement."""
    lengths = {SEQUENCES: measurement.n_sequences, LATENTS: len(measurement.firings)}
    if measurement.tokens is not None:
        lengths[TOKENS] = int(measurement.tokens.scored.sum())
    return {name: rows(data, lengths.get(name, 1)) for name, data in files.items()}


def _id(name: str, document: Record | Promotion, data: bytes) -> str:
    created = document.created.astimezone(UTC)
    return f"{created:%Y%m%dT%H%M%SZ}-{name}-{_hash(data)}"


def _hash(data: bytes) -> str:
    # git may give lines their ends by its own settings, and JSON has none inside of text.
    return sha256(data.replace(b"\r\n", b"\n")).hexdigest()[:12]


def _measurement(folder: Folder, recorded: Recorded) -> Measurement:
    names = set(recorded.record.files)
    if names - {TOKENS, REPORT} != {SEQUENCES, LATENTS}:
        raise HistoryError(
            f"{recorded.path}: its files are {sorted(names)}, expected {LATENTS}, {SEQUENCES} and "
            f"perhaps {TOKENS} and {REPORT}"
        )
    files = {name: _read(folder, recorded, name) for name in sorted(names - {REPORT})}
    return of_parquet(files, recorded.record.provenance, recorded.path)


def _token_kl(folder: Folder, recorded: Recorded) -> TokenKL | None:
    if TOKENS not in recorded.record.files:
        return None
    return tokens_of_parquet(_read(folder, recorded, TOKENS), recorded.path)


def _report(folder: Folder, recorded: Recorded) -> RunReport | None:
    if REPORT not in recorded.record.files:
        return None
    return report_from_json(_read(folder, recorded, REPORT), file=f"{recorded.path}/{REPORT}")


def _read(folder: Folder, recorded: Recorded, name: str) -> bytes:
    data = folder.read(recorded.id, name)
    if sha256(data).hexdigest() != recorded.record.files[name].sha256:
        raise ChangedError(f"{recorded.path}/{name} was changed: its sha256 is another")
    return data


def _all(kind: type[Document], folder: Folder, head: str) -> Found[Document]:
    read, paths, unreadable = {}, {}, []
    for name, path, data in _named(folder, head):
        try:
            read[name], paths[name] = _checked(kind, name, data, f"{path}/{head}"), path
        except HistoryError as error:
            unreadable.append(str(error))
    ordered = dict(sorted(read.items(), key=lambda item: (item[1].created, item[0])))
    return Found(ordered, paths, tuple(unreadable))


def _checked(kind: type[Document], name: str, data: bytes, file: str) -> Document:
    check_hash(name, data, file)
    return parse(kind, data, file)


def _named(folder: Folder, head: str) -> Iterator[tuple[str, str, bytes]]:
    for name, path, data in folder.heads(head):
        if _ID.fullmatch(name):
            yield name, path, data


DEFAULT = Path(".sae_guard", "history")
"""In the root folder of a project."""
VARIABLE = "SAE_GUARD_HISTORY"


def chosen(text: str | None, root: Path) -> str:
    """The folder or URL that somebody names, or else ``$SAE_GUARD_HISTORY``, or the default.

    Args:
        text: What is named, if anything is.
        root: Folder that relative paths start from.
    """
    named = text or os.environ.get(VARIABLE) or str(DEFAULT)
    return named if "://" in named else str(root / expanded(named))


def nearest(folder: Path) -> Path:
    """The folder, or the one above it, in which there is a history; or else the folder."""
    found = (above for above in (folder, *folder.parents) if (above / DEFAULT).is_dir())
    return next(found, folder)
