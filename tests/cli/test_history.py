"""``sae-guard history`` and ``sae-guard promote``."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from sae_guard.cli import main
from sae_guard.history import History, Recorded
from tests.helpers.recorded import SPEC, ordinary, record_member, record_one


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """Records of two versions at two specs, one of which the second version fails."""
    monkeypatch.chdir(tmp_path)
    history = History(str(tmp_path / ".sae_guard" / "history"))
    other = SPEC.replace("name: tiny", "name: other").replace("blocks.1", "blocks.2")
    return [
        record_one(history, tmp_path / "specs", ordinary(kl), name=name, text=text, member=label)
        for name, label, kl, text in (
            ("v1", "first", 0.05, SPEC),
            ("v1", "first", 0.06, other),
            ("v2", "second", 0.2, SPEC),
            ("v2", "second", 0.04, other),
        )
    ]


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    return result


def promote(*arguments: str, code: int = 0) -> str:
    return run("promote", *arguments, "--as", "v1.2", "--reason", "it is good", code=code).output


def test_history_lists_records_the_oldest_first(records: list[Recorded]) -> None:
    titles, *rows = run("history").output.splitlines()
    metrics = ["kl", "ce_increase", "l0", "fvu"]
    assert titles.split() == ["version", "member", "spec", "recorded", *metrics, "verdict", "id"]
    assert [row.split()[-1] for row in rows] == [recorded.id[-12:] for recorded in records]
    assert rows[0].split()[:3] == ["v1", "first", "tiny"]
    values = [f"{recorded.record.metrics['kl'].value:.4g}" for recorded in records]
    assert [row.split()[5] for row in rows] == values
    assert [row.split()[-2] for row in rows] == ["pass", "pass", "FAIL", "pass"]
    assert max(map(len, [titles, *rows])) <= 100


@pytest.mark.parametrize(
    ("arguments", "indices"),
    [
        (("--spec", "tiny"), [0, 2]),
        (("--spec", "thresholds/*::other"), [1, 3]),
        (("--name", "v2"), [2, 3]),
        (("--checkpoint", "fir*"), [0, 1]),
        (("--checkpoint", "*/specs/second"), [2, 3]),
        (("--hook", "blocks.1.*"), [0, 1, 2, 3]),
        (("--last", "1"), [3]),
        (("--spec", "tiny", "--name", "v2", "--last", "3"), [2]),
    ],
)
def test_history_is_filtered_by_globs(
    records: list[Recorded], arguments: tuple[str, ...], indices: list[int]
) -> None:
    _, *rows = run("history", *arguments).output.splitlines()
    assert [row.split()[-1] for row in rows] == [records[i].id[-12:] for i in indices]


def test_a_filter_that_matches_nothing_lists_what_would_match(records: list[Recorded]) -> None:
    output = run("history", "--name", "v3", code=1).output
    assert "/.sae_guard/history has --name 'v3'; allowed: v1, v2\n" in output


def history_of(
    folder: Path, *members: tuple[str, str], run_id: str = ""
) -> tuple[list[str], list[list[str]]]:
    """Record versions and members in a new folder; return titles and rows of the table."""
    history = History(str(folder / "h"))
    for name, member in members:
        record_member(history, folder / "specs", member, name, run=run_id)
    titles, *rows = run("history", "--folder", str(folder / "h")).output.splitlines()
    return titles.split(), [row.split() for row in rows]


def test_records_of_one_version_stand_together(tmp_path: Path) -> None:
    order = [("v2", "a"), ("v1", "a"), ("v2", "b"), ("v1", "b")]
    titles, rows = history_of(tmp_path, *order)
    assert titles[:2] == ["version", "member"]
    assert [row[:2] for row in rows] == [["v2", "a"], ["v2", "b"], ["v1", "a"], ["v1", "b"]]


def test_what_is_the_same_in_all_rows_is_left_out(tmp_path: Path) -> None:
    metrics = ["kl", "ce_increase", "l0", "fvu", "verdict", "id"]
    titles, _ = history_of(tmp_path / "versions", ("v1", "a"), ("v2", "a"))
    assert titles == ["version", "recorded", *metrics]
    titles, _ = history_of(tmp_path / "members", ("v1", "a"), ("v1", "b"), run_id="one")
    assert titles == ["version", "member", *metrics]
    titles, (row,) = history_of(tmp_path / "one", ("v1", "a"))
    assert titles == ["version", "member", "spec", "recorded", *metrics]
    assert row[:3] == ["v1", "a", "tiny"]


def test_a_member_is_shortened_only_if_it_still_differs(tmp_path: Path) -> None:
    end = "/width_16k/average_l0_71/canonical"
    members = [f"{layer}{end}" for layer in ("layer_10", "layer_11")]
    _, rows = history_of(tmp_path / "alike", *(("v1", member) for member in members))
    assert [row[1] for row in rows] == members
    _, rows = history_of(tmp_path / "apart", ("v1", members[0]), ("v1", "layer_11"))
    assert [row[1] for row in rows] == [f"…{members[0][-23:]}", "layer_11"]


def test_history_draws_a_metric(records: list[Recorded]) -> None:
    output = run("history", "--metric", "kl", "--spec", "tiny").output
    assert output.startswith("kl (nats, lower is better)  thresholds/tiny.yaml::tiny\n")
    assert output.count("●") == 2
    assert "'cosin'; did you mean cosine" in run("history", "--metric", "cosin", code=1).output


def test_history_lists_when_thresholds_changed(records: list[Recorded], tmp_path: Path) -> None:
    history = History(str(tmp_path / ".sae_guard" / "history"))
    loose = SPEC.replace("max: 0.1", "max: 0.3")
    record_one(history, tmp_path / "specs", ordinary(0.2), name="v3", text=loose, member="third")
    lines = run("history", "--thresholds").output.splitlines()
    tiny, start, titles, row, _, other, _, same, _ = lines
    assert (tiny, other) == ("thresholds/tiny.yaml::tiny", "thresholds/tiny.yaml::other")
    assert start.endswith("-, someone): kl <= 0.1, l0 1..40 (warn max 20)")
    assert titles.split() == ["date", "name", "threshold", "old", "new", "change", "commit", "by"]
    assert row.split()[1:] == ["v3", "kl", "max", "0.1", "0.3", "loosened", "-", "someone"]
    assert same == "  none moved in 2 runs"
    assert row in run("history", "--thresholds", "--checkpoint", "third").output
    output = run("history", "--thresholds", "--name", "v2", "--spec", "tiny").output
    assert output.endswith("tiny.yaml::tiny\n" + start + "\n  none moved in 1 run\n\n")
    refused = run("history", "--thresholds", "--metric", "kl", code=2).output
    assert "--metric and --thresholds do not go together" in refused


def test_history_is_exported_as_csv_json_and_parquet(
    records: list[Recorded], tmp_path: Path
) -> None:
    promote(records[0].id)
    for ending in (".csv", ".json", ".parquet"):
        assert "4 records in " in run("history", "--export", f"out{ending}").output
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        from_csv = list(csv.DictReader(file))
    from_json = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    from_parquet = pd.read_parquet(tmp_path / "out.parquet").to_dict("records")
    for number, recorded in enumerate(records):
        kl = recorded.record.metrics["kl"]
        for row in (from_csv[number], from_json[number], from_parquet[number]):
            assert (row["id"], row["name"]) == (recorded.id, recorded.record.name)
            assert row["promoted_as"] == ("v1.2" if number == 0 else "")
            assert [float(row[f"kl{end}"]) for end in ("", "_low", "_high")] == [
                kl.value, kl.low, kl.high,
            ]  # fmt: skip
        assert from_csv[number]["dead_latents"] == ""
        assert from_json[number]["dead_latents"] is None
    output = run("history", "--export", "out.xls", code=1).output
    assert "cannot export '.xls'; allowed: .csv, .json, .parquet" in output
    assert "cannot be written" in run("history", "--export", "none/out.csv", code=1).output


def test_history_is_found_from_subfolders_by_variable_and_by_option(
    records: list[Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run("history").output
    subfolder = tmp_path / "a" / "b"
    subfolder.mkdir(parents=True)
    monkeypatch.chdir(subfolder)
    assert run("history").output == expected
    assert run("history", "--folder", "../../.sae_guard/history").output == expected
    os.rename(tmp_path / ".sae_guard", tmp_path / "moved")
    assert f"no records in {subfolder}/.sae_guard/history; `pytest" in run("history", code=1).output
    monkeypatch.setenv("SAE_GUARD_HISTORY", str(tmp_path / "moved" / "history"))
    assert run("history").output == expected
    url = (tmp_path / "moved" / "history").as_uri()
    assert run("history", "--folder", url).output == expected


def test_unreadable_records_are_warned_of_and_the_others_listed(records: list[Recorded]) -> None:
    file = Path(records[1].path) / "record.json"
    file.write_text("{}")
    result = run("history", code=1)
    assert f"WARNING: {file} was changed since it was written" in result.stderr
    assert len(result.stdout.splitlines()) == 4


def test_a_promotion_records_who_when_and_why(records: list[Recorded]) -> None:
    first, second, *_ = records
    output = promote(first.id, second.id[-12:])
    assert output == "".join(
        f"promoted {recorded.id} as v1.2 ({recorded.case})\n" for recorded in (first, second)
    )
    titles, *rows = run("history").output.splitlines()
    assert titles.split()[-2:] == ["promoted", "id"]
    assert [row.split()[-2] for row in rows] == ["v1.2", "v1.2", "FAIL", "pass"]
    _, *rows = run("history", "--name", "v1.2").output.splitlines()
    assert [row.split()[-1] for row in rows] == [first.id[-12:], second.id[-12:]]
    listed = run("history", "--promotions").output.splitlines()
    assert "  v1.2  promoted by " in listed[0]
    assert listed[0].endswith(": it is good")
    assert listed[1:] == [f"  {each.id}  {each.case}" for each in (first, second)]


def test_only_the_promotion_in_force_is_in_table_and_export(records: list[Recorded]) -> None:
    first, _, failed, _ = records
    promote(first.id)
    promote(failed.id, "--force")
    rows = run("history").output.splitlines()
    assert ["v1.2" in row for row in rows[1:]] == [False, False, True, False]
    assert run("history", "--promotions").output.count("  (no longer)\n") == 1
    run("history", "--export", "out.json")
    rows = json.loads(Path("out.json").read_text(encoding="utf-8"))
    assert [row["promoted_as"] for row in rows] == ["", "", "v1.2", ""]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("v3", "--as", "x", "--reason", "y"), "no record 'v3': give an id, its hash, or a name"),
        (("v1", "--as", "none", "--reason", "y"), "'none' is no name of a version: as a base"),
        (("v1", "--as", "x y", "--reason", "y"), "'x y' is no name of a version; allowed: "),
    ],
)
def test_wrong_promotions_are_refused(
    records: list[Recorded], arguments: tuple[str, ...], message: str
) -> None:
    assert message in run("promote", *arguments, code=1).output
    assert run("history", "--promotions").output == ""


def test_a_promotion_needs_a_reason_and_an_unchanged_record(records: list[Recorded]) -> None:
    first, _, _, last = records
    assert "--reason is empty" in run(
        "promote", first.id, "--as", "x", "--reason", " ", code=2
    ).output  # fmt: skip
    assert "Missing option '--reason'" in run("promote", first.id, "--as", "x", code=2).output
    (Path(last.path) / "latents.parquet").write_bytes(b"")
    assert "latents.parquet was changed" in promote(first.id, last.id, code=1)
    assert run("history", "--promotions").output == ""  # all or none


def test_a_promotion_whose_record_is_missing_is_listed(records: list[Recorded]) -> None:
    first, second = records[:2]
    promote(first.id, second.id)
    shutil.rmtree(first.path)
    listed = run("history", "--promotions").output.splitlines()
    assert listed[1] == f"  {first.id}  {first.case}, which is no readable record"
    assert listed[2] == f"  {second.id}  {second.case}"
    output = run("history", "--promotions", "--spec", second.record.spec.name).output
    assert first.id not in output
    assert second.id in output


def test_pareto_draws_one_plot_per_comparable_group(records: list[Recorded]) -> None:
    lines = run("history", "--pareto", "l0,kl").output.splitlines()
    titles = [line for line in lines if line.startswith("kl against l0")]
    assert titles == [f"kl against l0  {records[at].spec}" for at in (0, 1)]
    places = [next(line for line in lines if recorded.short in line) for recorded in records]
    ends = [place.endswith("on the frontier") for place in places]
    assert ends == [True, False, False, True]
    assert records[0].short not in run("history", "--pareto", "l0, kl", "--spec", "other").output


@pytest.mark.parametrize(
    ("axes", "message", "code"),
    [("l0", "expected two metrics, such as l0,kl", 2),
     ("l0,kll", "y is 'kll'; did you mean kl?", 2),
     ("l0,kl_vs_random_error", "no record has both l0 and kl_vs_random_error", 1)],
)  # fmt: skip
@pytest.mark.usefixtures("records")
def test_pareto_refuses_unknown_and_missing_metrics(axes: str, message: str, code: int) -> None:
    assert message in " ".join(run("history", "--pareto", axes, code=code).output.split())
