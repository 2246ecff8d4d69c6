"""The demo's numbers equal a slow computation from the raw model and the raw files."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sae_guard.checkpoints.load import load
from sae_guard.corpus import build_corpus
from sae_guard.demo import CONTEXT_SIZE, HELD_OUT, HOOK_NAME, MODEL, SAES
from sae_guard.engine import measure
from sae_guard.model import load_model
from sae_guard.specs import load_specs
from tests.helpers import naive

SPEC = Path(__file__).parents[2] / "thresholds" / "demo.yaml"


def raw_sae(folder: Path) -> naive.SaeFunction:
    """Return the SAE as a float64 function, straight from its files."""
    config = json.loads((folder / "cfg.json").read_text())
    w = {n: t.double() for n, t in load_file(folder / "sae_weights.safetensors").items()}

    def run(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        if config["architecture"] == "topk":
            smallest = pre.sort(dim=-1, descending=True).values[..., config["k"] - 1, None]
            latents = torch.where((pre >= smallest) & (pre > 0), pre, 0.0)
        else:
            latents = torch.where((pre > w["threshold"]) & (pre > 0), pre, 0.0)
        return latents @ w["W_dec"] + w["b_dec"], latents

    return run


@pytest.mark.parametrize("release", ["v1", "v2", "v3"])
def test_equals_a_naive_float64_computation_with_the_raw_model(release: str) -> None:
    (spec,) = load_specs(SPEC)
    model = load_model(MODEL)
    data = spec.data.model_copy(update={"sequences": 48})
    corpus = build_corpus(data, model.tokenizer, SPEC.parent)
    measurement = measure(model, load(SAES / release), corpus, spec.hook)
    raw = AutoModelForCausalLM.from_pretrained(MODEL, attn_implementation="eager").double()
    expected = naive.metrics(
        raw, raw_sae(SAES / release), list(corpus.tokens), set(corpus.excluded), spec.hook
    )
    # A latent whose pre-activation is at its threshold, but for float32 rounding, may fire in only
    # one of the two computations.
    one_latent = {"l0": 1.01 / measurement.n_tokens}
    for name, value in expected.items():
        tolerance = one_latent.get(name, 1e-5)
        assert measurement[name] == pytest.approx(value, rel=1e-5, abs=tolerance), name


def test_the_demo_spec_names_the_demo_files_and_hook_point() -> None:
    (spec,) = load_specs(SPEC)
    assert spec.model.path_or_name(SPEC.parent) == MODEL
    assert spec.hook == HOOK_NAME
    assert spec.data.jsonl is not None
    assert [(SPEC.parent / path).resolve() for path in spec.data.jsonl] == [HELD_OUT]
    assert spec.data.context == CONTEXT_SIZE
    assert spec.checkpoint is not None
    assert (SPEC.parent / spec.checkpoint).resolve() == SAES / "v2"


def test_the_assets_fit_into_a_small_wheel() -> None:
    """Wheels are zip files: the compressed size counts."""
    files = [path for path in MODEL.parent.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    compressed = sum(len(zlib.compress(path.read_bytes())) for path in files)
    assert compressed <= 2_700_000
