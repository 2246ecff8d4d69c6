"""The diagnosis names every planted fault, and nothing where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sae_guard.api import load_sae
from sae_guard.corpus import Corpus, build_corpus
from sae_guard.demo import MODEL, SAES
from sae_guard.model import LanguageModel, load_model
from sae_guard.specs import Spec, load_specs
from tests.helpers.planted_faults import FAULTS, Fault, Good, outcome

ROOT = Path(__file__).parents[2]
(SPEC,) = load_specs(ROOT / "thresholds" / "demo.yaml")
# A tenth of the demo's tokens is measured here: too few for shares of latents.
BOUNDS = tuple(t for t in SPEC.thresholds if not t.target.metric.endswith("_latents"))

IMPOSSIBLE_FAULTS = {
    "v1": {
        "thresholds rounded to bf16", "threshold dropped (read as ReLU)", "threshold set to zero",
        "thresholds halved", "thresholds doubled",
    },
    "v2": {"TopK read as ReLU", "k halved", "k doubled"},
}  # fmt: skip
"""Faults that an SAE cannot have, as it has no thresholds, or no k."""


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_model(MODEL)


@pytest.fixture(scope="module")
def corpus(model: LanguageModel) -> Corpus:
    data = SPEC.data.model_copy(update={"sequences": 24})
    return build_corpus(data, model.tokenizer, SPEC.file.parent)


def good(name: str, model: LanguageModel, corpus: Corpus) -> Good:
    """Return a demo SAE, with another one that was trained from other random numbers."""
    other = {"v1": "v2", "v2": "v1", "v3": "v1"}[name]
    return Good(
        load_sae(SAES / name), model, corpus, SPEC.hook, BOUNDS, other=load_sae(SAES / other)
    )


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        # Where both SAEs can have a fault, `make test` tries it on one of them.
        pytest.param(
            fault,
            name,
            id=f"{fault.name}-{name}",
            marks=() if name == "v1" or fault.name in IMPOSSIBLE_FAULTS["v1"] else pytest.mark.slow,
        )
        for fault in FAULTS
        for name in ("v1", "v2")
    ],
)
def test_planted_faults_are_named(
    fault: Fault, name: str, model: LanguageModel, corpus: Corpus, tmp_path: Path
) -> None:
    result = outcome(good(name, model, corpus), fault, tmp_path)
    assert (result is None) == (fault.name in IMPOSSIBLE_FAULTS[name])
    if result is None:
        return
    assert result.names == ((fault.expected_name,) if fault.expected_name else ())
    if not fault.expected_name:
        assert result.gate == "pass"


def test_a_bad_sae_that_was_loaded_correctly_has_no_probable_cause(
    model: LanguageModel, corpus: Corpus, tmp_path: Path
) -> None:
    no_fault = FAULTS[0]
    for thorough in (False, True):
        result = outcome(good("v3", model, corpus), no_fault, tmp_path, thorough=thorough)
        assert result is not None
        assert result.gate == "FAIL"
        assert result.names == ()


def test_a_fault_that_lowers_kl_is_named(
    model: LanguageModel, corpus: Corpus, tmp_path: Path
) -> None:
    """An upper bound on KL cannot catch such a fault."""
    halved = next(fault for fault in FAULTS if fault.name == "thresholds halved")
    v2 = good("v2", model, corpus)
    kl = tuple(t for t in BOUNDS if str(t.target) == "kl")
    sound, faulty = (
        outcome(replace(v2, thresholds=kl), fault, tmp_path) for fault in (FAULTS[0], halved)
    )
    assert sound is not None
    assert faulty is not None
    assert sound.values is not None
    assert faulty.values is not None
    assert faulty.values["kl"] < sound.values["kl"]
    assert faulty.gate == "pass"
    assert faulty.names == ("threshold-scale",)
    with_l0 = outcome(v2, halved, tmp_path)
    assert with_l0 is not None
    assert "l0" in with_l0.crossed


@pytest.mark.parametrize("name", ["demo", "gpt2-small", "pythia-70m", "gemma-2-2b"])
def test_example_specs_bound_l0_and_explained_variance_beside_kl(name: str) -> None:
    specs: tuple[Spec, ...] = load_specs(ROOT / "thresholds" / f"{name}.yaml")
    for spec in specs:
        bounds = {str(threshold.target): threshold for threshold in spec.thresholds}
        assert {"kl", "l0", "explained_variance"} <= bounds.keys()
        assert bounds["l0"].max is not None
