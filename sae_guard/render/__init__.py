"""Facts → lines and JSON. Pure: nothing is written here."""

from sae_guard.render.comparison import (
    ComparisonResult,
    comparison_json,
    comparison_lines,
    verdict_line,
)
from sae_guard.render.excerpts import COLUMNS, worst_lines
from sae_guard.render.junit import junit_properties
from sae_guard.render.measured import metric_rows, metric_table
from sae_guard.render.numbers import number
from sae_guard.render.pareto import (
    frontiers,
    not_compared,
    pareto_failure,
    pareto_headline,
    plotted,
)
from sae_guard.render.terminal_summary import pareto_lines, summary
from sae_guard.render.threshold_changes import loosened_line, tracks
from sae_guard.render.tightening import changes, count
from sae_guard.render.trend import trend
from sae_guard.render.verification import confirmed, differently_made
from sae_guard.render.words import failure, headline

__all__ = [
    "COLUMNS",
    "ComparisonResult",
    "changes",
    "comparison_json",
    "comparison_lines",
    "confirmed",
    "count",
    "differently_made",
    "failure",
    "frontiers",
    "headline",
    "junit_properties",
    "loosened_line",
    "metric_rows",
    "metric_table",
    "not_compared",
    "number",
    "pareto_failure",
    "pareto_headline",
    "pareto_lines",
    "plotted",
    "summary",
    "tracks",
    "trend",
    "verdict_line",
    "worst_lines",
]
