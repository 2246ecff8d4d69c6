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
    """A record whose provenance says these parts otherwise."""
    measured = ordinary()
    told = measured.provenance
    corpus = {**told.corpus, "source": DATA}
    checkpoint = {**told.checkpoint, "model_name": "GPT2"}
    told = replace(told, **{"model": MODEL, "corpus": corpus, "checkpoint": checkpoint, **parts})
    measured = replace(measured, provenance=told)
    return record_one(History(str(folder / "h")), folder, measured, text=text)


def case(recorded: Recorded, folder: Path, **asked: Any) -> Any:
    return case_of(recorded, Checkpoint(folder / "v9"), "v9", folder / "base", **asked)


def test_a_record_says_model_place_tokens_and_options(tmp_path: Path) -> None:
    recorded = recorded_in(tmp_path, SPEC + "sae: {k: 4}\n")
    options = {"k": 4, "pre_bias": True}
    row = recorded.record.checkpoint.model_copy(update={"options": options})
    recorded = replace(recorded, record=recorded.record.model_copy(update={"checkpoint": row}))
    made = case(recorded, tmp_path)
    assert (made.hook, made.hook_out, made.thresholds) == ("blocks.1.hook_resid_post", None, ())
    assert made.sae == parse(options)
    assert made.checkpoint == Checkpoint(tmp_path / "v9")
    assert made.spec.file == tmp_path / "base" / "tiny.yaml"
    model = made.spec.model
    told = {"name": model.name, "revision": model.revision, "processing": model.processing,
            "dtype": model.dtype}  # fmt: skip
    assert (told, model.aliases) == (MODEL, ("GPT2",))
    assert made.spec.data.model_dump(mode="json", exclude_none=True) == DATA
    assert not made.random_error


def test_the_data_of_a_spec_is_read_again_from_what_its_corpus_says(tmp_path: Path) -> None:
    data = "{jsonl: [a, b], field: x, source_field: y, prepend_bos: false, special_tokens: include}"
    spec = a_case(tmp_path, text=SPEC.replace("{text: text.txt, prepend_bos: true, sequences: 8}",
                                              data)).spec  # fmt: skip
    told = spec.data.model_dump(mode="json", exclude_none=True)
    corpus = {"n_sequences": 8, "sha256": "2" * 64, "source": told}
    assert case(recorded_in(tmp_path, corpus=corpus), tmp_path).spec.data == spec.data


def test_columns_on_request_are_asked_for_again(tmp_path: Path) -> None:
    measured = ordinary()
    told = replace(
        measured.provenance, model=MODEL, corpus={**measured.provenance.corpus, "source": DATA}
    )
    sums = {**measured.sums, "kl_random_error": np.full(8, 80.0)}
    measured = replace(measured, sums=sums, provenance=told)
    recorded = record_one(History(str(tmp_path / "h")), tmp_path, measured)
    assert case(recorded, tmp_path).random_error


def test_model_and_data_may_be_named(tmp_path: Path) -> None:
    recorded = recorded_in(tmp_path)
    assert case(recorded, tmp_path, model="/here/gpt2").spec.model.name == "/here/gpt2"
    there = "model: {name: ./there, dtype: bfloat16, processing: hooked, aliases: [x]}"
    text = SPEC.replace("model: gpt2", there)
    text = text.replace("thresholds:\n", "thresholds:\n  pareto: {x: l0, y: kl_vs_random_error}\n")
    (tmp_path / "s.yaml").write_text(f"{text}---\n{text.replace('tiny', 'other')}")
    made = case(recorded, tmp_path, specs=load_specs(tmp_path / "s.yaml"))
    assert made.spec.model.name == "./there"
    assert made.spec.model.aliases == ("x", "GPT2")
    assert (made.spec.file, made.spec.name) == (tmp_path / "s.yaml", "tiny")
    assert made.thresholds == ()
    assert not made.random_error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("blocks.1", "blocks.3"),
            "s.yaml has 0 specs of blocks.1.hook_resid_post, where",
        ),
        (("name: tiny", "name: other"), "model.dtype is float32, the record is of bfloat16"),
        (
            ("model: gpt2", "model: {name: gpt2, dtype: bfloat16}"),
            "model.processing is raw, the record is of hooked",
        ),
    ],
)
def test_a_spec_of_something_else_is_refused(
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
def test_a_record_that_does_not_say_enough_is_refused(
    tmp_path: Path, parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(SaeGuardError, match=message):
        case(recorded_in(tmp_path, **parts), tmp_path)


def test_what_is_needed_is_said_to_be_missing_with_the_path(tmp_path: Path) -> None:
    recorded = recorded_in(tmp_path, checkpoint={})
    with pytest.raises(HistoryError, match=f"{recorded.path}: provenance.checkpoint.files"):
        needed(recorded)


def test_paths_start_from_where_the_spec_would_lie(tmp_path: Path) -> None:
    recorded = recorded_in(tmp_path)
    assert base_of(recorded, Path("/a/project")) == Path("/a/project/thresholds")
    row = recorded.record.spec.model_copy(update={"file": "/elsewhere/s.yaml"})
    moved = replace(recorded, record=recorded.record.model_copy(update={"spec": row}))
    assert base_of(moved, Path("/a/project")) == Path("/elsewhere")
