"""``sae-guard compare``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from sae_guard.cli import main
from sae_guard.core.measurement import Measurement
from sae_guard.history import History, Recorded
from tests.helpers.changed_measurements import OTHERS, scaled, with_provenance
from tests.helpers.recorded import SPEC, ordinary, record_one, tokenwise

OTHER = SPEC.replace("name: tiny", "name: other")


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    """The history of a project, whose root is the current folder."""
    monkeypatch.chdir(tmp_path)
    return History(str(tmp_path / ".sae_guard" / "history"))


@pytest.fixture
def record(history: History, tmp_path: Path) -> Callable[..., Recorded]:
    """Record a measurement, by default as v1 of the checkpoint v1 at the spec tiny."""

    def record_measurement(measurement: Measurement, name: str = "v1", **case: Any) -> Recorded:
        return record_one(history, tmp_path / "specs", measurement, name=name, **case)

    return record_measurement


@pytest.fixture
def versions(record: Callable[..., Recorded]) -> list[Recorded]:
    """Records of v1 and v2 at two specs; v2 is worse at the first and better at the second."""
    base = tokenwise(ordinary())
    return [
        record(base),
        record(base, text=OTHER),
        record(scaled(base, kl=1.5), "v2"),
        record(scaled(base, kl=0.5), "v2", text=OTHER),
    ]


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["compare", *arguments])
    assert result.exit_code == code, result.output
    return result


def heads(result: Result) -> list[str]:
    """Return the first line of each comparison, up to the numbers."""
    pattern = r"^(\S+ (?:dominates|is dominated by|is a trade-off against) \S+|no difference .*?):"
    return re.findall(pattern, result.stdout, re.MULTILINE)


def test_versions_are_compared_at_each_spec_that_both_have(versions: list[Recorded]) -> None:
    result = run("v1", "v2")
    assert heads(result) == ["v2 is dominated by v1", "v2 dominates v1"]
    lines = result.stdout.splitlines()
    assert lines[1].startswith("thresholds/tiny.yaml::tiny, blocks.1.hook_resid_post, 800 tokens")
    assert max(map(len, lines)) <= 100
    assert heads(run("v1", "v2", "--spec", "other")) == ["v2 dominates v1"]
    assert heads(run("v1", "v2", "--spec", "thresholds/*::tiny")) == ["v2 is dominated by v1"]
    assert (
        "no spec of v1 matches --spec 'x'; allowed: other, thresholds/tiny.yaml"
        in run("v1", "v2", "--spec", "x", code=2).stderr
    )


def test_a_version_is_an_id_hash_label_or_folder(versions: list[Recorded]) -> None:
    first, _, last, _ = versions
    result = CliRunner().invoke(
        main, ["promote", first.id, versions[1].id, "--as", "good", "--reason", "it is", "--force"]
    )
    assert result.exit_code == 0
    expected = run("v1", "v2", "--spec", "tiny").stdout
    for a, b in (
        (first.id, last.id),
        (first.id[-12:], last.id[-12:-4]),
        (first.path, last.path),
        (f"{first.path}/", last.id),
    ):
        assert run(a, b).stdout == expected
    assert heads(run("good", "v2"))[0] == "v2 is dominated by good"
    assert len(run("good", "v2").stdout.split(" l0 0 ")) == 3


def test_a_record_that_was_changed_is_refused(versions: list[Recorded]) -> None:
    file = Path(versions[0].path) / "tokens.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    assert "tokens.parquet was changed: its sha256 is another" in run("v1", "v2", code=2).stderr
    head = Path(versions[2].path) / "record.json"
    head.write_text(head.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert "was changed since it was written" in run(str(versions[2].path), "v1", code=2).stderr


def test_sequences_are_listed_up_to_the_number_in_the_option(versions: list[Recorded]) -> None:
    output = run("v1", "v2", "--spec", "tiny").stdout
    assert output.count("position ") == 0  # the sums moved, and not the tokens
    assert output.count(" (sequence ") == 3
    assert run("v1", "v2", "--spec", "tiny", "--sequences", "0").stdout.count("(sequence") == 0


def test_tokens_are_listed_up_to_the_number_in_the_option(record: Callable[..., Recorded]) -> None:
    record(tokenwise(ordinary()))
    record(tokenwise(ordinary(), 1), "v2")
    output = run("v1", "v2", "--tokens", "2", "--sequences", "1").stdout
    assert (output.count("position "), output.count("over 100 tokens")) == (4, 2)


@pytest.mark.parametrize(
    ("factors", "failing_verdicts", "code"),
    [
        ({"kl": 1.5}, (), 0),
        ({"kl": 1.5}, ("dominated",), 1),
        ({"kl": 1.5}, ("trade-off",), 0),
        ({"kl": 1.5, "l0": 0.5}, ("dominated",), 0),
        ({"kl": 1.5, "l0": 0.5}, ("dominated", "trade-off"), 1),
        ({"kl": 0.5}, ("dominated", "trade-off"), 0),
        ({}, ("dominated", "trade-off"), 0),
    ],
)
def test_the_exit_code_is_1_for_the_verdicts_of_fail_on(
    record: Callable[..., Recorded],
    factors: dict[str, float],
    failing_verdicts: tuple[str, ...],
    code: int,
) -> None:
    record(ordinary())
    record(scaled(ordinary(), **factors), "v2")
    run(
        "v1",
        "v2",
        *(word for verdict in failing_verdicts for word in ("--fail-on", verdict)),
        code=code,
    )


def test_alpha_margin_quality_and_confidence_are_options(record: Callable[..., Recorded]) -> None:
    record(ordinary())
    record(scaled(ordinary(), kl=1.1, ce_patched=0.9), "v2")
    assert heads(run("v1", "v2")) == ["v2 is dominated by v1"]
    assert heads(run("v1", "v2", "--quality", "ce_increase")) == ["v2 dominates v1"]
    assert "within the 20 % margin" in run("v1", "v2", "--margin", "20%").stdout
    assert "was found at alpha 1e-12" in run("v1", "v2", "--alpha", "1e-12").stdout
    assert "99 % interval" in run("v1", "v2", "--confidence", "0.99").stdout
    for wrong, message in (
        (("--alpha", "0"), "alpha is 0.0, allowed: above 0 and below 0.5"),
        (("--confidence", "95"), "confidence is 95.0, allowed: above 0.5 and below 1"),
        (("--margin", "5"), "'5'; allowed: from 0% to below 100%"),
        (("--quality", "l0"), "quality is 'l0'; allowed: "),
        (("--fail-on", "same"), "'same' is not one of 'dominated', 'trade-off'"),
        (("--export", "out.csv"), "--export out.csv: allowed: .json"),
    ):
        assert message in run("v1", "v2", *wrong, code=2).stderr


def test_several_checkpoints_are_paired_by_their_labels(record: Callable[..., Recorded]) -> None:
    for name, kl in (("v1", 1.0), ("v2", 2.0)):
        record(scaled(ordinary(), kl=kl), name, member="layer6")
        record(scaled(ordinary(), kl=1 / kl), name, member="layer8")
    result = run("v1", "v2")
    assert heads(result) == ["v2 is dominated by v1", "v2 dominates v1"]
    record(ordinary(), "v3", member="layer9")
    output = run("v1", "v3", code=2).stderr
    assert "v1 and v3 have no member in common: only v3 has thresholds/tiny.yaml::tiny" in output
    assert "only v1 has thresholds/tiny.yaml::tiny [layer6]" in output


def test_versions_of_the_same_name_get_a_hash_or_label(record: Callable[..., Recorded]) -> None:
    a, b = record(ordinary()), record(scaled(ordinary(), kl=2))
    output = run(a.id, b.id).stdout
    assert output.startswith(f"v1 {b.id[-12:]} is dominated by v1 {a.id[-12:]}: ")
    c = record(scaled(ordinary(), kl=2), member="other")
    assert run(a.id, c.id).stdout.startswith("v1 [other] is dominated by v1 [v1]: ")
    assert "both are the same files of a checkpoint" in run(a.id, a.id).stdout


def test_specs_that_only_one_version_has_are_listed(record: Callable[..., Recorded]) -> None:
    record(ordinary())
    record(ordinary(), text=OTHER)
    record(ordinary(), "v2")
    result = run("v1", "v2", code=2)
    assert "not compared: only v1 has thresholds/tiny.yaml::other [v1]" in result.stderr
    assert heads(result) == ["no difference of v2 from v1 was found at alpha 0.01"]
    third = SPEC.replace("name: tiny", "name: third")
    record(ordinary(), "v3", text=third)
    record(ordinary(), "v3", text=third, member="b")
    output = run("v1", "v3", code=2).stderr
    assert "v1 and v3 have no member in common: only v3 has thresholds/tiny.yaml::third" in output
    # One of each is compared though their specs have other names: the tokens are the same.
    fourth = record(ordinary(), "v4", text=third)
    assert "::tiny → thresholds/tiny.yaml::third" in run("v2", fourth.id).stdout


def test_a_name_in_the_history_comes_before_a_path(
    versions: list[Recorded], tmp_path: Path
) -> None:
    (tmp_path / "v2").mkdir()
    result = run("v1", "v2")
    assert "the path is ./v2" in result.stderr
    assert "no record 'v9': give an id" in run("v1", "v9", code=2).stderr
    assert "there is no such path" in run("v1", "v9", code=2).stderr


@pytest.mark.parametrize("case", sorted(OTHERS.keys() - {"formula"}))
def test_versions_that_are_not_comparable_are_refused(
    record: Callable[..., Recorded], case: str
) -> None:
    parts, message = OTHERS[case]
    record(ordinary())
    record(with_provenance(ordinary(), **parts), "v2")
    result = run("v1", "v2", "--export", "out.json", code=2)
    assert "v2 is not comparable with v1 by thresholds/tiny.yaml::tiny:\n" in result.stderr
    assert message in result.stderr
    assert result.stdout == ""
    (comparison,) = json.loads(Path("out.json").read_text(encoding="utf-8"))["comparisons"]
    assert comparison["verdict"] is None
    assert any(reason.startswith(message) for reason in comparison["not_comparable"])


def changed(**columns: Any) -> Measurement:
    return replace(ordinary(), sums={**ordinary().sums, **columns})


NO_BOUNDS = SPEC.partition("  kl")[0] + "  cosine: {min: 0}\n"


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (changed(ce_clean=ordinary().sums["ce_clean"] * 1.01), "the clean model differs: its"),
        (changed(n_tokens=np.full(8, 99.0)), "other tokens of the sequences are scored"),
        (ordinary(n=4, of=4), "policy: n_sequences was 8 and is 4"),
        (changed(kl=np.full(8, np.nan)), "no verdict on v2 against v1: kl cannot be compared"),
        (changed(l0=np.full(8, np.inf)), "no verdict on v2 against v1: l0 cannot be compared"),
        (with_provenance(ordinary(), **OTHERS["formula"][0]), "the formula version of kl was 1"),
    ],
    ids=["clean model", "scored", "rows", "NaN", "infinite", "formula"],
)
def test_without_a_verdict_the_exit_code_is_2(
    record: Callable[..., Recorded], after: Measurement, message: str
) -> None:
    record(ordinary(), text=NO_BOUNDS)
    record(after, "v2", text=NO_BOUNDS)
    assert message in run("v1", "v2", "--fail-on", "dominated", code=2).output


def test_not_comparable_outweighs_a_failing_verdict(
    record: Callable[..., Recorded],
) -> None:
    record(ordinary())
    record(ordinary(), text=OTHER)
    record(scaled(ordinary(), kl=2), "v2")
    other = with_provenance(ordinary(), hook="blocks.0.hook_resid_post")
    last = record(other, "v2", text=OTHER)
    result = run("v1", "v2", "--fail-on", "dominated", code=2)
    assert heads(result) == ["v2 is dominated by v1"]
    assert f"by {last.spec}:\n  hook was blocks.1" in result.stderr


def test_the_comparison_is_exported_as_json(versions: list[Recorded]) -> None:
    printed = run("v1", "v2", "--export", "out.json").stdout
    assert printed == run("v1", "v2").stdout
    document = json.loads(Path("out.json").read_text(encoding="utf-8"))
    one, other = document["comparisons"]
    assert one["spec"] == versions[0].spec
    assert one["before"] == {"name": "v1", "record": versions[0].id}
    assert (one["after"]["record"], other["verdict"]) == (versions[2].id, "dominates")
    kl = one["metrics"]["kl"]
    assert kl["after"] == versions[2].record.metrics["kl"].value
    assert kl["difference"] == kl["after"] - kl["before"]
    assert "cannot be written" in run("v1", "v2", "--export", "none/out.json", code=2).output


def test_without_a_history_no_name_is_known(history: History) -> None:
    assert "there are no records; and there is no such path" in run("v1", "v2", code=2).stderr
    output = run("~nobody-of-us/v1", "v2", code=2).stderr
    assert "there are no records; and there is no such path" in output
