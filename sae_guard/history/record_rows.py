"""The parts of a record, as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

from sae_guard.core.thresholds import OnUndecided
from sae_guard.core.verdicts import Status

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
