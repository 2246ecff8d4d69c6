"""The demo's releases compared: what pairing sees where two intervals overlap, on real SAEs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from sae_guard.checkpoints.load import load
from sae_guard.cli import main
from sae_guard.core.comparison import Comparison, Version, compare
from sae_guard.core.measurement import Measurement
from sae_guard.corpus import build_corpus
from sae_guard.demo import MODEL, SAES
from sae_guard.engine import Intervention, measure_all
from sae_guard.history import History
from sae_guard.history.parquet import TOKENS, to_parquet
from sae_guard.model import LanguageModel, load_model
from sae_guard.specs import load_specs

SPEC = Path(__file__).parents[2] / "thresholds" / "demo.yaml"
RELEASES = ("v1", "v2", "v3")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_model(MODEL)


def measured(model: LanguageModel, sequences: int) -> dict[str, Version]:
    """All releases by the demo's spec but for the number of sequences."""
    (spec,) = load_specs(SPEC)
    data = spec.data.model_copy(update={"sequences": sequences})
    corpus = build_corpus(data, model.tokenizer, SPEC.parent)
    patches = [Intervention(load(SAES / release), spec.hook) for release in RELEASES]
    found = measure_all(model, patches, corpus)
    return {name: Version(name, each) for name, each in zip(RELEASES, found, strict=True)}


@pytest.fixture(scope="module")
def releases(model: LanguageModel) -> dict[str, Version]:
    """On 64 sequences."""
    return measured(model, 64)


def overlap(found: Comparison, name: str) -> bool:
    """Whether the 95 % intervals that the two have alone do."""
    move = found[name]
    ends = [move.before.low, move.before.high, move.after.low, move.after.high]
    low, high, after_low, after_high = (end for end in ends if end is not None)
    return max(low, after_low) <= min(high, after_high)


def test_pairing_sees_a_regression_of_the_loss_that_two_intervals_do_not(
    releases: dict[str, Version],
) -> None:
    found = compare(releases["v2"], releases["v3"])
    loss = found["ce_patched"]
    assert loss.difference > 0.04
    assert overlap(found, "ce_patched")
    assert loss.p_value is not None
    assert loss.p_value < 1e-10
    # Most of a text's loss is the text's own: both have it.
    assert loss.variance_ratio is not None
    assert loss.variance_ratio > 25


def test_of_kl_that_takes_versions_that_are_nearer_to_each_other(model: LanguageModel) -> None:
    few = measured(model, 9)
    found = compare(few["v2"], few["v1"], alpha=0.05)
    assert overlap(found, "kl")
    assert found["kl"].p_value is not None
    assert found["kl"].p_value < 0.03
    assert found["kl"].outcome == "worse"
    # v3 is so much worse than v2 that its interval is clear as soon as p is small.
    far = compare(few["v2"], few["v3"])
    assert far["kl"].p_value is not None
    assert far["kl"].p_value < 1e-3
    assert not overlap(far, "kl")


def test_the_verdicts_are_those_of_the_thresholds(releases: dict[str, Version]) -> None:
    v1, v2, v3 = (releases[name] for name in RELEASES)
    assert compare(v1, v2).verdict == "dominates"
    assert compare(v2, v3).verdict == "dominated"
    assert compare(v2, v2).verdict == "same"
    assert compare(v2, v1).verdict == "dominated"


def test_what_moved_most_is_among_the_tokens_with_their_text(releases: dict[str, Version]) -> None:
    v2, v3 = releases["v2"].measurement, releases["v3"].measurement
    found = compare(v2, v3, tokens=10).tokens
    assert v2.tokens is not None
    assert v3.tokens is not None
    move = v3.tokens.columns["kl"].astype(np.float64) - v2.tokens.columns["kl"]
    first = found.worse[0]
    assert move[first.sequence, first.position] == move.max()
    assert first.after - first.before == move.max()
    with_text = [each for each in found.worse if each.around.next and each.source]
    assert len(with_text) == 10


def test_a_scored_token_takes_less_than_four_bytes_of_a_record(
    releases: dict[str, Version],
) -> None:
    measurement: Measurement = releases["v2"].measurement
    assert len(to_parquet(measurement)[TOKENS]) / measurement.n_tokens < 4


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the demo's spec of 16 sequences, and its releases."""
    (tmp_path / "thresholds").mkdir()
    text = SPEC.read_text(encoding="utf-8").replace("sequences: 256", "sequences: 16")
    text = text.replace("../sae_guard/demo/", f"{MODEL.parent}/")
    text = text.partition("  dead_latents")[0].replace("checkpoint: ", "# ")
    (tmp_path / "thresholds" / "demo.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    for release in RELEASES:
        shutil.copytree(SAES / release, tmp_path / "saes" / release)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    machine = () if arguments[0] == "history" else ("--device", "cpu", "--cache", "cache")
    result = CliRunner().invoke(main, [*arguments, *machine])
    assert result.exit_code == code, result.output
    return result


def test_checkpoints_are_measured_by_the_spec_of_the_record(project: Path) -> None:
    run("measure", "saes/v2", "--record", "v2")
    beside = run("compare", "v2", "saes/v3", "--tokens", "1")
    assert beside.stdout.startswith("v3 is dominated by v2: kl +0.0")
    assert "thresholds/demo.yaml::demo, " in beside.stdout
    assert "tokens whose KL rose most" in beside.stdout
    run("measure", "saes/v3", "--record", "v3")
    records, _ = History(str(project / ".sae_guard" / "history")).records()
    assert [each.record.files[TOKENS].rows for each in records] == [16 * 126] * 2
    kept = run("compare", "v2", "v3", "--tokens", "1")
    assert kept.stdout == beside.stdout
    # Both measured: the same numbers again.
    both = run("compare", "saes/v2", "saes/v3", "--tokens", "1", "--export", "out.json")
    assert both.stdout == beside.stdout
    (told,) = json.loads(Path("out.json").read_text(encoding="utf-8"))["comparisons"]
    assert told["before"]["checkpoint"].endswith("saes/v2")
    assert told["verdict"] == "dominated"
    # A copy of one is told from it by its path, and found to be the same.
    shutil.copytree("saes/v2", "copies/v2")
    same = run("compare", "saes/v2", "copies/v2").stdout
    assert re.match(r"no difference of v2 \(…\S*copies/v2\) from v2 \(…\S*saes/v2\) was", same)
    assert "note: both are the same files of a checkpoint" in same


def test_of_another_token_set_nothing_is_compared(project: Path) -> None:
    run("measure", "saes/v2", "--record", "v2")
    spec = project / "thresholds" / "demo.yaml"
    text = spec.read_text(encoding="utf-8")
    spec.write_text(text.replace("sequences: 16", "sequences: 17"), encoding="utf-8")
    refused = run("compare", "v2", "saes/v3", code=2)
    assert "v3 is not comparable with v2 by thresholds/demo.yaml::demo:" in refused.stderr
    assert "policy: n_sequences was 16 and is 17" in refused.stderr
    spec.write_text(text.replace("context: 128", "context: 64"), encoding="utf-8")
    assert "policy: context was 128 and is 64" in run("compare", "v2", "saes/v3", code=2).stderr
    spec.rename(project / "thresholds" / "other.yaml")
    gone = run("compare", "v2", "saes/v3", code=2).stderr
    assert "demo.yaml' is no file and no spec of this project; allowed: other" in gone
