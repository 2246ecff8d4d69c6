"""Comparisons of the demo's releases: pairing finds differences where two intervals overlap."""

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


def measure_releases(model: LanguageModel, sequences: int) -> dict[str, Version]:
    """Measure all releases by the demo's spec, on another number of sequences."""
    (spec,) = load_specs(SPEC)
    data = spec.data.model_copy(update={"sequences": sequences})
    corpus = build_corpus(data, model.tokenizer, SPEC.parent)
    interventions = [Intervention(load(SAES / release), spec.hook) for release in RELEASES]
    measurements = measure_all(model, interventions, corpus)
    return {
        name: Version(name, measurement)
        for name, measurement in zip(RELEASES, measurements, strict=True)
    }


@pytest.fixture(scope="module")
def releases(model: LanguageModel) -> dict[str, Version]:
    """Return the releases measured on 64 sequences."""
    return measure_releases(model, 64)


def intervals_overlap(comparison: Comparison, name: str) -> bool:
    """Return whether the 95 % intervals of the two versions, each on its own, overlap."""
    change = comparison[name]
    ends = [change.before.low, change.before.high, change.after.low, change.after.high]
    low, high, after_low, after_high = (end for end in ends if end is not None)
    return max(low, after_low) <= min(high, after_high)


def test_pairing_finds_a_regression_of_the_loss_where_intervals_overlap(
    releases: dict[str, Version],
) -> None:
    comparison = compare(releases["v2"], releases["v3"])
    loss = comparison["ce_patched"]
    assert loss.difference > 0.04
    assert intervals_overlap(comparison, "ce_patched")
    assert loss.p_value is not None
    assert loss.p_value < 1e-10
    # Most of the variance of the loss is between texts, and pairing removes it.
    assert loss.variance_ratio is not None
    assert loss.variance_ratio > 25


def test_pairing_finds_a_small_difference_of_kl_where_intervals_overlap(
    model: LanguageModel,
) -> None:
    releases = measure_releases(model, 9)
    similar = compare(releases["v2"], releases["v1"], alpha=0.05)
    assert intervals_overlap(similar, "kl")
    assert similar["kl"].p_value is not None
    assert similar["kl"].p_value < 0.03
    assert similar["kl"].outcome == "worse"
    # v3 is so much worse than v2 that already the intervals are apart.
    different = compare(releases["v2"], releases["v3"])
    assert different["kl"].p_value is not None
    assert different["kl"].p_value < 1e-3
    assert not intervals_overlap(different, "kl")


def test_comparisons_order_the_releases_as_their_gates_do(releases: dict[str, Version]) -> None:
    v1, v2, v3 = (releases[name] for name in RELEASES)
    assert compare(v1, v2).verdict == "dominates"
    assert compare(v2, v3).verdict == "dominated"
    assert compare(v2, v2).verdict == "same"
    assert compare(v2, v1).verdict == "dominated"


def test_the_token_that_changed_most_is_listed_first_with_its_text(
    releases: dict[str, Version],
) -> None:
    v2, v3 = releases["v2"].measurement, releases["v3"].measurement
    tokens = compare(v2, v3, tokens=10).tokens
    assert v2.tokens is not None
    assert v3.tokens is not None
    change = v3.tokens.columns["kl"].astype(np.float64) - v2.tokens.columns["kl"]
    first = tokens.worse[0]
    assert change[first.sequence, first.position] == change.max()
    assert first.after - first.before == change.max()
    with_text = [token for token in tokens.worse if token.around.next and token.source]
    assert len(with_text) == 10


def test_a_scored_token_takes_less_than_four_bytes_of_a_record(
    releases: dict[str, Version],
) -> None:
    measurement: Measurement = releases["v2"].measurement
    assert len(to_parquet(measurement)[TOKENS]) / measurement.n_tokens < 4


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a folder with the demo's spec, cut to 16 sequences, and its releases."""
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
    one_record = run("compare", "v2", "saes/v3", "--tokens", "1")
    assert one_record.stdout.startswith("v3 is dominated by v2: kl +0.0")
    assert "thresholds/demo.yaml::demo, " in one_record.stdout
    assert "tokens whose KL rose most" in one_record.stdout
    run("measure", "saes/v3", "--record", "v3")
    records, _ = History(str(project / ".sae_guard" / "history")).records()
    assert [stored.record.files[TOKENS].rows for stored in records] == [16 * 126] * 2
    two_records = run("compare", "v2", "v3", "--tokens", "1")
    assert two_records.stdout == one_record.stdout
    # Measuring both checkpoints again gives the same numbers as their records.
    no_record = run("compare", "saes/v2", "saes/v3", "--tokens", "1", "--export", "out.json")
    assert no_record.stdout == one_record.stdout
    (comparison,) = json.loads(Path("out.json").read_text(encoding="utf-8"))["comparisons"]
    assert comparison["before"]["checkpoint"].endswith("saes/v2")
    assert comparison["verdict"] == "dominated"
    # A copy has the same name: the path tells the two apart.
    shutil.copytree("saes/v2", "copies/v2")
    same = run("compare", "saes/v2", "copies/v2").stdout
    assert re.match(r"no difference of v2 \(…\S*copies/v2\) from v2 \(…\S*saes/v2\) was", same)
    assert "note: both are the same files of a checkpoint" in same


def test_measurements_of_different_token_sets_are_not_compared(project: Path) -> None:
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
