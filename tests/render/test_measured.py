"""All metrics in a table: those without a bound, and those without a value, which say why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.core.report import Outcome
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import judge
from sae_guard.render import every_metric, metric_table
from tests.helpers.recorded import ordinary

CASE = {"spec": "s.yaml", "name": "tiny", "checkpoint": "v1"}


def outcomes(measurement: Measurement, *thresholds: Threshold) -> list[Outcome]:
    judged = [Outcome.of(judge(measurement, threshold), **CASE) for threshold in thresholds]
    return every_metric(measurement, judged, **CASE)


def cells(measurement: Measurement, *thresholds: Threshold) -> dict[str, str]:
    """Metric → its row, in single spaces."""
    title, heads, *rows = metric_table(outcomes(measurement, *thresholds))
    assert title == "s.yaml::tiny [v1]  800 tokens in 8 sequences"
    assert heads.split() == ["metric", "value", "±", "95", "%", "unit", "bound", "verdict"]
    return {row.split()[0]: " ".join(row.split()[1:]) for row in rows}


def test_each_metric_has_a_row_in_order_and_other_targets_come_last() -> None:
    worst, kl = Threshold("kl.worst_sequence", max=1), Threshold("kl", max=0.04)
    found = outcomes(ordinary(), worst, kl)
    assert [each.metric for each in found] == [*METRICS, "kl.worst_sequence"]
    assert {each.metric for each in found if each.kind == "threshold"} == {
        "kl", "kl.worst_sequence",
    }  # fmt: skip
    for each in found:
        if each.kind == "metric":
            assert (each.verdict, each.passes, each.bound) == ("", False, None)
    rows = cells(ordinary(), worst, kl)
    assert rows["kl"] == "0.05003 2e-05 nats <= 0.04 FAIL"
    assert rows["kl.worst_sequence"] == "0.05007 nats <= 1 pass"
    assert rows["l1"] == "8.035 0.02"


def test_what_is_undefined_says_why_in_few_words() -> None:
    broken = replace(ordinary(), sums={**ordinary().sums, "sq_error": np.full(8, np.nan)})
    rows = cells(broken, Threshold("fvu", max=0.1), Threshold("kl.p99", max=1))
    assert rows["mse"] == "- the sums are not finite: nan / 800.0"
    assert rows["fvu"] == "- <= 0.1 ERROR: the sums are not finite: nan / 6428.0"
    assert rows["kl.p99"] == "- nats <= 1 ERROR: values of single tokens were not kept"
    assert rows["dead_latents"] == "- share needs 10,000 scored tokens, 800 were measured"
    assert rows["kl_random_error"] == "- nats was not measured"
    undefined = next(each for each in outcomes(broken) if each.metric == "mse")
    assert undefined.message.startswith("mse = E_tokens ‖x−x̂‖²")
