"""The table of all metrics, with those without a bound or a value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.core.report import CaseRef, CaseReport
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import judge
from sae_guard.gate.case_tests import measured, metric_values
from sae_guard.render.measured import metric_rows, metric_table
from tests.helpers.recorded import ordinary
from tests.helpers.reports import a_change, case_report, verdict

CASE = CaseRef("s.yaml", "tiny", "v1")


def report(measurement: Measurement, *thresholds: Threshold) -> CaseReport:
    """Return a report of all metrics, with the verdicts on these thresholds."""
    verdicts = tuple(judge(measurement, threshold) for threshold in thresholds)
    values = metric_values(measurement)
    return CaseReport(CASE, **measured(measurement), verdicts=verdicts, metrics=values)


def cells(measurement: Measurement, *thresholds: Threshold) -> dict[str, str]:
    """Return the rows by metric, with single spaces between cells."""
    title, heads, *rows = metric_table(report(measurement, *thresholds))
    assert title == "s.yaml::tiny [v1]  800 tokens in 8 sequences"
    assert heads.split() == ["metric", "value", "±", "95", "%", "unit", "bound", "verdict"]
    return {row.split()[0]: " ".join(row.split()[1:]) for row in rows}


def test_each_metric_has_a_row_in_order_and_other_targets_come_last() -> None:
    worst, kl = Threshold("kl.worst_sequence", max=1), Threshold("kl", max=0.04)
    rows_of_table = list(metric_rows(report(ordinary(), worst, kl)))
    assert [row["metric"] for row in rows_of_table] == [*METRICS, "kl.worst_sequence"]
    judged = {row["metric"]: row["verdict"] for row in rows_of_table if row["verdict"]}
    assert judged == {"kl": "fail", "kl.worst_sequence": "pass"}
    for row in rows_of_table:
        if not row["verdict"]:
            assert (row["min"], row["max"], row["headroom"]) == (None, None, None)
    rows = cells(ordinary(), worst, kl)
    assert rows["kl"] == "0.05003 2e-05 nats <= 0.04 FAIL"
    assert rows["kl.worst_sequence"] == "0.05007 nats <= 1 pass"
    assert rows["l1"] == "8.035 0.02"


def test_an_undefined_metric_has_a_short_reason() -> None:
    broken = replace(ordinary(), sums={**ordinary().sums, "sq_error": np.full(8, np.nan)})
    rows = cells(broken, Threshold("fvu", max=0.1), Threshold("kl.p99", max=1))
    assert rows["mse"] == "- the sums are not finite: nan / 800.0"
    assert rows["fvu"] == "- <= 0.1 ERROR: the sums are not finite: nan / 6428.0"
    assert rows["kl.p99"] == "- nats <= 1 ERROR: values of single tokens were not kept"
    assert rows["dead_latents"] == "- share needs 10,000 scored tokens, 800 were measured"
    assert rows["kl_random_error"] == "- nats was not measured"
    undefined = next(row for row in metric_rows(report(broken)) if row["metric"] == "mse")
    assert undefined["message"].startswith("mse = E_tokens ‖x−x̂‖²")
    assert undefined["value"] is None


def test_rows_for_other_programs_have_values_bounds_and_units() -> None:
    limits = Threshold("kl", max=0.04, min=0.01), Threshold("l0", min=1)
    rows = {row["metric"]: row for row in metric_rows(report(ordinary(), *limits))}
    kl = rows["kl"]
    assert (kl["spec"], kl["name"], kl["checkpoint"]) == ("s.yaml", "tiny", "v1")
    assert (kl["min"], kl["max"], kl["verdict"], kl["unit"]) == (0.01, 0.04, "fail", "nats")
    assert kl["headroom"] == 0.04 - kl["value"]
    assert kl["low"] < kl["value"] < kl["high"]
    assert (kl["n_tokens"], kl["n_sequences"], kl["confidence"]) == (800, 8, 0.95)
    assert (rows["l1"]["value"], rows["l1"]["verdict"]) == (ordinary()["l1"], "")


def test_a_change_has_its_own_row_and_a_share_its_unit() -> None:
    case = case_report(a_change(), verdict("fail", "l0.change", bounds={"max": 0.1}))
    share, difference = metric_rows(case)
    assert (share["metric"], share["unit"], share["value"]) == ("kl.change", "share", 0.60611)
    assert (difference["metric"], difference["unit"]) == ("l0.change", "latents/token")
    assert "+60.61%" in list(metric_table(case))[2]
