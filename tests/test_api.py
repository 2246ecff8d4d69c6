"""Measure from Python, without pytest and without a spec file."""

from __future__ import annotations

from pathlib import Path

import pytest

import sae_guard
from sae_guard.demo import HELD_OUT, HOOK_NAME, MODEL, SAES, held_out_texts
from sae_guard.errors import SetupError

DATA = {"jsonl": str(HELD_OUT), "sequences": 4, "prepend_bos": True}


def test_measure_takes_names_and_objects_alike() -> None:
    by_name = sae_guard.measure(
        model=MODEL, sae=SAES / "v2", corpus=DATA, hook=HOOK_NAME, random_error=True
    )
    model = sae_guard.load_model(MODEL)
    corpus = sae_guard.Corpus.from_texts(
        held_out_texts(), model.tokenizer, sequences=4, prepend_bos=True
    )
    sae = sae_guard.load_sae(SAES / "v2")
    by_object = sae_guard.measure(model=model, sae=sae, corpus=corpus, hook=HOOK_NAME)
    assert by_name["kl"] == by_object["kl"] > by_name["kl_random_error"]
    assert by_name.n_sequences == 4
    verdict = sae_guard.judge(by_name, sae_guard.Threshold("kl", max=by_name["kl"]))
    assert verdict.status == "pass"


def test_errors_carry_their_cause() -> None:
    with pytest.raises(SetupError, match="is not a model folder"):
        sae_guard.measure(model=MODEL / "gone", sae=SAES / "v2", corpus=DATA, hook=HOOK_NAME)
    with pytest.raises(SetupError, match=r"no checkpoint at .*v9; .*allowed: v1, v2, v3"):
        sae_guard.measure(model=MODEL, sae=SAES / "v9", corpus=DATA, hook=HOOK_NAME)
    with pytest.raises(SetupError, match=r"`data\.sequences` is 0"):
        sae_guard.measure(
            model=MODEL, sae=SAES / "v2", corpus={**DATA, "sequences": 0}, hook=HOOK_NAME
        )


def test_measure_all_gives_the_same_numbers_as_measure() -> None:
    measurements = sae_guard.measure_all(
        model=MODEL,
        saes=[(SAES / "v1", HOOK_NAME), (sae_guard.load_sae(SAES / "v3"), HOOK_NAME, None)],
        corpus=DATA,
    )
    for name, measurement in zip(("v1", "v3"), measurements, strict=True):
        single = sae_guard.measure(model=MODEL, sae=SAES / name, corpus=DATA, hook=HOOK_NAME)
        assert measurement["kl"] == pytest.approx(single["kl"], rel=1e-6)
        assert measurement.provenance.checkpoint["path"] == str(SAES / name)


def test_measure_uses_a_cache_only_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clean_run_path(sae: str, cache: bool | str | Path) -> str:
        measurement = sae_guard.measure(
            model=MODEL, sae=SAES / sae, corpus=DATA, hook=HOOK_NAME, cache=cache
        )
        return measurement.provenance.paths["clean run"]

    monkeypatch.setenv("SAE_GUARD_CACHE", str(tmp_path / "default"))
    assert clean_run_path("v1", cache=False) == "run"
    assert not (tmp_path / "default").exists()
    assert clean_run_path("v1", cache=True) == "run, and remembered"
    assert clean_run_path("v2", cache=True) == "remembered"
    assert clean_run_path("v2", cache=tmp_path / "default") == "measured before"
    assert clean_run_path("v2", cache=str(tmp_path / "other")) == "run, and remembered"


def test_every_public_name_resolves() -> None:
    for name in sae_guard.__all__:
        assert getattr(sae_guard, name) is not None
    assert set(sae_guard.__all__) <= set(dir(sae_guard))
    with pytest.raises(AttributeError, match="attribute measur"):
        _ = sae_guard.measur  # type: ignore[attr-defined]
