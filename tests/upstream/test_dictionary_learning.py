"""What dictionary_learning itself saves, loaded here: the same latents and reconstruction."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions

if "nnsight" not in sys.modules:  # its package imports what only training needs
    nnsight = types.ModuleType("nnsight")
    nnsight.LanguageModel = object  # type: ignore[attr-defined]
    sys.modules["nnsight"] = nnsight
library = pytest.importorskip(
    "dictionary_learning.dictionary", reason="runs in the environment of `make test-saelens`"
)

D_IN, D_SAE, K = 24, 64, 5


def make(name: str) -> Any:
    """One of the seven classes with every weight drawn, and thresholds above 0."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    torch.manual_seed(0)
    sae: Any
    if name == "MatryoshkaBatchTopKSAE":
        sae = MatryoshkaBatchTopKSAE(D_IN, D_SAE, K, [16, 48])
    elif name in ("AutoEncoderTopK", "BatchTopKSAE"):
        sae = {"AutoEncoderTopK": AutoEncoderTopK, "BatchTopKSAE": BatchTopKSAE}[name](
            D_IN, D_SAE, K
        )
    else:
        sae = getattr(library, name)(D_IN, D_SAE)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.normal_()
        if "threshold" in sae.state_dict():
            sae.threshold.fill_(2.5)
    return sae


@pytest.mark.parametrize(
    "name",
    [
        "AutoEncoder",
        "AutoEncoderNew",
        "GatedAutoEncoder",
        "JumpReluAutoEncoder",
        "AutoEncoderTopK",
        "BatchTopKSAE",
        "MatryoshkaBatchTopKSAE",
    ],
)
def test_equals_dictionary_learning(tmp_path: Path, name: str) -> None:
    theirs = make(name)
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    trainer = {"dict_class": name, "lm_name": "EleutherAI/pythia-70m-deduped", "layer": 3}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    x = torch.randn(40, D_IN) * 2
    with torch.no_grad():
        latents = theirs.encode(x)
        reconstruction = theirs(x)
    mine = load(tmp_path)(x)
    assert torch.equal(mine.latents != 0, latents != 0)  # L0, exactly
    torch.testing.assert_close(mine.latents, latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.reconstruction, reconstruction, rtol=1e-5, atol=1e-4)
    assert declare(tmp_path) == Declaration(
        "EleutherAI/pythia-70m-deduped", "blocks.3.hook_resid_post"
    )


def test_topk_and_batchtopk_have_the_same_keys(tmp_path: Path) -> None:
    top, batch = make("AutoEncoderTopK"), make("BatchTopKSAE")
    assert top.state_dict().keys() == batch.state_dict().keys()
    torch.save(batch.state_dict(), tmp_path / "ae.pt")
    decided = load(tmp_path / "ae.pt", SaeOptions(architecture="jumprelu"))
    x = torch.randn(40, D_IN)
    with torch.no_grad():
        torch.testing.assert_close(decided(x).reconstruction, batch(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "AutoEncoder",
        "GatedAutoEncoder",
        "JumpReluAutoEncoder",
        "AutoEncoderTopK",
        "BatchTopKSAE",
        "MatryoshkaBatchTopKSAE",
    ],
)
def test_a_backup_equals_what_the_run_would_end_with(tmp_path: Path, name: str) -> None:
    """The library folds with ``scale_biases``; its latents are then larger by norm_factor."""
    theirs, norm_factor = make(name), 3.7
    backup = {
        "step": 5,
        "ae": {key: tensor.clone() for key, tensor in theirs.state_dict().items()},
        "optimizer": {},
        "config": {"dict_class": name},
        "norm_factor": norm_factor,
    }
    torch.save(backup, tmp_path / "ae.pt")
    x = torch.randn(40, D_IN) * 6
    theirs.scale_biases(norm_factor)
    with torch.no_grad():
        latents = theirs.encode(x)
        reconstruction = theirs(x)
    mine = load(tmp_path / "ae.pt")(x)
    assert torch.equal(mine.latents != 0, latents != 0)  # L0, exactly
    torch.testing.assert_close(mine.latents * norm_factor, latents, rtol=1e-5, atol=5e-5)
    torch.testing.assert_close(mine.reconstruction, reconstruction, rtol=1e-5, atol=5e-4)


def test_normalised_decoders_change_no_reconstruction(tmp_path: Path) -> None:
    """`AutoEncoder.from_pretrained` makes decoder rows of length 1; the file is read as it is."""
    theirs = make("AutoEncoder")
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    renormalised = library.AutoEncoder.from_pretrained(tmp_path / "ae.pt")
    x = torch.randn(40, D_IN)
    with torch.no_grad():
        reconstruction, latents = renormalised(x, output_features=True)
    mine = load(tmp_path / "ae.pt")(x)
    assert torch.equal(mine.latents != 0, latents != 0)
    torch.testing.assert_close(mine.reconstruction, reconstruction, rtol=1e-5, atol=1e-4)
