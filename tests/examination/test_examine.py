"""What a batch shows: numbers by their slow definitions, tokens, places, pairs, what is tried."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae_guard.core.diagnosis import diagnose
from sae_guard.corpus import Corpus
from sae_guard.engine import Place
from sae_guard.errors import LoadError, SetupError
from sae_guard.examination import examine
from sae_guard.examination.batch import Batch
from sae_guard.examination.fitting import along_ones, fit_of, most_firing, near_thresholds
from sae_guard.examination.selection import solved
from sae_guard.examination.trials import Reach, nearest_rows, places, rematched
from sae_guard.model import LanguageModel
from sae_guard.sae import SAE, SaeSource
from sae_guard.sae.activations import JumpReLU, ReLU
from sae_guard.sae.controls import identity_sae
from tests.helpers.checkpoint_files import example_sae
from tests.helpers.tiny_models import TEXT

HOOK = "blocks.1.hook_resid_post"
AT = Place(HOOK, HOOK)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def corpus(gpt2: LanguageModel) -> Corpus:
    return Corpus.from_texts(
        [TEXT * 8, TEXT[20:] * 8], gpt2.tokenizer, context=16, sequences=8, prepend_bos=True
    )


# numbers


def test_a_fit_is_what_its_definitions_give() -> None:
    y, y_hat = drawn(50, 6) + 3, drawn(50, 6, seed=1)
    error, mean, mean_hat = y - y_hat, y.mean(dim=0), y_hat.mean(dim=0)
    squared = deviation = 0.0
    for row in range(50):
        squared += float(error[row] @ error[row])
        deviation += float((y[row] - mean) @ (y[row] - mean))
    found = fit_of(y, y_hat, 7.0)
    assert found.explained_variance == pytest.approx(1 - squared / deviation)
    constant = error.mean(dim=0).expand(50, 6)
    assert found.constant == pytest.approx(float(constant.square().sum()) / squared)
    assert found.l0 == 7.0
    columns = (y_hat - mean_hat).flatten().unsqueeze(1)
    solution = torch.linalg.lstsq(columns, (y - mean).flatten().unsqueeze(1)).solution
    assert found.factor == pytest.approx(float(solution))


@given(
    scale=st.floats(0.01, 100), factor=st.floats(0.1, 10), shift=st.floats(-5, 5),
    seed=st.integers(0, 50),
)  # fmt: skip
def test_what_changes_a_fit(scale: float, factor: float, shift: float, seed: int) -> None:
    y, y_hat = drawn(20, 4, seed=seed), drawn(20, 4, seed=seed + 1)
    first = fit_of(y, y_hat, 1.0)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    for same in (fit_of(y * scale, y_hat * scale, 1.0), fit_of(y[order], y_hat[order], 1.0)):
        assert same.explained_variance == pytest.approx(first.explained_variance)
        assert same.factor == pytest.approx(first.factor)
        assert same.constant == pytest.approx(first.constant)
    assert fit_of(y, y_hat * factor, 1.0).factor == pytest.approx(first.factor / factor)
    assert fit_of(y, y_hat + shift, 1.0).factor == pytest.approx(first.factor)
    assert fit_of(y, y / factor + shift, 1.0).factor == pytest.approx(factor)
    assert fit_of(y, y + 1, 1.0).constant == pytest.approx(1)


def test_fits_at_their_limits() -> None:
    y = drawn(10, 3)
    perfect = fit_of(y, y, 1.0)
    assert (perfect.explained_variance, perfect.factor, perfect.constant) == (1, 1, 0)
    constant = fit_of(y, torch.ones(10, 3), 0.0)
    assert math.isnan(constant.factor)
    assert constant.explained_variance < 0


def test_the_share_along_ones() -> None:
    values = drawn(30, 8)
    ones = torch.ones(8, dtype=torch.float64) / 8**0.5
    expected = sum(float(row @ ones) ** 2 for row in values) / float(values.square().sum())
    assert along_ones(values) == pytest.approx(expected)
    assert along_ones(values - values.mean(dim=1, keepdim=True)) == pytest.approx(0, abs=1e-30)
    assert along_ones(torch.ones(3, 8)) == pytest.approx(1)
    assert along_ones(torch.zeros(3, 8)) == 0


def test_latents_near_thresholds_that_were_rounded() -> None:
    sae = example_sae("jumprelu")
    x = drawn(4000, 6, seed=3).float()
    assert near_thresholds(sae, x) == 0  # nothing was rounded
    threshold = (drawn(10, seed=4).abs() / 4).bfloat16().float()
    rounded = replace(sae, activation=JumpReLU(threshold))
    q = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    near = ((q - threshold).abs() <= threshold / 256).sum()
    active = ((q > threshold) & (q > 0)).sum()
    assert near > 0
    assert near_thresholds(rounded, x) == pytest.approx(float(near / active))
    everything = replace(rounded, W_enc=sae.W_enc.bfloat16().float())
    assert near_thresholds(everything, x) == 0
    assert near_thresholds(example_sae("topk"), x) == 0


# pairs


def test_nearest_rows_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    sae = example_sae()
    monkeypatch.setattr("sae_guard.examination.trials._ELEMENTS", 9)  # three rows at a time
    latents = torch.tensor([4, 1, 7])
    pairing, rows = nearest_rows(sae, latents)
    cosines = torch.nn.functional.cosine_similarity(
        sae.W_enc.T[latents].unsqueeze(1), sae.W_dec.unsqueeze(0), dim=-1
    )
    assert rows.tolist() == cosines.argmax(dim=1).tolist()
    own = cosines[range(3), latents]
    assert pairing.own == pytest.approx(float(own.median()), abs=1e-6)
    assert pairing.best == pytest.approx(float(cosines.amax(dim=1).median()), abs=1e-6)
    assert pairing.own_share == pytest.approx(float((rows == latents).float().mean()))


def test_a_permutation_is_undone() -> None:
    sae = identity_sae(8)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    permuted = replace(sae, W_dec=sae.W_dec[order])
    latents = torch.arange(16)
    pairing, rows = nearest_rows(permuted, latents)
    assert pairing.own_share < 0.5
    assert torch.equal(rematched(permuted, latents, rows).W_dec, sae.W_dec)
    assert nearest_rows(sae, latents)[0].own_share == 1


def test_the_latents_that_fire_most() -> None:
    assert most_firing(torch.tensor([3, 0, 5, 1]), 2).tolist() == [2, 0]
    assert most_firing(torch.tensor([3, 0, 0, 1]), 4).tolist() == [0, 3]


# how many latents


@pytest.mark.parametrize("truth", [0.03, 0.5, 1.0, 1.3, 6.0, 40.0])
def test_the_number_of_latents_that_calibrates_is_found(truth: float) -> None:
    asked = []

    def factor(amount: float) -> float:
        asked.append(amount)
        return math.pow(truth / amount, 0.2)

    found = solved(factor, highest=64.0)
    assert found is not None
    assert 1 / 1.15 < found / truth < 1.15
    assert len(asked) < 16


def test_where_no_number_of_latents_calibrates_there_is_none() -> None:
    assert solved(lambda amount: 0.5, highest=64.0) is None
    assert solved(lambda amount: math.nan, highest=64.0) is None
    assert solved(lambda amount: 2.0, highest=1.0) is None


# places


NAMES = {
    f"blocks.{block}.{kind}"
    for block in range(4)
    for kind in ("hook_resid_pre", "hook_resid_post", "hook_mlp_out", "attn.hook_z", "mlp.hook_in")
}  # without hook_resid_mid, as in parallel blocks


@pytest.mark.parametrize(
    ("hook", "reach", "expected"),
    [
        ("blocks.1.hook_mlp_out", "beside", ["0.hook_mlp_out", "2.hook_mlp_out"]),
        ("blocks.0.hook_mlp_out", "near", ["1.hook_mlp_out"]),
        ("blocks.3.attn.hook_z", "near", ["2.attn.hook_z", "3.hook_mlp_out"]),
        (
            "blocks.3.hook_resid_post", "near",
            ["2.hook_resid_post", "3.hook_resid_pre", "2.hook_resid_pre", "3.hook_mlp_out"],
        ),
        ("ln_final.hook_out", "far", []),
    ],
)  # fmt: skip
def test_places_nearby(hook: str, reach: Reach, expected: list[str]) -> None:
    found = list(places(Place(hook, hook), NAMES, reach))
    assert [place.read.removeprefix("blocks.") for place in found] == expected
    assert all(place.read == place.replaced for place in found)


def test_places_far_away_are_all_kinds_three_blocks_each_way() -> None:
    found = {place.read for place in places(Place(*["blocks.0.hook_mlp_out"] * 2), NAMES, "far")}
    assert found == {n for n in NAMES if "hook_z" not in n and "hook_in" not in n} - {
        "blocks.0.hook_mlp_out"
    }


def test_hook_points_of_a_transcoder_move_together() -> None:
    at = Place("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    assert list(places(at, NAMES, "near")) == [
        Place(f"blocks.{block}.mlp.hook_in", f"blocks.{block}.hook_mlp_out") for block in (0, 2)
    ]


# the batch


def test_groups_of_tokens(gpt2: LanguageModel) -> None:
    tokens = torch.randint(1, 300, (3, 40), generator=torch.Generator().manual_seed(0))
    tokens[0, 0] = tokens[0, 7] = tokens[1, 39] = 0  # the last position is not scored
    batch = Batch.of(gpt2, Corpus(tokens), AT)
    groups = {name: mask.nonzero().tolist() for name, mask in batch.groups.items()}
    assert groups == {"bos": [[0, 0]], "first": [[1, 0], [2, 0]], "special": [[0, 7]], "large": []}
    assert int(batch.ordinary.sum()) == 3 * 39 - 4
    excluded = Batch.of(gpt2, Corpus(tokens, frozenset([0])), AT)
    assert not bool(excluded.groups["bos"].any() | excluded.groups["special"].any())


def test_tokens_of_large_norm_are_a_group(gpt2: LanguageModel) -> None:
    tokens = torch.randint(1, 300, (3, 40), generator=torch.Generator().manual_seed(0))
    batch = Batch.of(gpt2, Corpus(tokens), AT)
    with torch.inference_mode():
        batch.whole(HOOK)[1, 5] *= 1000
    assert batch.groups["large"].nonzero().tolist() == [[1, 5]]
    assert not bool(batch.ordinary[1, 5])
    assert len(batch.at(HOOK)) == int(batch.ordinary.sum())


def test_hook_points_that_do_not_fire_are_passed_over(gpt2: LanguageModel, corpus: Corpus) -> None:
    batch = Batch.of(gpt2, corpus, AT)
    never = next(name for name in gpt2.bridge.hook_dict if "hook_q_input" in name)
    assert batch.look_where_possible([HOOK, never]) == [HOOK]
    with pytest.raises(SetupError):
        batch.look([never])
    assert Batch.of(gpt2, corpus, AT).look_where_possible([never]) == []


# examinations


def test_the_identity_fits_everywhere(gpt2: LanguageModel, corpus: Corpus) -> None:
    examination = examine(gpt2, identity_sae(32), corpus, AT)
    assert examination is not None
    assert examination.sound
    assert examination.loaded.explained_variance == pytest.approx(1)
    assert examination.n_tokens == 8 * 14
    assert diagnose(None, examination).suspicions == ()


def test_an_sae_that_writes_nothing_is_no_fit(gpt2: LanguageModel, corpus: Corpus) -> None:
    sae = identity_sae(32)
    examination = examine(gpt2, replace(sae, W_dec=torch.zeros(64, 32)), corpus, AT)
    assert examination is not None
    assert math.isnan(examination.loaded.factor)
    assert diagnose(None, examination).names == ("misfit",)


def test_too_few_tokens_say_nothing(gpt2: LanguageModel) -> None:
    few = Corpus(torch.randint(1, 300, (2, 16)))
    assert examine(gpt2, identity_sae(32), few, AT, thorough=True) is None


def test_an_sae_of_another_width_is_refused(gpt2: LanguageModel, corpus: Corpus) -> None:
    with pytest.raises(LoadError, match="d_in 31"):
        examine(gpt2, identity_sae(31), corpus, AT)


def test_saes_that_were_not_trained_to_reconstruct_are_sound(
    gpt2: LanguageModel, corpus: Corpus
) -> None:
    sae = replace(identity_sae(32), W_dec=torch.randn(64, 32), source=SaeSource("x", "e2e_sae"))
    examination = examine(gpt2, sae, corpus, AT)
    assert examination is not None
    assert examination.sound


@pytest.mark.parametrize(
    "hook", ["blocks.1.hook_mlp_out", "blocks.1.attn.hook_z", "ln_final.hook_out"]
)
def test_all_is_tried_at_other_hook_points(gpt2: LanguageModel, corpus: Corpus, hook: str) -> None:
    at = Place(hook, hook)
    examination = examine(gpt2, identity_sae(32), corpus, at, thorough=True)
    assert examination is not None
    tried = {trial.name for trial in examination.trials}
    assert {"normalize", "scale", "topk-as-relu", "threshold-dropped"} <= tried
    assert ("other-layer" in tried) == hook.startswith("blocks")
    assert examination.loaded.kl == pytest.approx(0, abs=1e-6)
    assert diagnose(None, examination).suspicions == ()


def test_a_transcoder_is_examined(gpt2: LanguageModel, corpus: Corpus) -> None:
    generator = torch.Generator().manual_seed(0)
    sae = SAE(
        torch.randn(32, 48, generator=generator), torch.randn(48, 32, generator=generator),
        torch.zeros(48), torch.ones(32), ReLU(), SaeSource("x", "x"), transcoder=True,
    )  # fmt: skip
    at = Place.of(sae, "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    examination = examine(gpt2, sae, corpus, at, thorough=True)
    assert examination is not None
    assert examination.pairing is None
    places = [t.change for t in examination.trials if t.name == "other-layer"]
    assert "hook: blocks.0.mlp.hook_in, hook_out: blocks.0.hook_mlp_out" in places
    assert diagnose(None, examination).names == ("misfit",)
