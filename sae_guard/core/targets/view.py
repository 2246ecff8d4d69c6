"""What is looked at, and what it is called."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from sae_guard.core.measurement.token_table import TOKEN_COLUMNS
from sae_guard.core.metrics.table import ON_REQUEST, Metric, metric
from sae_guard.core.targets.slices import Slice

WORST = "worst_sequence"
CHANGE = "change"
"""Last part of the name of a view of how far something moved since a baseline."""
QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,2})?)")


@dataclass(frozen=True)
class View:
    """What is looked at."""

    metric: str
    statistic: str = "mean"
    """``mean``, ``p99`` and its like (of single tokens), or ``worst_sequence``."""
    slice: Slice | None = None
    change: Literal["", "difference", "share"] = ""
    """Whether it is how far that moved since a baseline, in the metric's unit or as a share of what
    it was (`sae_guard.core.comparison.change`)."""

    def __str__(self) -> str:
        name = self.metric if self.statistic == "mean" else f"{self.metric}.{self.statistic}"
        name = f"{name}.{CHANGE}" if self.change else name
        return f"{name}@{self.slice}" if self.slice else name

    @property
    def itself(self) -> View:
        """Of a change, what moves."""
        return replace(self, change="")

    @classmethod
    def of(cls, name: str, slice: Slice | None = None) -> View:
        """The view of a name such as ``kl`` or ``kl.p99``."""
        metric_name, _, statistic = name.partition(".")
        return cls(metric_name, statistic or "mean", slice)

    @classmethod
    def read(cls, text: str) -> View:
        """The view that is written so, unless it is of a change.

        Raises:
            ValueError: None is.
            SetupError: There is no such metric.
        """
        name, _, where = text.partition("@")
        found = cls.of(name, Slice.read(where) if where else None)
        if (problem := found.problem()) is not None:
            raise ValueError(problem)
        return found

    def problem(self) -> str | None:
        """Why nothing can be seen so; None if it can."""
        if self.change:
            return self.itself.problem()
        chosen = metric(self.metric)
        if self.statistic not in ("mean", WORST) and level(self.statistic) is None:
            return f"no statistic {self.statistic!r}; allowed: mean, p50, p99 and such, {WORST}"
        if self == View(self.metric):
            return None
        if chosen.firing_above is not None:
            return f"{chosen.name} is of all tokens together"
        if self.statistic == WORST and chosen.direction == "window":
            return f"{chosen.name} has no worst sequence: it is bounded on both sides"
        quantile = self.statistic not in ("mean", WORST)
        if quantile and chosen.denominator != {"n_tokens": 1}:
            return f"{chosen.name} is a ratio of sums: single tokens have none"
        whole_sequences = not quantile and (self.slice is None or self.slice.by == "source")
        if whole_sequences or _of_tokens(chosen):
            return None
        return f"{chosen.name} needs the mean activation: tokens have none alone"


def level(statistic: str) -> float | None:
    """0.99 of ``p99``; None where it is no quantile."""
    found = QUANTILE.fullmatch(statistic)
    share = float(found[1]) / 100 if found else 0.0
    return share if 0 < share < 1 else None


def _of_tokens(chosen: Metric) -> bool:
    return chosen.columns <= {*TOKEN_COLUMNS, *ON_REQUEST, "n_tokens"}
