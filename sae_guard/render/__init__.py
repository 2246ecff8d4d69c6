"""Facts → lines and JSON. Pure: nothing is written here."""

from sae_guard.render.comparison import Compared, comparison_json, comparison_lines, verdict_line
from sae_guard.render.documents import from_json, to_json
from sae_guard.render.excerpts import COLUMNS, worst_lines
from sae_guard.render.measured import every_metric, metric_table
from sae_guard.render.numbers import number
from sae_guard.render.pareto import (
    frontiers,
    not_compared,
    pareto_failure,
    pareto_headline,
    plotted,
)
from sae_guard.render.terminal_summary import summary
from sae_guard.render.threshold_changes import looser_line, looser_row, tracks
from sae_guard.render.tightening import changes, count
from sae_guard.render.trend import trend
from sae_guard.render.verification import confirmed, differently_made
from sae_guard.render.words import failure, headline

__all__ = [
    "COLUMNS",
    "Compared",
    "changes",
    "comparison_json",
    "comparison_lines",
    "confirmed",
    "count",
    "differently_made",
    "every_metric",
    "failure",
    "from_json",
    "frontiers",
    "headline",
    "looser_line",
    "looser_row",
    "metric_table",
    "not_compared",
    "number",
    "pareto_failure",
    "pareto_headline",
    "plotted",
    "summary",
    "to_json",
    "tracks",
    "trend",
    "verdict_line",
    "worst_lines",
]
