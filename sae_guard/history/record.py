"""What is kept of a checkpoint at a spec, and of a promotion, as JSON: immutable, with a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sae_guard.core.thresholds import OnUndecided
from sae_guard.core.verdicts import Status
from sae_guard.errors import InfrastructureError, SetupError

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class Kept(BaseModel):
    """JSON has no NaN and no infinity: a number that it cannot say is absent."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MetricRow(Kept):
    """A metric on the whole token set, with its interval, or why it is undefined."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    """Of the interval, two-sided."""
    unit: str = ""
    formula_version: int
    undefined: str | None = None


class ThresholdRow(Kept):
    """A threshold that was in force, and its verdict."""

    metric: str
    """As node ids have it: ``kl``, ``kl.p99``, ``kl[position=0..8]``."""
    max: float | None = None
    min: float | None = None
    warn_max: float | None = None
    warn_min: float | None = None
    confidence: float | None = None
    on_undecided: OnUndecided = "fail"
    where: str
    """``file:line``."""
    verdict: Status
    value: float | None = None
    low: float | None = None
    high: float | None = None
    headroom: float | None = None
    marginal: str | None = None
    message: str | None = None
    audit: str | None = None
    change: Literal["difference", "share"] | None = None
    """Of a threshold on a change, whose bounds, value and interval are of it, in the metric's unit
    or as a share of what it was."""
    baseline: str | None = None
    """Which version it is since."""
    before: float | None = None
    """The metric there."""
    p_value: float | None = None
    note: str | None = None


class ParetoRow(Kept):
    """Whether a record of the spec dominated it in two metrics, and which."""

    x: str
    y: str
    where: str
    verdict: Status
    records: int
    """With how many it was compared."""
    dominated_by: tuple[str, ...] = ()


class SpecRow(Kept):
    """Which spec it was measured by."""

    file: str
    name: str
    sha256: Sha256
    """Of model, hook points, data, SAE options and thresholds as they were understood: comments
    and places in the file change nothing."""


class CheckpointRow(Kept):
    """Which checkpoint; the hashes of its files are in the provenance."""

    label: str
    reference: str
    options: dict[str, Any] = {}
    """What the spec, the command line and a registry said of it."""


class GitRow(Kept):
    """Where the project stood."""

    commit: str
    dirty: bool
    """Whether tracked files had other changes."""


class FileRow(Kept):
    """A file beside the record."""

    sha256: Sha256
    bytes: int
    rows: int


SCHEMA_VERSION = 1
"""Of both kinds of JSON; raised with a way to read the older ones in `_UPGRADES`."""

NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}"
"""What a version may be called: a name that any file system takes."""

NO_VERSION = "none"
"""What a baseline is called where there is no version yet."""

Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

_ORDER: tuple[Status, ...] = ("pass", "warn", "undecided", "fail", "error")

_UPGRADES: Mapping[int, Upgrade] = {}
"""Schema version → a document of it as one of the next version."""


class HistoryError(InfrastructureError):
    """The history cannot be read or written; the message names the file."""


class ChangedError(HistoryError):
    """A record is not what was written."""


class NotRecordedError(SetupError):
    """What was measured is not what a record holds."""


class Record(Kept):
    """What was measured of one checkpoint at one spec, on what, and how it was judged."""

    schema_version: Literal[1]
    name: Name
    """Of the version that was recorded."""
    created: AwareDatetime
    run: str
    """The same for all records of a run, and for no others."""
    by: str
    verdict: Status
    """The worst of its thresholds and of ``pareto``."""
    spec: SpecRow
    checkpoint: CheckpointRow
    hook: str
    hook_out: str | None = None
    n_sequences: int
    n_tokens: int
    metrics: dict[str, MetricRow]
    views: dict[str, MetricRow] = Field(default={})
    """What else the thresholds of the spec look at, or at the change of: ``kl.p99``,
    ``kl@position=0..8``. The rows beside the record do not tell it."""
    thresholds: tuple[ThresholdRow, ...]
    pareto: ParetoRow | None = None
    provenance: dict[str, Any]
    """As `sae_guard.core.measurement.Provenance` has it."""
    environment: dict[str, str]
    """Versions of Python, of this package and of what it depends on, and the platform."""
    git: GitRow | None = None
    files: dict[str, FileRow] = Field(min_length=2)


class Promotion(Kept):
    """That a record is the one of a version, who said so, when and why."""

    schema_version: Literal[1]
    label: Name
    record: str
    """Its id, which holds a hash of what it says."""
    spec: str
    """``file::name``: a version has a record for each."""
    created: AwareDatetime
    by: str
    reason: Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


Document = TypeVar("Document", Record, Promotion)


@dataclass(frozen=True)
class Recorded:
    """A record, and where it is kept."""

    id: str
    path: str
    """Of its folder."""
    record: Record

    @property
    def short(self) -> str:
        """The hash in its id."""
        return self.id.rpartition("-")[2]

    @property
    def named(self) -> str:
        """Name of the version, label of the checkpoint where that is another, and hash."""
        label = self.record.checkpoint.label
        own = "" if label == self.record.name else f" [{label}]"
        return f"{self.record.name}{own} ({self.short})"

    @property
    def spec(self) -> str:
        """``file::name`` of the spec."""
        return f"{self.record.spec.file}::{self.record.spec.name}"


def worst(verdicts: Iterable[tuple[Status, OnUndecided]]) -> Status:
    """The verdict of a record, of at least one of its thresholds."""
    counted = ("warn" if pair == ("undecided", "warn") else pair[0] for pair in verdicts)
    return max(counted, key=_ORDER.index)


def check_name(name: str) -> None:
    """Raise `SetupError` unless a version can be called this."""
    if not re.fullmatch(NAME, name):
        raise SetupError(
            f"{name!r} is no name of a version; allowed: up to 64 letters, digits, `_`, `.`, `+` "
            "and `-`, a letter or digit first"
        )
    if name == NO_VERSION:  # of a baseline of this name thresholds would be left out
        raise SetupError(
            f"{name!r} is no name of a version: as a baseline it means that there is none; choose "
            "another name",
            options=("baseline",),
        )


def to_json(document: Record | Promotion) -> bytes:
    """Strict JSON for people to read, and for `parse`."""
    plain = document.model_dump(exclude_none=True)
    text = json.dumps(
        plain, indent=1, ensure_ascii=False, allow_nan=False, default=datetime.isoformat
    )
    # Paths may be no UTF-8; JSON reads these escapes as what they were.
    return (text + "\n").encode(errors="backslashreplace")


def parse(kind: type[Document], data: bytes, path: str) -> Document:
    """Read what `to_json` wrote, also by an earlier version of this package.

    Args:
        kind: Which of the two it is.
        data: The bytes.
        path: Of the file, for messages.

    Raises:
        HistoryError: It is no JSON, of a later schema, or not as its schema says.
    """
    # The fast reader takes NaN for a number, and refuses lone surrogates, which the names of files
    # may hold, and other schemas.
    if b"NaN" not in data and b"Infinity" not in data:
        with suppress(ValidationError):
            return kind.model_validate_json(data)
    found = _loaded(data, path)
    version = found.get("schema_version") if isinstance(found, dict) else None
    if type(version) is not int:
        raise HistoryError(f"{path}: schema_version is {version!r}, expected a number")
    if version > SCHEMA_VERSION:
        raise HistoryError(
            f"{path}: schema_version {version} is of a later sae_guard; this one reads up to "
            f"{SCHEMA_VERSION}: upgrade it"
        )
    while version < SCHEMA_VERSION:
        if version not in _UPGRADES:
            raise HistoryError(f"{path}: schema_version {version} is unknown")
        found = {**_UPGRADES[version](found), "schema_version": version + 1}
        version += 1
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        key = ".".join(map(str, detail["loc"])) or "it"
        raise HistoryError(f"{path}: {key}: {detail['msg']}") from error


def _loaded(data: bytes, path: str) -> Any:
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except ValueError as error:
        raise HistoryError(f"{path}: not readable JSON: {error}") from None


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")
