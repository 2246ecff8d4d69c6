"""The engine compared with the definitions at every kind of hook point, and its setup errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sae_guard.core.metrics import ALL_COLUMNS, COLUMNS, METRICS
from sae_guard.corpus import Corpus
from sae_guard.engine import activation_stats, measure
from sae_guard.errors import LoadError, SetupError
from sae_guard.model import Edit, LanguageModel, load_model
from sae_guard.sae.controls import identity_sae, mean_sae, zero_sae
from tests.helpers import naive
from tests.helpers.small_measurements import HOOKS, likely_corpus, make_sae, sae_in_float64

PER_LATENT = {"dead_latents", "dense_latents"}


@pytest.fixture(scope="module", params=["gpt2", "llama", "pythia"])
def folder(request: pytest.FixtureRequest, model_folders: dict[str, Path]) -> Path:
    return model_folders[request.param]


@pytest.fixture(scope="module")
def corpora(model_folders: dict[str, Path]) -> dict[str, Corpus]:
    return {name: likely_corpus(folder) for name, folder in model_folders.items()}


@pytest.fixture(scope="module")
def corpus(corpora: dict[str, Corpus]) -> Corpus:
    return corpora["gpt2"]


@pytest.mark.parametrize("hook", HOOKS)
def test_measurement_equals_the_definition(
    folder: Path, corpora: dict[str, Corpus], hook: str
) -> None:
    if folder.name == "pythia" and hook.endswith("resid_mid"):
        pytest.skip("attention and MLP run in parallel: there is no residual between them")
    sae, corpus = make_sae(), corpora[folder.name]
    measurement = measure(load_model(folder), sae, corpus, hook, random_error=True)
    raw = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").double()
    expected = naive.metrics(
        raw, sae_in_float64(sae), list(corpus.tokens), set(corpus.excluded), hook,
        sha256=corpus.sha256,
    )  # fmt: skip
    assert set(expected) == set(METRICS) - PER_LATENT
    for name, value in expected.items():
        assert measurement[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize("skip", [False, True])
def test_transcoder_equals_the_definition(
    folder: Path, corpora: dict[str, Corpus], skip: bool
) -> None:
    corpus, reads, writes = corpora[folder.name], "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"
    generator = torch.Generator().manual_seed(5)
    W_skip = torch.randn(32, 32, generator=generator) * 0.1
    transcoder = replace(
        make_sae(),
        W_dec=torch.randn(96, 32, generator=generator) * 0.05,
        W_skip=W_skip if skip else None,
        transcoder=True,
    )
    measurement = measure(
        load_model(folder), transcoder, corpus, reads, hook_out=writes, random_error=True
    )
    raw = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").double()
    expected = naive.metrics(
        raw, sae_in_float64(transcoder), list(corpus.tokens), set(corpus.excluded), reads, writes,
        sha256=corpus.sha256,
    )  # fmt: skip
    for name, value in expected.items():
        assert measurement[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
    assert (measurement.provenance.hook, measurement.provenance.hook_out) == (reads, writes)


def test_columns_declare_whether_they_depend_on_the_sae(
    gpt2: LanguageModel, corpus: Corpus
) -> None:
    other = replace(make_sae(), scale_out=0.5, scale_in=2.0)
    mine, theirs = (
        measure(gpt2, sae, corpus, HOOKS[0], random_error=True) for sae in (make_sae(), other)
    )
    for name, sums in mine.sums.items():
        changed = not np.array_equal(sums, theirs.sums[name])
        assert changed == ALL_COLUMNS[name].depends_on_sae, name


def test_measurement_does_not_depend_on_the_batch_size(gpt2: LanguageModel, corpus: Corpus) -> None:
    one_batch = measure(gpt2, make_sae(), corpus, HOOKS[0])
    for size in (1, 2, 4, 5):
        split = measure(gpt2, make_sae(), corpus, HOOKS[0], batch_size=size)
        for column in COLUMNS:
            np.testing.assert_allclose(
                split.sums[column], one_batch.sums[column], rtol=1e-5, atol=1e-5, err_msg=column
            )
        np.testing.assert_array_equal(split.firings, one_batch.firings)


def test_measurement_does_not_depend_on_the_order_of_windows(
    gpt2: LanguageModel, corpus: Corpus
) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = Corpus(corpus.tokens[order], corpus.excluded)
    mine, theirs = (measure(gpt2, make_sae(), c, HOOKS[0]) for c in (shuffled, corpus))
    for column in COLUMNS:
        np.testing.assert_allclose(
            mine.sums[column], theirs.sums[column][order.numpy()], rtol=1e-5, atol=1e-5
        )


def test_excluded_tokens_change_the_masks_and_nothing_else(
    gpt2: LanguageModel, corpus: Corpus
) -> None:
    sums = measure(gpt2, make_sae(), corpus, HOOKS[0]).sums
    expected = ((corpus.tokens != 0) & (corpus.tokens != 7))[:, :-1].sum(dim=1)
    assert sums["n_tokens"].tolist() == expected.tolist()


@pytest.mark.parametrize("hook", HOOKS)
def test_control_saes_have_their_known_metrics(
    folder: Path, corpora: dict[str, Corpus], hook: str
) -> None:
    if folder.name == "pythia" and hook.endswith("resid_mid"):
        pytest.skip("attention and MLP run in parallel: there is no residual between them")
    model, corpus = load_model(folder), corpora[folder.name]
    identity = measure(model, identity_sae(model.width(hook)), corpus, hook)
    assert (identity["kl"], identity["reconstruction_score"]) == (0.0, 1.0)
    assert identity["explained_variance"] == 1.0
    zero = measure(model, zero_sae(model.width(hook)), corpus, hook)
    assert zero["reconstruction_score"] == 0.0
    assert zero["kl"] > 0
    mean = measure(model, mean_sae(activation_stats(model, corpus, hook).mean), corpus, hook)
    assert mean["ce_patched"] == pytest.approx(mean["ce_mean"], abs=1e-6)
    assert mean["explained_variance"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_model_dtypes_give_similar_numbers(
    model_folders: dict[str, Path], gpt2: LanguageModel, corpus: Corpus, dtype: str
) -> None:
    model = load_model(model_folders["gpt2"], dtype=dtype)
    measurement = measure(model, make_sae(), corpus, HOOKS[0])
    reference = measure(gpt2, make_sae(), corpus, HOOKS[0])
    tolerance = 0.1 if dtype == "bfloat16" else 1e-4
    assert measurement["ce_patched"] == pytest.approx(reference["ce_patched"], rel=tolerance)
    assert measurement["kl"] == pytest.approx(reference["kl"], rel=tolerance)
    assert measurement.provenance.model["dtype"] == dtype


def test_provenance_names_model_sae_corpus_and_versions(
    gpt2: LanguageModel, corpus: Corpus
) -> None:
    provenance = measure(gpt2, make_sae(), corpus, HOOKS[0]).provenance
    assert provenance.hook == HOOKS[0]
    assert provenance.corpus["sha256"] == corpus.sha256
    assert provenance.checkpoint["path"] == "test"
    assert set(provenance.formula_versions) == set(METRICS)
    assert provenance.versions["transformer-lens"]


class Deaf(LanguageModel):
    """Model that calls the edit, but continues with the unchanged activation."""

    def logits_with(self, tokens: torch.Tensor, hook: str, edit: Edit) -> torch.Tensor:
        def ignore(activation: torch.Tensor) -> torch.Tensor:
            edit(activation.clone())
            return activation

        return super().logits_with(tokens, hook, ignore)


def test_hook_point_without_effect_is_a_setup_error(gpt2: LanguageModel, corpus: Corpus) -> None:
    with pytest.raises(SetupError, match="leave every loss as it was"):
        measure(Deaf(gpt2.bridge, "deaf"), make_sae(), corpus, HOOKS[0])


def test_wrong_inputs_are_errors(gpt2: LanguageModel, corpus: Corpus) -> None:
    with pytest.raises(SetupError, match=r"did you mean blocks\.1\.hook_resid_pre"):
        measure(gpt2, make_sae(), corpus, "blocks.1.hook_resid_prae")
    with pytest.raises(LoadError, match=r"d_in 16, but blocks.1.hook_resid_pre is 32 wide"):
        measure(gpt2, make_sae(d_in=16), corpus, HOOKS[0])
    with pytest.raises(SetupError, match=r"token id 300 is outside .*, 0 to 299"):
        measure(gpt2, make_sae(), Corpus(torch.full((1, 4), 300)), HOOKS[0])
    with pytest.raises(SetupError, match=r"65 tokens, but .* has 64 positions"):
        measure(gpt2, make_sae(), Corpus(torch.full((1, 65), 5)), HOOKS[0])
    with pytest.raises(SetupError, match="an SAE needs one vector per token"):
        measure(gpt2, make_sae(), corpus, "blocks.1.attn.hook_pattern")
    with pytest.raises(SetupError, match="no token is scored"):
        measure(gpt2, make_sae(), Corpus(torch.full((1, 4), 5), frozenset({5})), HOOKS[0])
    with pytest.raises(SetupError, match=r"expect_clean_ce allows \[0.0, 1.0\]"):
        measure(gpt2, make_sae(), corpus, HOOKS[0], expect_clean_ce=(0.0, 1.0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_and_cpu_give_the_same_numbers(
    model_folders: dict[str, Path], gpt2: LanguageModel, corpus: Corpus
) -> None:
    on_gpu = load_model(model_folders["gpt2"], device="cuda")
    mine = measure(on_gpu, make_sae().to("cuda"), corpus, HOOKS[0])
    split = measure(on_gpu, make_sae(), corpus, HOOKS[0])  # the SAE stays on the CPU
    reference = measure(gpt2, make_sae(), corpus, HOOKS[0])
    for name in set(METRICS) - PER_LATENT:
        assert mine[name] == pytest.approx(reference[name], rel=1e-3, abs=1e-4), name
        assert split[name] == pytest.approx(reference[name], rel=1e-3, abs=1e-4), name
