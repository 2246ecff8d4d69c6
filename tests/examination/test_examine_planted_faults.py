"""Every planted fault is named, and nothing else is."""

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
# Of a tenth of the demo's tokens; shares of latents need them all.
BOUNDS = tuple(t for t in SPEC.thresholds if not t.target.metric.endswith("_latents"))

OF_OTHERS = {
    "v1": {
        "thresholds rounded to bf16", "threshold dropped (read as ReLU)", "threshold set to zero",
        "thresholds halved", "thresholds doubled",
    },
    "v2": {"TopK read as ReLU", "k halved", "k doubled"},
}  # fmt: skip
"""Faults that these SAEs cannot have."""


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_model(MODEL)


@pytest.fixture(scope="module")
def corpus(model: LanguageModel) -> Corpus:
    data = SPEC.data.model_copy(update={"sequences": 24})
    return build_corpus(data, model.tokenizer, SPEC.file.parent)


def good(name: str, model: LanguageModel, corpus: Corpus) -> Good:
    """A demo SAE; the release after it began from other random numbers."""
    other = {"v1": "v2", "v2": "v1", "v3": "v1"}[name]
    return Good(
        load_sae(SAES / name), model, corpus, SPEC.hook, BOUNDS, other=load_sae(SAES / other)
    )


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        # Of faults that both can have, one is enough for each change.
        pytest.param(
            fault,
            name,
            id=f"{fault.name}-{name}",
            marks=() if name == "v1" or fault.name in OF_OTHERS["v1"] else pytest.mark.slow,
        )
        for fault in FAULTS
        for name in ("v1", "v2")
    ],
)
def test_faults_are_named(
    fault: Fault, name: str, model: LanguageModel, corpus: Corpus, tmp_path: Path
) -> None:
    found = outcome(good(name, model, corpus), fault, tmp_path)
    assert (found is None) == (fault.name in OF_OTHERS[name])
    if found is None:
        return
    assert found.names == ((fault.named,) if fault.named else ())
    if not fault.named:
        assert found.gate == "pass"


def test_a_bad_sae_that_was_loaded_rightly_is_not_blamed_on_loading(
    model: LanguageModel, corpus: Corpus, tmp_path: Path
) -> None:
    none = FAULTS[0]
    for thorough in (False, True):
        found = outcome(good("v3", model, corpus), none, tmp_path, thorough=thorough)
        assert found is not None
        assert found.gate == "FAIL"
        assert found.names == ()


def test_a_fault_that_betters_kl_is_named(
    model: LanguageModel, corpus: Corpus, tmp_path: Path
) -> None:
    """No bound on KL can see it."""
    halved = next(fault for fault in FAULTS if fault.name == "thresholds halved")
    v2 = good("v2", model, corpus)
    kl = tuple(t for t in BOUNDS if str(t.target) == "kl")
    sound, found = (
        outcome(replace(v2, thresholds=kl), fault, tmp_path) for fault in (FAULTS[0], halved)
    )
    assert sound is not None
    assert found is not None
    assert sound.values is not None
    assert found.values is not None
    assert found.values["kl"] < sound.values["kl"]
    assert found.gate == "pass"
    assert found.names == ("threshold-scale",)
    with_l0 = outcome(v2, halved, tmp_path)
    assert with_l0 is not None
    assert "l0" in with_l0.crossed


@pytest.mark.parametrize("name", ["demo", "gpt2-small", "pythia-70m", "gemma-2-2b"])
def test_example_specs_bound_what_kl_does_not_see(name: str) -> None:
    specs: tuple[Spec, ...] = load_specs(ROOT / "thresholds" / f"{name}.yaml")
    for spec in specs:
        bounds = {str(threshold.target): threshold for threshold in spec.thresholds}
        assert {"kl", "l0", "explained_variance"} <= bounds.keys()
        assert bounds["l0"].max is not None
