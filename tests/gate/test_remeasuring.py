"""The case that measures a record again is the one that was recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_guard.checkpoints.options import parse
from sae_guard.checkpoints.reference import Checkpoint
from sae_guard.errors import SaeGuardError
from sae_guard.gate.remeasuring import base_of, case_of, needed
from sae_guard.history import History, HistoryError, Recorded
from sae_guard.specs import load_specs
from tests.helpers.recorded import SPEC, a_case, ordinary, record_one

DATA = {"text": ["../text.txt"], "context": 128, "sequences": 8, "prepend_bos": True,
        "special_tokens": [0, 5], "seed": 3, "expect_clean_ce": [1.0, 2.0]}  # fmt: skip
MODEL = {"name": "gpt2", "revision": None, "processing": "hooked", "dtype": "bfloat16"}


def recorded_in(folder: Path, text: str = SPEC, **parts: Any) -> Recorded:
    """Add a record with these parts of its provenance replaced."""
    measurement = ordinary()
    provenance = measurement.provenance
    default = {
        "model": MODEL,
        "corpus": {**provenance.corpus, "source": DATA},
        "checkpoint": {**provenance.checkpoint, "model_name": "GPT2"},
    }
    provenance = replace(provenance, **{**default, **parts})
    measurement = replace(measurement, provenance=provenance)
    return record_one(History(str(folder / "h")), folder, measurement, text=text)


def case(recorded: Recorded, folder: Path, **options: Any) -> Any:
    """Return the case that measures the checkpoint v9 as the record's."""
    return case_of(recorded, Checkpoint(folder / "v9"), "v9", folder / "base", **options)


def test_a_record_has_the_model_hook_point_tokens_and_options(tmp_path: Path) -> None:
    recorded = recorded_in(tmp_path, SPEC + "sae: {k: 4}\n")
    options = {"k": 4, "pre_bias": True}
    row = recorded.record.checkpoint.model_copy(update={"options": options})
    recorded = replace(recorded, record=recorded.record.model_copy(update={"checkpoint": row}))
    again = case(recorded, tmp_path)
    assert (again.hook, again.hook_out, again.thresholds) == ("blocks.1.hook_resid_post", None, ())
    assert again.sae == parse(options)
    assert again.checkpoint == Checkpoint(tmp_path / "v9")
    assert again.spec.file == tmp_path / "base" / "tiny.yaml"
    model = again.spec.model
    assert {name: getattr(model, name) for name in MODEL} == MODEL
    assert model.aliases == ("GPT2",)
    assert again.spec.data.model_dump(mode="json", exclude_none=True) == DATA
    assert not again.random_error


def test_the_data_of_a_spec_is_restored_from_the_provenance(tmp_path: Path) -> None:
    data = "{jsonl: [a, b], field: x, source_field: y, prepend_bos: false, special_tokens: include}"
    spec = a_case(tmp_path, text=SPEC.replace("{text: text.txt, prepend_bos: true, sequences: 8}",
                                              data)).spec  # fmt: skip
    source = spec.data.model_dump(mode="json", exclude_none=True)
    corpus = {"n_sequences": 8, "sha256": "2" * 64, "source": source}
    assert case(recorded_in(tmp_path, corpus=corpus), tmp_path).spec.data == spec.data


def test_recorded_optional_columns_are_measured_again(tmp_path: Path) -> None:
    measurement = ordinary()
    corpus = {**measurement.provenance.corpus, "source": DATA}
    provenance = replace(measurement.provenance, model=MODEL, corpus=corpus)
    sums = {**measurement.sums, "kl_random_error": np.full(8, 80.0)}
    measurement = replace(measurement, sums=sums, provenance=provenance)
    recorded = record_one(History(str(tmp_path / "h")), tmp_path, measurement)
    assert case(recorded, tmp_path).random_error


def test_model_and_data_can_come_from_options_and_a_spec_file(tmp_path: Path) -> None:
    recorded = recorded_in(tmp_path)
    assert case(recorded, tmp_path, model="/here/gpt2").spec.model.name == "/here/gpt2"
    model = "model: {name: ./there, dtype: bfloat16, processing: hooked, aliases: [x]}"
    text = SPEC.replace("model: gpt2", model)
    text = text.replace("thresholds:\n", "thresholds:\n  pareto: {x: l0, y: kl_vs_random_error}\n")
    (tmp_path / "s.yaml").write_text(f"{text}---\n{text.replace('tiny', 'other')}")
    again = case(recorded, tmp_path, specs=load_specs(tmp_path / "s.yaml"))
    assert again.spec.model.name == "./there"
    assert again.spec.model.aliases == ("x", "GPT2")
    assert (again.spec.file, again.spec.name) == (tmp_path / "s.yaml", "tiny")
    assert again.thresholds == ()
    assert not again.random_error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("blocks.1", "blocks.3"),
            "s.yaml has 0 specs of blocks.1.hook_resid_post",
        ),
        (("name: tiny", "name: other"), "model.dtype is float32, .* bfloat16"),
        (
            ("model: gpt2", "model: {name: gpt2, dtype: bfloat16}"),
            "model.processing is raw, .* hooked",
        ),
    ],
)
def test_a_spec_with_another_hook_point_or_model_is_an_error(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    (tmp_path / "s.yaml").write_text(SPEC.replace(*change))
    with pytest.raises(SaeGuardError, match=message):
        case(recorded_in(tmp_path), tmp_path, specs=load_specs(tmp_path / "s.yaml"))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"corpus": {"n_sequences": 8, "sha256": "2"}}, "provenance.corpus.source: Field req"),
        ({"corpus": {"n_sequences": 8, "source": DATA}}, "provenance.corpus.sha256: Field req"),
        ({"checkpoint": {"path": "v1"}}, "provenance.checkpoint.files: Field required"),
        ({"model": {**MODEL, "name": None}}, "provenance.model.name: Input should be a"),
        ({"model": {**MODEL, "dtype": "int8"}}, "provenance.model.dtype: Input should be"),
        ({"corpus": {"n_sequences": 8, "sha256": "2", "source": {"text": ["a"]}}}, "prepend_bos"),
    ],
)  # fmt: skip
def test_a_record_with_an_incomplete_provenance_is_an_error(
    tmp_path: Path, parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(SaeGuardError, match=message):
        case(recorded_in(tmp_path, **parts), tmp_path)


def test_a_missing_key_of_the_provenance_is_named_with_the_record(tmp_path: Path) -> None:
    recorded = recorded_in(tmp_path, checkpoint={})
    with pytest.raises(HistoryError, match=f"{recorded.path}: provenance.checkpoint.files"):
        needed(recorded)


def test_relative_paths_start_from_the_folder_of_the_spec(tmp_path: Path) -> None:
    recorded = recorded_in(tmp_path)
    assert base_of(recorded, Path("/a/project")) == Path("/a/project/thresholds")
    row = recorded.record.spec.model_copy(update={"file": "/elsewhere/s.yaml"})
    elsewhere = replace(recorded, record=recorded.record.model_copy(update={"spec": row}))
    assert base_of(elsewhere, Path("/a/project")) == Path("/elsewhere")
