"""Examinations of SAEs that fit, that do not fit, and that cannot be examined."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sae_guard.core.diagnosis import diagnose
from sae_guard.corpus import Corpus
from sae_guard.engine import HookSite
from sae_guard.errors import LoadError
from sae_guard.examination import examine
from sae_guard.model import LanguageModel
from sae_guard.sae import SAE, SaeSource
from sae_guard.sae.activations import ReLU
from sae_guard.sae.controls import identity_sae

HOOK = "blocks.1.hook_resid_post"
SITE = HookSite(HOOK, HOOK)


def test_the_identity_is_sound(gpt2: LanguageModel, corpus: Corpus) -> None:
    examination = examine(gpt2, identity_sae(32), corpus, SITE)
    assert examination is not None
    assert examination.sound
    assert examination.loaded.explained_variance == pytest.approx(1)
    assert examination.n_tokens == 8 * 14
    assert diagnose(None, examination).suspicions == ()


def test_an_sae_that_writes_nothing_is_a_misfit(gpt2: LanguageModel, corpus: Corpus) -> None:
    sae = identity_sae(32)
    examination = examine(gpt2, replace(sae, W_dec=torch.zeros(64, 32)), corpus, SITE)
    assert examination is not None
    assert math.isnan(examination.loaded.factor)
    assert diagnose(None, examination).names == ("misfit",)


def test_too_few_tokens_give_no_examination(gpt2: LanguageModel) -> None:
    small_corpus = Corpus(torch.randint(1, 300, (2, 16)))
    assert examine(gpt2, identity_sae(32), small_corpus, SITE, thorough=True) is None


def test_an_sae_of_another_width_is_refused(gpt2: LanguageModel, corpus: Corpus) -> None:
    with pytest.raises(LoadError, match="d_in 31"):
        examine(gpt2, identity_sae(31), corpus, SITE)


def test_saes_that_were_not_trained_to_reconstruct_are_sound(
    gpt2: LanguageModel, corpus: Corpus
) -> None:
    sae = replace(identity_sae(32), W_dec=torch.randn(64, 32), source=SaeSource("x", "e2e_sae"))
    examination = examine(gpt2, sae, corpus, SITE)
    assert examination is not None
    assert examination.sound


@pytest.mark.parametrize(
    "hook", ["blocks.1.hook_mlp_out", "blocks.1.attn.hook_z", "ln_final.hook_out"]
)
def test_a_thorough_examination_makes_all_trials(
    gpt2: LanguageModel, corpus: Corpus, hook: str
) -> None:
    site = HookSite(hook, hook)
    examination = examine(gpt2, identity_sae(32), corpus, site, thorough=True)
    assert examination is not None
    names = {trial.name for trial in examination.trials}
    assert {"normalize", "scale", "topk-as-relu", "threshold-dropped"} <= names
    assert ("other-layer" in names) == hook.startswith("blocks")
    for trial in examination.trials:
        has_spec_key = trial.remedy.startswith(("`sae: ", "`hook: "))
        assert bool(trial.options) == has_spec_key, trial
        assert all(f"{option}: {value}" in trial.remedy for option, value in trial.options), trial
    assert examination.loaded.kl == pytest.approx(0, abs=1e-6)
    assert diagnose(None, examination).suspicions == ()


def test_a_transcoder_is_examined(gpt2: LanguageModel, corpus: Corpus) -> None:
    generator = torch.Generator().manual_seed(0)
    sae = SAE(
        torch.randn(32, 48, generator=generator), torch.randn(48, 32, generator=generator),
        torch.zeros(48), torch.ones(32), ReLU(), SaeSource("x", "x"), transcoder=True,
    )  # fmt: skip
    site = HookSite.from_sae(sae, "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    examination = examine(gpt2, sae, corpus, site, thorough=True)
    assert examination is not None
    assert examination.pairing is None
    changes = [trial.change for trial in examination.trials if trial.name == "other-layer"]
    assert "hook: blocks.0.mlp.hook_in, hook_out: blocks.0.hook_mlp_out" in changes
    settings = [option for trial in examination.trials for option in trial.options]
    assert ("hook", "blocks.0.mlp.hook_in:blocks.0.hook_mlp_out") in settings
    assert diagnose(None, examination).names == ("misfit",)
