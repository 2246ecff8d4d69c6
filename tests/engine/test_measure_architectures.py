"""In ten architectures the fast path equals the plain path, and that equals the definition."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from sae_guard.cache import Cache
from sae_guard.core.measurement import Measurement
from sae_guard.corpus import Corpus
from sae_guard.engine import measure
from sae_guard.errors import SetupError
from sae_guard.model import LanguageModel, Processing, Unembedding, load_model
from sae_guard.sae import SAE
from tests.helpers import naive
from tests.helpers.small_measurements import assert_equal, make_sae, sae_in_float64
from tests.helpers.ten_models import LAYERS, TEN, Folders
from tests.helpers.tiny_models import VOCABULARY

SAE_HOOKS = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_mlp_out",
    "hook_attn_out",
    "attn.hook_z",
)
TRANSCODER = "mlp.hook_in -> hook_mlp_out"
PLACES = (*SAE_HOOKS, TRANSCODER)
PARALLEL = ("gpt_neox", "phi")
BOS, EXCLUDED, FIRST = 0, 7, 8
ROWS, LENGTH, LAST = 6, 24, LAYERS - 1
# At the first block the suffix is the whole model, after the last no block at all.
CASES: list[tuple[Processing, int, str]] = [
    *(("raw", 1, place) for place in PLACES),
    ("raw", 0, "hook_resid_pre"),
    *(("raw", LAST, place) for place in ("hook_resid_mid", "hook_resid_post", "attn.hook_z")),
    *(("hooked", 1, place) for place in ("hook_resid_mid", "attn.hook_z")),
]
# A residual before and after the blocks, one in between, a transcoder, and folded weights.
TELLING = [
    ("raw", 0, "hook_resid_pre"),
    ("raw", 1, "hook_resid_mid"),
    ("raw", 1, TRANSCODER),
    ("raw", LAST, "hook_resid_post"),
    ("hooked", 1, "attn.hook_z"),
]
Loaded = Callable[[Processing], LanguageModel]
BEFORE_4 = importlib.metadata.version("transformer-lens") < "4"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are faster on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def ten_folders(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast
) -> Folders:
    """The folder of an architecture's tiny model, written when it is first asked for."""

    @cache
    def folder(architecture: str) -> Path:
        path = tmp_path_factory.mktemp("ten") / architecture
        TEN[architecture].save(path, tokenizer)
        return path

    return folder


@pytest.fixture(scope="module", params=TEN)
def folder(request: pytest.FixtureRequest, ten_folders: Folders) -> Path:
    return ten_folders(request.param)


@pytest.fixture(scope="module")
def raw(folder: Path) -> Any:
    """The Hugging Face model in float64."""
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").double()


@pytest.fixture(scope="module")
def corpus(raw: Any) -> Corpus:
    """Tokens that the model finds likely, so that ablation hurts it as it hurts real ones.

    Rows differ in where they have tokens that are neither patched nor scored: at the start (BOS),
    inside, both, nowhere, and twice within reach of a sliding window.
    """
    tokens = torch.randint(
        8, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(2)
    )
    tokens[:3, 0] = BOS
    for at in range(2, LENGTH):
        with torch.no_grad():
            logits = raw(tokens[:, :at]).logits[:, -1]
        logits[:, :FIRST] = -torch.inf
        tokens[:, at] = logits.argmax(dim=-1)
    tokens[1, 5] = tokens[3, LENGTH - 1] = tokens[4, 9] = tokens[4, 12] = EXCLUDED
    return Corpus(tokens, frozenset({BOS, EXCLUDED}))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Loaded:
    """Loads the model, in each processing once."""

    @cache
    def load(processing: Processing) -> LanguageModel:
        return load_model(folder, processing=processing)

    return load


def at_layer(layer: int, place: str) -> tuple[str, str | None]:
    """The hook point that is read and, of a transcoder, the one that is replaced."""
    read, _, replaced = place.partition(" -> ")
    return f"blocks.{layer}.{read}", f"blocks.{layer}.{replaced}" if replaced else None


def sae_for(model: LanguageModel, place: str) -> SAE:
    sae = make_sae(model.width(at_layer(0, place)[0]))
    return replace(sae, transcoder=place == TRANSCODER)


def measure_at(
    model: LanguageModel,
    corpus: Corpus,
    layer: int,
    place: str,
    *,
    sae: SAE | None = None,
    batch_size: int | None = None,
    reference: bool = False,
    cache: Cache | None = None,
) -> Measurement:
    hook, hook_out = at_layer(layer, place)
    return measure(
        model, sae or sae_for(model, place), corpus, hook, hook_out=hook_out,
        batch_size=batch_size, reference=reference, cache=cache,
    )  # fmt: skip


def skip_unsupported(model: LanguageModel, place: str) -> None:
    architecture = Path(model.name).name
    if architecture in PARALLEL and place == "hook_resid_mid":
        pytest.skip("attention and MLP run in parallel: there is no residual between them")
    if architecture == "opt" and place == TRANSCODER and BEFORE_4:
        pytest.skip("OPT's MLP is no module: in TransformerLens 3.9 its hook_in does not fire")


def took_the_fast_path(measurement: Measurement) -> bool:
    return measurement.provenance.paths["forward"] != "whole model"


@pytest.mark.parametrize(
    ("processing", "layer", "place"),
    [pytest.param(*case, marks=() if case in TELLING else pytest.mark.slow) for case in CASES],
)
def test_fast_path_equals_the_plain_path(
    loaded: Loaded, corpus: Corpus, processing: Processing, layer: int, place: str, tmp_path: Path
) -> None:
    """Cold, filling the cache, and warm: with what another SAE's measurement left there."""
    model = loaded(processing)
    skip_unsupported(model, place)
    cold = measure_at(model, corpus, layer, place)
    cache, other = Cache(tmp_path), replace(sae_for(model, place), scale_out=2.0)
    filling = measure_at(model, corpus, layer, place, sae=other, cache=cache)
    warm = measure_at(model, corpus, layer, place, cache=cache)
    plain = measure_at(model, corpus, layer, place, reference=True)
    assert all(map(took_the_fast_path, (cold, filling, warm)))
    assert [run.provenance.paths["clean run"] for run in (cold, filling, warm)] == [
        "run", "run, and remembered", "remembered",
    ]  # fmt: skip
    assert_equal(cold, plain)
    assert_equal(warm, plain)


@pytest.mark.parametrize("place", PLACES[1:])
def test_plain_path_equals_the_definition(
    loaded: Loaded, raw: Any, corpus: Corpus, place: str
) -> None:
    model = loaded("raw")
    skip_unsupported(model, place)
    few = Corpus(corpus.tokens[[1, 4], :14], corpus.excluded)
    plain = measure_at(model, few, 1, place, reference=True)
    expected = naive.metrics(
        raw, sae_in_float64(sae_for(model, place)), list(few.tokens), set(few.excluded),
        *at_layer(1, place),
    )  # fmt: skip
    for name in set(expected) - {"reconstruction_score", "reconstruction_score[mean]"}:
        # Both scores are made of the four cross-entropies; a random model may find ablation good.
        assert plain[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize("place", ["hook_resid_mid", "hook_mlp_out"])
def test_hooked_processing_changes_no_loss(loaded: Loaded, corpus: Corpus, place: str) -> None:
    """It folds norms and centres what they centre anyway: ablations hurt as they hurt before."""
    raw, hooked = loaded("raw"), loaded("hooked")
    skip_unsupported(raw, place)
    measurements = [measure_at(model, corpus, 1, place, reference=True) for model in (raw, hooked)]
    for column in ("ce_clean", "ce_zero", "ce_mean"):
        np.testing.assert_allclose(
            measurements[0].sums[column], measurements[1].sums[column], atol=2e-3
        )


@pytest.mark.parametrize("architecture", PARALLEL)
def test_parallel_blocks_have_no_residual_between_attention_and_mlp(
    ten_folders: Folders, architecture: str
) -> None:
    with pytest.raises(SetupError, match=r"no hook point 'blocks\.1\.hook_resid_mid'"):
        load_model(ten_folders(architecture)).check_hook("blocks.1.hook_resid_mid")


@pytest.mark.skipif(not BEFORE_4, reason="it fires in TransformerLens 4")
def test_hook_point_that_never_fires_is_a_setup_error(ten_folders: Folders) -> None:
    with pytest.raises(SetupError, match=r"blocks\.1\.mlp\.hook_in' of .*opt fired 0 times"):
        load_model(ten_folders("opt")).width("blocks.1.mlp.hook_in")


@pytest.mark.parametrize("bos", [False, True])
def test_fast_path_equals_the_plain_path_with_and_without_bos(
    loaded: Loaded, corpus: Corpus, bos: bool
) -> None:
    """Nothing is excluded but BOS, so that ablated windows are all the same from the hook on."""
    tokens = corpus.tokens.clamp(min=FIRST)
    if bos:
        tokens[:, 0] = BOS
    windows, model = Corpus(tokens, frozenset({BOS})), loaded("raw")
    fast = measure_at(model, windows, 1, "hook_resid_post", batch_size=4)
    assert took_the_fast_path(fast)
    assert_equal(fast, measure_at(model, windows, 1, "hook_resid_post", reference=True))


@pytest.mark.parametrize("batch_size", [1, None])
def test_wrong_logits_are_detected_if_the_first_windows_have_no_scored_token(
    ten_folders: Folders, batch_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits are scaled in a way that the fast path does not know."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(FIRST, VOCABULARY, (4, 16), generator=generator)
    tokens[:2] = EXCLUDED
    windows = Corpus(tokens, frozenset({EXCLUDED}))
    model, right = load_model(ten_folders("gpt2")), Unembedding.logits
    monkeypatch.setattr(Unembedding, "logits", lambda self, final: 2 * right(self, final))
    measurement = measure_at(model, windows, 1, "hook_mlp_out", batch_size=batch_size)
    assert not took_the_fast_path(measurement)
    assert_equal(measurement, measure_at(model, windows, 1, "hook_mlp_out", reference=True))


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3"])
@pytest.mark.parametrize(
    ("hook", "hook_out"),
    [
        ("blocks.1.hook_in", None),
        ("blocks.1.hook_out", None),
        ("blocks.1.mlp.hook_in", None),
        ("blocks.0.mlp.hook_in", "blocks.2.hook_mlp_out"),
        ("blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"),
        ("blocks.1.hook_resid_mid", "blocks.1.hook_resid_mid"),
    ],
)
def test_fast_path_equals_the_plain_path_at_unusual_hook_points(
    ten_folders: Folders, architecture: str, hook: str, hook_out: str | None
) -> None:
    """Other names of residuals, transcoders across blocks, and one that writes where it reads."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(FIRST, VOCABULARY, (4, 16), generator=generator)
    tokens[2:, 0] = BOS
    windows, model = Corpus(tokens, frozenset({BOS})), load_model(ten_folders(architecture))
    sae = replace(make_sae(model.width(hook)), transcoder=hook_out is not None)
    fast, plain = (
        measure(model, sae, windows, hook, hook_out=hook_out, reference=reference)
        for reference in (False, True)
    )
    assert_equal(fast, plain)
