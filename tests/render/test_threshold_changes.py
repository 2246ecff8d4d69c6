"""Thresholds from version to version, and loosened thresholds, in lines."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sae_guard.core.threshold_changes import ThresholdChange
from sae_guard.core.thresholds import Threshold
from sae_guard.history import History, Promotion, Recorded
from sae_guard.history.record import SCHEMA_VERSION, GitRow, ParetoRow, ThresholdRow
from sae_guard.history.threshold_changes import loosened, track_thresholds
from sae_guard.render.threshold_changes import loosened_line, track_lines
from tests.helpers.recorded import SPEC, ordinary, record_one
from tests.helpers.reports import LOOSENED

NOON = datetime(2026, 11, 25, 10, 30, tzinfo=UTC)
COMMIT = GitRow(commit="0123456789abcdef", dirty=False)
DIRTY = GitRow(commit="fedcba9876543210", dirty=True)
TEXTS = (
    SPEC.replace("1}", "1, warn: 0.09}", 1),
    SPEC.replace("{max: 0.1}", "{max: 0.08, confidence: 0.99}"),
    SPEC.replace("kl: {max: 0.1}", "kl: {max: 0.2, confidence: 0.9, on_undecided: warn}").replace(
        "  l0: {min: 1, max: 40, warn: {max: 20}}", "  reconstruction_score: {min: 0.1}"
    ),
)

TABLE = """\
thresholds/tiny.yaml::tiny
  started as v0 (2026-11-25, -, Ada Lovelace): kl <= 0.1 (warn 0.09), l0 1..40 (warn max 20)
  date        name  threshold                  old   new  change     commit     by
  2026-11-26  v1    kl max                     0.1  0.08  tightened  01234567   Ada Lovelace
  2026-11-26  v1    kl warn max               0.09     -  removed    01234567   Ada Lovelace
  2026-11-26  v1    kl confidence                -  0.99  tightened  01234567   Ada Lovelace
  2026-11-27  v2    kl max                    0.08   0.2  loosened   fedcba98+  Ada Lovelace
  2026-11-27  v2    kl confidence             0.99   0.9  loosened   fedcba98+  Ada Lovelace
  2026-11-27  v2    kl on_undecided           fail  warn  loosened   fedcba98+  Ada Lovelace
  2026-11-27  v2    l0 min                       1     -  removed    fedcba98+  Ada Lovelace
  2026-11-27  v2    l0 max                      40     -  removed    fedcba98+  Ada Lovelace
  2026-11-27  v2    l0 warn max                 20     -  removed    fedcba98+  Ada Lovelace
  2026-11-27  v2    reconstruction_score min     -   0.1  added      fedcba98+  Ada Lovelace
"""


def changed(recorded: Recorded, **values: Any) -> Recorded:
    return Recorded(recorded.id, "", recorded.record.model_copy(update=values))


@pytest.fixture
def records(tmp_path: Path) -> list[Recorded]:
    """Records of three days, with changes of bounds between them."""
    history = History(str(tmp_path / "h"))
    measurement = ordinary()
    return [
        changed(
            record_one(history, tmp_path, measurement, text=text, name=f"v{day}", git=git),
            created=NOON + timedelta(days=day), by="Ada Lovelace <ada@example.org>",
        )
        for day, (text, git) in enumerate(zip(TEXTS, (None, COMMIT, DIRTY), strict=True))
    ]  # fmt: skip


def lines(records: list[Recorded], *indices: int) -> list[str]:
    return list(track_lines(track_thresholds(records, {records[at].id for at in indices})))


def test_a_spec_has_its_first_thresholds_and_a_table_of_changes(records: list[Recorded]) -> None:
    output = lines(records, 0, 1, 2)
    assert "\n".join(output) == TABLE
    assert max(map(len, output)) <= 100


def test_changes_start_from_the_record_before(records: list[Recorded]) -> None:
    _, *start, _, first = lines(records, 2)[:5]
    assert start == [
        "  as of v1 (2026-11-26, 01234567, Ada Lovelace): kl <= 0.08 (confidence 0.99),",
        "    l0 1..40 (warn max 20)",
    ]
    assert first.split()[:4] == ["2026-11-27", "v2", "kl", "max"]
    assert lines(records, 0)[2:] == ["  none moved in 1 run", ""]
    same = changed(records[0], run="another")
    assert list(track_lines(track_thresholds([records[0], same], {same.id})))[2:] == [
        "  none moved in 2 runs",
        "",
    ]


def test_the_first_thresholds_include_pareto(records: list[Recorded]) -> None:
    row = ParetoRow(x="l0", y="kl", where="spec.yaml:7", verdict="pass", records=1)
    first = changed(records[0], pareto=row)
    _, start, more, *_ = track_lines(track_thresholds([first], {first.id}))
    assert (start, more) == (TABLE.splitlines()[1] + ",", "    pareto l0, kl")


def test_a_record_without_thresholds_started_as_none(records: list[Recorded]) -> None:
    bare = changed(records[0], thresholds=())
    _, start, *_ = track_lines(track_thresholds([bare], {bare.id}))
    assert start == "  started as v0 (2026-11-25, -, Ada Lovelace): none"


def test_shares_are_in_percent(records: list[Recorded]) -> None:
    def bounded(most: float, run: str) -> Recorded:
        row = ThresholdRow(
            metric="kl.change", max=most, min=-0.05, warn_max=0.005, where="x:1", verdict="pass",
            change="share",
        )  # fmt: skip
        return changed(records[0], thresholds=(row,), run=run)

    old, new = bounded(0.02, "a"), bounded(0.03, "b")
    _, start, _, row, _ = track_lines(track_thresholds([old, new], {old.id}))
    assert start.endswith(": kl.change -5%..2% (warn max 0.5%)")
    assert row.split()[2:7] == ["kl.change", "max", "2%", "3%", "loosened"]


def test_long_and_unprintable_names_stay_in_their_column(records: list[Recorded]) -> None:
    odd = [changed(recorded, by="A\x1b[31m\n" + "b" * 99) for recorded in records]
    for line in lines(odd, 0, 1, 2):
        assert len(line) <= 100
        assert line.isprintable()


@pytest.fixture
def promotion(records: list[Recorded]) -> Promotion:
    return Promotion(
        schema_version=SCHEMA_VERSION, label="v1.2", records=(records[0].promoted,),
        by="Ada <ada@example.org>\n", created=NOON, reason="good",
    )  # fmt: skip


def test_loosened_thresholds_are_one_line(records: list[Recorded], promotion: Promotion) -> None:
    changes = loosened(promotion, records[0], [Threshold("kl", max=0.12, warn_max=0.08)])
    assert changes is not None
    assert loosened_line(records[0].spec, changes) == (
        "LOOSER than at v1.2 (promoted 2026-11-25 by Ada <ada@example.org>?): "
        "thresholds/tiny.yaml::tiny kl max 0.1 -> 0.12; l0 min 1 removed; l0 max 40 removed; "
        "l0 warn max 20 removed"
    )
    changes = loosened(
        promotion, records[0],
        [Threshold("kl", max=0.1, warn_max=0.09, confidence=0.9, on_undecided="warn"),
         Threshold("l0", min=1, max=40, warn_max=20)],
    )  # fmt: skip
    assert changes is not None
    assert loosened_line(records[0].spec, changes).endswith(
        "tiny kl confidence 0.9 added; kl on_undecided fail -> warn"
    )


def test_a_removed_pareto_threshold_is_named_by_its_axes() -> None:
    removed = ThresholdChange("pareto", "axes", "l0, kl", None, "removed", looser=True)
    changes = replace(LOOSENED, changes=(removed,))
    assert loosened_line("s.yaml::tiny", changes) == (
        "LOOSER than at v1.2 (promoted 2026-11-25 by Ada Lovelace): s.yaml::tiny "
        "pareto axes l0, kl removed"
    )


def test_loosened_shares_are_in_percent() -> None:
    wider = ThresholdChange("kl.change", "max", 0.02, 0.03, "loosened", looser=True, share=True)
    changes = replace(LOOSENED, changes=(wider,))
    assert loosened_line("s.yaml::tiny", changes).endswith("tiny kl.change max 2% -> 3%")
