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
    frontier_plots,
    not_compared,
    pareto_failure,
    pareto_headline,
    scatter_plot,
)
from sae_guard.render.terminal_summary import pareto_lines, summary
from sae_guard.render.threshold_changes import loosened_line, track_lines
from sae_guard.render.tightening import decision_counts, decision_table
from sae_guard.render.trend import trend
from sae_guard.render.verification import confirmation_table, provenance_differences
from sae_guard.render.words import failure, headline

__all__ = [
    "COLUMNS",
    "ComparisonResult",
    "comparison_json",
    "comparison_lines",
    "confirmation_table",
    "decision_counts",
    "decision_table",
    "failure",
    "frontier_plots",
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
    "provenance_differences",
    "scatter_plot",
    "summary",
    "track_lines",
    "trend",
    "verdict_line",
    "worst_lines",
]
