"""Records of measured checkpoints, and promotions, as JSON documents with a schema version.

A document is never changed once it is written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sae_guard.checkpoints.reference import NamedBy
from sae_guard.core.report import CaseRef
from sae_guard.core.thresholds import OnUndecided
from sae_guard.core.verdicts import Status
from sae_guard.errors import InfrastructureError, SetupError

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class JsonModel(BaseModel):
    """Base of all parts of a document. NaN and infinity, which JSON lacks, are absent numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MetricRow(JsonModel):
    """A metric on the whole token set, with its interval, or the reason why it is undefined."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    """Confidence of the interval, two-sided."""
    unit: str = ""
    formula_version: int
    """`Metric.version` of the formula."""
    undefined: str | None = None
    """Reason why there is no value."""


class ThresholdRow(JsonModel):
    """A threshold that was in force, and its verdict."""

    metric: str
    """Target in the notation of node ids: ``kl``, ``kl.p99``, ``kl@position=0..8``."""
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
    """Set if the threshold is on a change: then bounds, value and interval are in the metric's unit
    (``difference``) or fractions of the baseline's value (``share``)."""
    baseline: str | None = None
    """Version that the change is measured from."""
    before: float | None = None
    """Value of the metric in the baseline."""
    p_value: float | None = None
    note: str | None = None


class ParetoRow(JsonModel):
    """The Pareto threshold on two metrics, and its verdict."""

    x: str
    y: str
    where: str
    """``file:line``."""
    verdict: Status
    records: int
    """Number of records that the checkpoint was compared with."""
    dominated_by: tuple[str, ...] = ()
    """Records that dominate it, as messages name them: version and hash."""


class SpecRow(JsonModel):
    """The spec that the checkpoint was measured by."""

    file: str
    name: str
    sha256: Sha256
    """Hash of the parsed model, hook points, data, SAE options and thresholds: comments and
    positions in the file do not matter."""


class CheckpointRow(JsonModel):
    """The checkpoint; the hashes of its files are in the provenance."""

    label: str
    """Name of the member, which is the checkpoint's name in reports and node ids."""
    named_by: NamedBy | None = None
    """Rule that gave the member its name; None in records from before members had names that are
    the same from version to version."""
    reference: str
    """Path or reference that it was loaded from."""
    options: dict[str, Any] = {}
    """Options that it was loaded with, from the spec, the user and registries."""


class GitRow(JsonModel):
    """State of the project's git repository."""

    commit: str
    dirty: bool
    """True if tracked files had uncommitted changes."""


class FileRow(JsonModel):
    """Hash and size of a file beside the record."""

    sha256: Sha256
    bytes: int
    rows: int
    """Number of rows of its table."""


SCHEMA_VERSION = 2
"""Version of the JSON of records and promotions. A change of it adds to `_UPGRADES`."""

NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}"
"""Pattern of the name of a version: every file system accepts such a name."""

NO_VERSION = "none"
"""Name of the baseline where there is no version yet."""

Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

_ORDER: tuple[Status, ...] = ("pass", "warn", "undecided", "fail", "error")
"""Verdicts from the best to the worst."""


def _with_records(document: dict[str, Any]) -> dict[str, Any]:
    """Turn a promotion, which named one record, into one that names all of a release.

    Records stay as they are: what they lack is None.
    """
    if "record" not in document:
        return document
    rest = {key: value for key, value in document.items() if key not in ("record", "spec")}
    row = {key: document[key] for key in ("record", "spec") if key in document}
    return {**rest, "records": [row]}


_UPGRADES: Mapping[int, Upgrade] = {1: _with_records}
"""Schema version → function from a document of this version to one of the next."""


class HistoryError(InfrastructureError):
    """The history cannot be read or written; the message names the file."""


class ChangedError(HistoryError):
    """A file of a record was changed after it was written."""


class NotRecordedError(SetupError):
    """The measurement cannot be recorded: it is not what a record holds."""


class Record(JsonModel):
    """The measurement of one checkpoint at one spec, and its verdicts."""

    schema_version: Literal[2]
    name: Name
    """Name of the version that was recorded."""
    created: AwareDatetime
    run: str
    """Random id of the run, equal in all of its records."""
    by: str
    """Name and address of the user."""
    verdict: Status
    """The worst verdict of the thresholds and of ``pareto``."""
    spec: SpecRow
    checkpoint: CheckpointRow
    hook: str
    hook_out: str | None = None
    n_sequences: int
    n_tokens: int
    metrics: dict[str, MetricRow]
    views: dict[str, MetricRow] = Field(default={})
    """Other targets of the spec's thresholds and of their changes: ``kl.p99``,
    ``kl@position=0..8``. They cannot be computed from the rows beside the record."""
    thresholds: tuple[ThresholdRow, ...]
    pareto: ParetoRow | None = None
    provenance: dict[str, Any]
    """`sae_guard.core.measurement.Provenance` as JSON."""
    environment: dict[str, str]
    """The platform, and the versions of Python, of this package and of its dependencies."""
    git: GitRow | None = None
    files: dict[str, FileRow] = Field(min_length=2)  # at least sequences and latents

    @property
    def hooks(self) -> str:
        """The hook point; of a transcoder, also the one that it replaces."""
        return f"{self.hook} → {self.hook_out}" if self.hook_out else self.hook

    @property
    def tokens_sha256(self) -> str:
        """Hash of the token set; empty if the provenance has none."""
        return self.provenance["corpus"].get("sha256") or ""


class PromotedRecord(JsonModel):
    """A record of a release, as a promotion names it."""

    record: str
    """Id of the record, which contains a hash of its JSON."""
    spec: str
    """``file::name`` of the spec."""
    member: str | None = None
    """Name of the member; None in promotions from before releases had members, of which each named
    the only record of its label and spec."""

    @property
    def case(self) -> str:
        """Spec and, where it is known, member, as messages name them."""
        return self.spec if self.member is None else f"{self.spec} [{self.member}]"

    def replaces(self, other: PromotedRecord) -> bool:
        """Return whether a label has room for only one of the two: of one spec and member."""
        same_member = self.member == other.member or None in (self.member, other.member)
        return self.spec == other.spec and same_member


class Promotion(JsonModel):
    """The decision that records are a release, or no longer are: by whom, when and why."""

    schema_version: Literal[2]
    label: Name
    """Name of the version."""
    action: Literal["promote", "retract"] = "promote"
    """``retract``: from now on the label is no release; promotions of it count no more."""
    records: tuple[PromotedRecord, ...] = Field(min_length=1)
    """Records of the release: one of each spec and member."""
    removed: tuple[PromotedRecord, ...] = ()
    """Earlier records that the release has none in place of: of members of the last version that
    are gone on purpose, and of the same label."""
    created: AwareDatetime
    by: str
    """Name and address of the user."""
    reason: Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


Document = TypeVar("Document", Record, Promotion)


@dataclass(frozen=True)
class Recorded:
    """A record in a history, with its id and the path of its folder."""

    id: str
    """Name of its folder: ``TIME-NAME-HASH``."""
    path: str
    """Path or URL of its folder."""
    record: Record

    @property
    def short(self) -> str:
        """The hash in its id, 12 hexadecimal digits."""
        return self.id.rpartition("-")[2]

    @property
    def display_name(self) -> str:
        """The record as messages name it: version, member if it is another name, and hash."""
        member_part = "" if self.member == self.record.name else f" [{self.member}]"
        return f"{self.record.name}{member_part} ({self.short})"

    @property
    def spec(self) -> str:
        """``file::name`` of the spec."""
        return self.ref.spec

    @property
    def member(self) -> str:
        """Name of the member of the release that was measured."""
        return self.record.checkpoint.label

    @property
    def named_by(self) -> NamedBy | None:
        """Rule that gave the member its name; None in records from before."""
        return self.record.checkpoint.named_by

    @property
    def ref(self) -> CaseRef:
        """Name of the case that was recorded."""
        return CaseRef(self.record.spec.file, self.record.spec.name, self.member)

    @property
    def case(self) -> str:
        """Spec and member, as messages name them."""
        return self.ref.title

    @property
    def promoted(self) -> PromotedRecord:
        """The record as a promotion names it."""
        return PromotedRecord(record=self.id, spec=self.spec, member=self.member)


def worst(verdicts: Iterable[tuple[Status, OnUndecided]]) -> Status:
    """Return the verdict of a record: the worst of its thresholds' verdicts, at least one.

    Args:
        verdicts: Verdict and ``on_undecided`` of each threshold.
    """
    effective = ("warn" if pair == ("undecided", "warn") else pair[0] for pair in verdicts)
    return max(effective, key=_ORDER.index)


def check_name(name: str) -> None:
    """Raise `SetupError` unless the name is allowed for a version."""
    if not re.fullmatch(NAME, name):
        raise SetupError(
            f"{name!r} is no name of a version; allowed: up to 64 letters, digits, `_`, `.`, `+` "
            "and `-`, a letter or digit first"
        )
    # With a baseline of this name, thresholds on changes would silently not be judged.
    if name == NO_VERSION:
        raise SetupError(
            f"{name!r} is no name of a version: as a baseline it means that there is none; choose "
            "another name",
            options=("baseline",),
        )


def finite(value: float | None) -> float | None:
    """Return the number; None for NaN and infinities, which JSON does not have."""
    return value if value is not None and math.isfinite(value) else None


def first_problem(error: ValidationError, *keys: str) -> str:
    """Return the first problem of a malformed document, after its key.

    Args:
        error: What pydantic reports.
        keys: Keys of the part of the document that was read.
    """
    detail = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, (*keys, *detail['loc']))) or 'it'}: {detail['msg']}"


def to_json(document: Record | Promotion) -> bytes:
    """Return the document as strict, indented JSON, which `parse` reads."""
    values = document.model_dump(exclude_none=True)
    text = json.dumps(
        values, indent=1, ensure_ascii=False, allow_nan=False, default=datetime.isoformat
    )
    # Paths may hold bytes that are not UTF-8: JSON reads these escapes back as they were.
    return (text + "\n").encode(errors="backslashreplace")


def parse(kind: type[Document], data: bytes, path: str) -> Document:
    """Read a document that `to_json` wrote, perhaps in an earlier version of this package.

    Args:
        kind: `Record` or `Promotion`.
        data: Content of the file.
        path: Path of the file, for messages.

    Raises:
        HistoryError: It is not JSON, has a later schema version, or does not fit its schema.
    """
    # Pydantic's fast JSON reader accepts NaN. It refuses lone surrogates, which file names may
    # hold, and older schemas: these go the slow way below.
    if b"NaN" not in data and b"Infinity" not in data:
        with suppress(ValidationError):
            return kind.model_validate_json(data)
    document = _load_json(data, path)
    version = document.get("schema_version") if isinstance(document, dict) else None
    # `isinstance` would accept true as version 1.
    if type(version) is not int:
        raise HistoryError(f"{path}: schema_version is {version!r}, expected a number")
    if version > SCHEMA_VERSION:
        raise HistoryError(
            f"{path}: schema_version {version} is of a later sae_guard; this one reads up to "
            f"{SCHEMA_VERSION}: upgrade it"
        )
    # Step by step, so that each version needs only the upgrade to the next.
    while version < SCHEMA_VERSION:
        if version not in _UPGRADES:
            raise HistoryError(f"{path}: schema_version {version} is unknown")
        document = {**_UPGRADES[version](document), "schema_version": version + 1}
        version += 1
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise HistoryError(f"{path}: {first_problem(error)}") from error


def _load_json(data: bytes, path: str) -> Any:
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except ValueError as error:
        raise HistoryError(f"{path}: not readable JSON: {error}") from None


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")
