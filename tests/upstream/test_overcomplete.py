"""What overcomplete itself saves, loaded here: the same latents and reconstruction."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

if importlib.util.find_spec("overcomplete") is None:
    pytest.skip("runs in the environment of `make test-saelens`", allow_module_level=True)
# The package imports what only its vision models and its plots need; an SAE needs none of it.
package = types.ModuleType("overcomplete")
installed = importlib.util.find_spec("overcomplete")
package.__path__ = list((installed and installed.submodule_search_locations) or [])
optimization = types.ModuleType("overcomplete.optimization")
optimization.batched_matrix_nnls = None  # type: ignore[attr-defined]
sys.modules.setdefault("overcomplete", package)
sys.modules.setdefault("overcomplete.optimization", optimization)
from overcomplete import sae as library  # noqa: E402

D_IN, D_SAE, K = 24, 64, 5
CLASSES = ["SAE", "TopKSAE", "JumpSAE", "BatchTopKSAE", "RATopKSAE", "RAJumpSAE"]


def make(name: str, **arguments: Any) -> Any:
    """An SAE after a few steps of training, so that the last step leaves the norms off."""
    torch.manual_seed(0)
    if name.endswith("TopKSAE"):
        arguments["top_k"] = 8 * K if name == "BatchTopKSAE" else K
    if name.startswith("RA"):
        arguments |= {"points": torch.randn(40, D_IN), "delta": 0.1}
    sae = getattr(library, name)(D_IN, D_SAE, **arguments)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3)
    for _ in range(5):
        x = torch.randn(8, D_IN) * 2
        loss = (sae(x)[2] - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return sae


def compare(path: Path, theirs: Any, options: SaeOptions | None = None) -> None:
    x = torch.randn(40, D_IN) * 2
    with torch.no_grad():
        _, latents, reconstruction = theirs.eval()(x)
    mine = load(path, options)(x.view(8, 5, D_IN))
    latents, reconstruction = latents.view(8, 5, D_SAE), reconstruction.view(8, 5, D_IN)
    assert torch.equal(mine.latents != 0, latents != 0)  # L0, exactly
    assert (latents != 0).any()
    torch.testing.assert_close(mine.latents, latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.reconstruction, reconstruction, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("name", CLASSES)
def test_module_equals_overcomplete(tmp_path: Path, name: str, evaluating: bool) -> None:
    theirs = make(name)
    if evaluating:
        theirs.eval()
    torch.save(theirs, tmp_path / "sae.pt")
    compare(tmp_path / "sae.pt", theirs)


@pytest.mark.parametrize("normalization", ["l2", "max_l2", "l1", "max_l1", "identity"])
def test_trap_the_normalization_of_the_dictionary_is_no_tensor(
    tmp_path: Path, normalization: str
) -> None:
    parameters = {"normalization": normalization, "use_multiplier": True}
    theirs = make("TopKSAE", dictionary_params=parameters)
    with torch.no_grad():
        theirs.dictionary.multiplier.fill_(0.4)
        theirs.dictionary._weights.mul_(3)
    torch.save(theirs, tmp_path / "sae.pt")
    torch.save(theirs.state_dict(), tmp_path / "state.pt")
    with pytest.raises(LoadError, match="allowed in a state dict: near 1"):
        load(tmp_path / "state.pt", SaeOptions(architecture="topk", k=K))
    compare(tmp_path / "sae.pt", theirs)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("encoder", ["tied", "untied"])
@pytest.mark.parametrize("name", ["TopKSAE", "RATopKSAE"])
def test_encoders_made_from_the_dictionary(
    tmp_path: Path, name: str, encoder: str, bias: bool
) -> None:
    theirs = getattr(make(name), encoder)(bias=bias)
    with torch.no_grad():
        for parameter in theirs.encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.save(theirs, tmp_path / "sae.pt")
    compare(tmp_path / "sae.pt", theirs)
    torch.save(theirs.state_dict(), tmp_path / "state.pt")
    compare(tmp_path / "state.pt", theirs, SaeOptions(architecture="topk", k=K))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SAE", SaeOptions(architecture="standard")),
        ("TopKSAE", SaeOptions(architecture="topk", k=K)),
        ("JumpSAE", None),
    ],
)
def test_state_dict_after_a_step_of_training(
    tmp_path: Path, name: str, options: SaeOptions | None
) -> None:
    theirs = make(name)
    torch.save(theirs.state_dict(), tmp_path / "sae.pt")
    compare(tmp_path / "sae.pt", theirs, options)


@pytest.mark.parametrize("name", ["RATopKSAE", "RAJumpSAE"])
def test_trap_archetypal_state_dict_does_not_hold_its_delta(tmp_path: Path, name: str) -> None:
    options = SaeOptions(architecture="topk", k=K) if name == "RATopKSAE" else None
    theirs = make(name)
    torch.save(theirs.state_dict(), tmp_path / "sae.pt")
    with pytest.raises(LoadError, match=r"save it after .eval\(\)"):
        load(tmp_path / "sae.pt", options)
    theirs.eval()
    torch.save(theirs.state_dict(), tmp_path / "sae.pt")
    compare(tmp_path / "sae.pt", theirs, options)


def test_trap_load_state_dict_after_eval_leaves_a_stale_dictionary(tmp_path: Path) -> None:
    theirs = make("SAE").eval()
    other = make("SAE")
    other.dictionary._weights.data.normal_()
    theirs.load_state_dict(other.state_dict())
    torch.save(theirs, tmp_path / "sae.pt")
    with pytest.raises(LoadError, match="the fused dictionary differs"):
        load(tmp_path / "sae.pt")


def test_trap_running_threshold_is_not_in_the_state_dict(tmp_path: Path) -> None:
    theirs = make("BatchTopKSAE")
    assert theirs.running_threshold is not None
    torch.save(theirs.state_dict(), tmp_path / "sae.pt")
    with pytest.raises(LoadError, match="depend on the rest of their batch") as caught:
        load(tmp_path / "sae.pt", SaeOptions(architecture="jumprelu"))
    assert caught.value.contract == "batch_mates"


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (lambda: library.QSAE(D_IN, D_SAE), "a module of the class overcomplete.sae.qsae.QSAE"),
        (lambda: library.MpSAE(D_IN, D_SAE), "overcomplete.sae.mp_sae.MpSAE"),
        (lambda: library.BatchTopKSAE(D_IN, D_SAE), "running_threshold is None"),
        (
            lambda: library.TopKSAE(D_IN, D_SAE, encoder_module="mlp_bn_1"),
            "encoder.final_block.1 is a torch.nn.modules.batchnorm.BatchNorm1d, allowed: Identity",
        ),
        (
            lambda: library.TopKSAE(D_IN, D_SAE, encoder_module="mlp_ln_3"),
            "encoder.mlp_blocks.0 is a torch.nn.modules.container.Sequential, allowed: no such",
        ),
    ],
)
def test_modules_that_are_refused(tmp_path: Path, theirs: Any, message: str) -> None:
    torch.save(theirs(), tmp_path / "sae.pt")
    with pytest.raises(LoadError) as caught:
        load(tmp_path / "sae.pt")
    assert message in str(caught.value)
