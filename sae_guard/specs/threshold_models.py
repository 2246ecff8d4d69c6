"""The shape of thresholds in a spec."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from sae_guard.core.targets import Slice
from sae_guard.specs.values import Glob, Moved, Range, Text, flat, given, wrong

KINDS: tuple[Literal["position", "entropy", "source"], ...] = ("position", "entropy", "source")
"""Of slices."""


class Strict(BaseModel):
    """A mapping of a spec: its keys and their types are these and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Given(Strict):
    """A mapping whose keys may be left out, not left empty: a bound would be missing silently."""

    @field_validator("*", mode="before")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        return given(value)


class WarnBounds(_Given):
    """Warn bounds of a metric that has both sides."""

    max: float | None = None
    min: float | None = None


def _warn(value: Any) -> Any:
    if type(value) in (int, float):
        return float(value)
    if isinstance(value, (dict, WarnBounds)):
        return value
    raise wrong(f"is {value!r}, expected a number, or a mapping of max and min")


class Bounds(_Given):
    """The bounds of one metric, inclusive."""

    max: float | None = Field(None, description="Largest value that passes.")
    min: float | None = Field(None, description="Smallest value that passes.")
    max_increase: Moved | None = Field(
        None,
        description="Largest increase since the baseline that passes: in the metric's unit, or a "
        "share of what it was, such as 2%.",
    )
    max_decrease: Moved | None = Field(None, description="Largest decrease, likewise.")
    warn: Annotated[float | WarnBounds, BeforeValidator(_warn)] | None = Field(
        None, description="Inside the bound: values past it pass with a warning."
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] | None = Field(
        None,
        description="The interval of this confidence, not the value alone, must be clear of the "
        "bound, such as 0.99.",
    )
    on_undecided: Literal["fail", "warn"] = Field(
        "fail", description="What becomes of an interval that holds the bound."
    )


Thresholds = Annotated[
    dict[str, Bounds],
    BeforeValidator(flat),
    Field(min_length=1),
]


PARETO = "thresholds.pareto"
"""Where it stands; as a key no spec can have it."""


class ParetoModel(Strict):
    """No record of the spec may be at least as good in both metrics and better in one."""

    x: Text = Field(description="A metric, such as l0.")
    y: Text = Field(description="Another, such as kl.")


class SliceModel(Strict):
    """Thresholds on some of the scored tokens."""

    position: Range | None = Field(
        None, description="By their place in the window: 0..8, 8.. or ..8; the end is not in it."
    )
    entropy: Range | None = Field(
        None, description="By the entropy of the clean prediction there, in nats."
    )
    source: Glob | None = Field(
        None, description="By where the text comes from: a name or a glob, such as arxiv*."
    )
    thresholds: Thresholds = Field(description="Metric → bounds.")

    @model_validator(mode="before")
    @classmethod
    def _no_pareto(cls, value: Any) -> Any:
        thresholds = value.get("thresholds") if isinstance(value, dict) else None
        if isinstance(thresholds, dict) and "pareto" in thresholds:
            raise wrong("has pareto among its thresholds, which is of all tokens")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> SliceModel:
        if sum(getattr(self, kind) is not None for kind in KINDS) != 1:
            raise wrong(f"has to have one of {', '.join(KINDS)}")
        return self

    @property
    def slice(self) -> Slice:
        """What it is about."""
        if self.position is not None:
            return Slice("position", *self.position)
        if self.entropy is not None:
            return Slice("entropy", *self.entropy)
        assert self.source is not None
        return Slice("source", glob=self.source)
