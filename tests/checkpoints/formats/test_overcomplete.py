"""Files of overcomplete, against its forward pass, and their traps."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

X = torch.linspace(-3, 4, 48).view(2, 4, 6)
STANDARD = SaeOptions(architecture="standard")
TOPK = SaeOptions(architecture="topk", k=3)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def weights(**changes: Tensor | None) -> dict[str, Tensor]:
    """The state dict of an SAE after a step of training; changes of None take a tensor out."""
    rows = nn.functional.normalize(draw(10, 6), dim=1)
    tensors: dict[str, Tensor | None] = {
        "encoder.final_block.0.weight": draw(10, 6),
        "encoder.final_block.0.bias": draw(10),
        "dictionary._weights": rows * torch.linspace(0.97, 1.03, 10)[:, None],
        "dictionary.multiplier": torch.tensor(0.0),
        **changes,
    }
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def save(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    torch.save(dict(tensors), path)
    return path


def compare(
    sae: Any, w: Mapping[str, Tensor], rows: Tensor, keep: Callable[[Tensor], Tensor]
) -> None:
    pre = X @ w["encoder.final_block.0.weight"].T + w["encoder.final_block.0.bias"]
    latents = keep(torch.relu(pre))
    mine = sae(X)
    assert torch.equal(mine.latents != 0, latents != 0)
    torch.testing.assert_close(mine.latents, latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.reconstruction, latents @ rows, rtol=1e-5, atol=1e-4)


def unit(weights: Tensor) -> Tensor:
    return nn.functional.normalize(weights, dim=1)


def topk(codes: Tensor) -> Tensor:
    top = codes.topk(3, dim=-1)
    return torch.zeros_like(codes).scatter(-1, top.indices, top.values)


@pytest.mark.parametrize(("options", "keep"), [(STANDARD, lambda codes: codes), (TOPK, topk)])
def test_state_dict(tmp_path: Path, options: SaeOptions, keep: Callable[[Tensor], Tensor]) -> None:
    w = weights(**{"dictionary.multiplier": torch.tensor(0.5)})
    sae = load(save(tmp_path / "sae.pt", w), options)
    compare(sae, w, unit(w["dictionary._weights"]) * torch.tensor(0.5).exp(), keep)
    assert sae.source.assumptions == (
        "the rows of the dictionary, of lengths 0.97 to 1.03, are normalised by l2, "
        "overcomplete's default, which a state dict does not say",
        "the dictionary is multiplied by exp(multiplier) = 1.649",
        "codes are relu of the encoder, as in overcomplete by default",
    )


def test_trap_thresholds_are_logarithms_and_inclusive(tmp_path: Path) -> None:
    pre = X @ weights()["encoder.final_block.0.weight"].T + weights()["encoder.final_block.0.bias"]
    exactly = pre.flatten(0, 1).max(dim=0).values.clamp(min=0.5)
    w = weights(thresholds=exactly.log())
    threshold = w["thresholds"].exp()
    sae = load(save(tmp_path / "sae.pt", w))
    compare(sae, w, unit(w["dictionary._weights"]), lambda c: torch.where(c >= threshold, c, 0.0))
    assert sae.identity["architecture"] == "jumprelu"
    # At a threshold of 0.5, which rounding leaves alone, a code of 0.5 is kept.
    zeros = torch.zeros(10, 6)
    w = weights(thresholds=torch.full((10,), 0.5).log())
    w |= {"encoder.final_block.0.weight": zeros, "encoder.final_block.0.bias": zeros[:, 0] + 0.5}
    assert (load(save(tmp_path / "sae.pt", w))(X).latents == 0.5).all()


def test_trap_no_bias_at_either_end(tmp_path: Path) -> None:
    sae = load(save(tmp_path / "sae.pt", weights()), STANDARD)
    assert sae.b_pre is None
    assert not sae.b_dec.any()
    with pytest.raises(LoadError, match="says pre_bias False, the `sae` options say True"):
        load(tmp_path / "sae.pt", SaeOptions(architecture="standard", pre_bias=True))


def test_trap_top_k_is_not_in_the_state_dict(tmp_path: Path) -> None:
    path = save(tmp_path / "sae.pt", weights())
    with pytest.raises(LoadError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path} is ambiguous; decide in the spec:\n"
        "  sae.architecture: standard (SAE) or topk (TopKSAE)\n"
        "  sae.k: a whole number (overcomplete's default is a tenth of the latents)"
    )
    with pytest.raises(LoadError, match=r"decide in the spec:\n  sae.k: a whole number"):
        load(path, SaeOptions(architecture="topk"))


def test_trap_a_batchtopk_without_its_threshold_depends_on_batch_mates(tmp_path: Path) -> None:
    path = save(tmp_path / "sae.pt", weights())
    with pytest.raises(LoadError, match="BatchTopKSAE lacks its running_threshold") as caught:
        load(path, SaeOptions(architecture="jumprelu"))
    assert caught.value.contract == "batch_mates"


def test_trap_rows_of_other_lengths_do_not_say_their_normalization(tmp_path: Path) -> None:
    w = weights(**{"dictionary._weights": draw(10, 6)})
    with pytest.raises(LoadError, match="allowed in a state dict: near 1") as caught:
        load(save(tmp_path / "sae.pt", w), TOPK)
    assert caught.value.contract == "scale"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_encoders_made_from_the_dictionary(tmp_path: Path, tied: bool, bias: bool) -> None:
    rows = weights()["dictionary._weights"]
    w = weights(**{f"encoder.final_block.0.{name}": None for name in ("weight", "bias")})
    w["dictionary.multiplier"] = torch.tensor(0.3)
    if tied:
        w |= {n.replace("dictionary", "encoder.tied_to"): tensor for n, tensor in w.items()}
    else:
        w["encoder.weight"] = draw(10, 6)
    if bias:
        w["encoder.bias"] = draw(10)
    sae = load(save(tmp_path / "sae.pt", w), TOPK)
    dictionary = unit(rows) * torch.tensor(0.3).exp()
    encoder = {
        "encoder.final_block.0.weight": dictionary if tied else draw(10, 6),
        "encoder.final_block.0.bias": draw(10) if bias else torch.zeros(10),
    }
    compare(sae, encoder, dictionary, topk)


def archetypal(**changes: Tensor) -> dict[str, Tensor]:
    W = draw(10, 8).abs()
    points: dict[str, Tensor | None] = {
        "dictionary._weights": None,
        "dictionary.W": W / W.sum(dim=1, keepdim=True),
        "dictionary.C": draw(8, 6),
        "dictionary.Relax": draw(10, 6) * 0.1,
        "dictionary.multiplier": torch.tensor(0.2),
    }
    return weights(**{**points, **changes})


def test_archetypal_dictionary(tmp_path: Path) -> None:
    w = archetypal()
    rows = w["dictionary.W"] @ w["dictionary.C"] + w["dictionary.Relax"]
    sae = load(save(tmp_path / "sae.pt", w), TOPK)
    compare(sae, w, rows * torch.tensor(0.2).exp(), topk)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Q": torch.linspace(0, 1, 4)}, "not read: its codes are quantised (QSAE)"),
        (
            {"encoder.final_block.1.running_mean": torch.zeros(10)},
            "its encoder has a batch norm or layer norm",
        ),
        ({"encoder.mlp_blocks.0.0.weight": draw(6, 6)}, "its encoder has hidden layers"),
        ({"encoder.resnet_blocks.0.conv1.weight": draw(6, 6)}, "its encoder is a ResNet"),
        ({"encoder.attention_blocks.0.norm1.bias": draw(6)}, "its encoder mixes positions"),
        (
            {"encoder.final_block.0.weight": None, "encoder.final_block.0.bias": None},
            "a dictionary without an encoder is not read",
        ),
        ({"encoder.final_block.0.bias": None}, "missing: b_enc"),
        ({"encoder.bias": draw(10)}, "not understood: encoder.bias"),
        ({"gain": draw(10)}, "not understood: gain"),
        ({"dictionary.gain": draw(10)}, "not understood: dictionary.gain"),
        ({"encoder.tied_to._weights": draw(10, 6)}, "differs from the dictionary of the decoder"),
        ({"dictionary.multiplier": None}, "expected a scalar dictionary.multiplier"),
        ({"dictionary.multiplier": draw(1)}, "expected a scalar dictionary.multiplier"),
        ({"dictionary._weights": draw(10)}, "no matrix dictionary._weights"),
        ({"encoder.final_block.0.weight": draw(10)}, "no matrix encoder.final_block.0.weight"),
        ({"dictionary._weights": torch.full((10, 6), float("nan"))}, "60 values that are not"),
    ],
)
def test_state_dicts_that_are_refused(
    tmp_path: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    with pytest.raises(LoadError) as caught:
        load(save(tmp_path / "sae.pt", weights(**changes)), TOPK)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dictionary.W": torch.full((10, 8), 0.2)}, "not weights that sum to 1"),
        ({"dictionary.W": torch.eye(10, 8) - 0.1}, "save it after .eval(), or save the whole"),
        ({"dictionary.C": draw(9, 6)}, "do not fit each other"),
        ({"dictionary.W": draw(8)}, "no matrix dictionary.W"),
    ],
)
def test_archetypal_dictionaries_that_are_refused(
    tmp_path: Path, changes: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(LoadError) as caught:
        load(save(tmp_path / "sae.pt", archetypal(**changes)), TOPK)
    assert message in str(caught.value)


# Whole modules: classes under the names of the library, which are gone when the file is read


class MLPEncoder(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.mlp_blocks = nn.ModuleList()
        self.final_block = nn.Sequential(nn.Linear(6, 10), nn.Identity())
        self.final_activation = activation


class DictionaryLayer(nn.Module):
    def __init__(self, weights: Tensor, normalization: Any) -> None:
        super().__init__()
        self._weights = nn.Parameter(weights)
        self.register_buffer("multiplier", torch.tensor(0.0))
        self.normalization = normalization
        self._fused_dictionary: Tensor | None = None


class TopKSAE(nn.Module):
    def __init__(
        self, top_k: Any = 3, activation: nn.Module | None = None, normalization: Any = None
    ) -> None:
        super().__init__()
        w = weights()
        self.encoder = MLPEncoder(activation or nn.ReLU())
        self.encoder.final_block[0].weight.data = w["encoder.final_block.0.weight"]
        self.encoder.final_block[0].bias.data = w["encoder.final_block.0.bias"]
        self.dictionary = DictionaryLayer(w["dictionary._weights"] * 2, normalization)
        self.top_k = top_k


class BatchTopKSAE(TopKSAE):
    running_threshold: Any


class Mine(TopKSAE):
    pass


def normalize_max_l1() -> None:
    """Only its name is saved."""


def my_own() -> None:
    """Only its name is saved."""


def save_module(path: Path, module: nn.Module) -> Path:
    name = "overcomplete.sae.dictionary"
    objects = (MLPEncoder, DictionaryLayer, TopKSAE, BatchTopKSAE, Mine, normalize_max_l1, my_own)
    parents = ["overcomplete", "overcomplete.sae", name]
    sys.modules.update({parent: types.ModuleType(parent) for parent in parents})
    try:
        for item in objects:
            item.__module__ = name
            setattr(sys.modules[name], item.__name__, item)
        torch.save(module, path)
    finally:
        for item in objects:
            item.__module__ = __name__
        for parent in parents:
            del sys.modules[parent]
    return path


def test_module(tmp_path: Path) -> None:
    module = TopKSAE(normalization=normalize_max_l1)
    sae = load(save_module(tmp_path / "sae.pt", module))
    stored = weights()["dictionary._weights"] * 2
    compare(sae, weights(), stored / stored.abs().sum(dim=1).max(), topk)
    with pytest.raises(LoadError, match="says k 3, the `sae` options say 4"):
        load(tmp_path / "sae.pt", SaeOptions(k=4))


def test_module_of_a_batchtopk(tmp_path: Path) -> None:
    module = BatchTopKSAE(top_k=40, normalization=normalize_max_l1)
    module.running_threshold = torch.tensor(0.7)
    sae = load(save_module(tmp_path / "sae.pt", module))
    stored = weights()["dictionary._weights"] * 2
    rows = stored / stored.abs().sum(dim=1).max()
    compare(sae, weights(), rows, lambda codes: torch.where(codes >= 0.7, codes, 0.0))
    assert "evaluation mode" in sae.source.assumptions[-1]


@pytest.mark.parametrize(
    ("value", "message", "contract"),
    [
        (None, "was never trained, and its latents depend on", "batch_mates"),
        (torch.tensor(0.0), "thresholds are 0 to 0", "threshold"),
        (torch.tensor(-1.0), "thresholds are -1 to -1", "threshold"),
        (torch.tensor(float("nan")), "running_threshold is nan, expected a number", "threshold"),
        (torch.zeros(2), "running_threshold is tensor", "threshold"),
        ("0.7", "running_threshold is '0.7', expected a number", "threshold"),
    ],
)
def test_trap_running_threshold_that_was_never_trained(
    tmp_path: Path, value: Any, message: str, contract: str
) -> None:
    module = BatchTopKSAE(top_k=40, normalization=normalize_max_l1)
    module.running_threshold = value
    with pytest.raises(LoadError) as caught:
        load(save_module(tmp_path / "sae.pt", module))
    assert message in str(caught.value)
    assert caught.value.contract == contract


def hooked() -> nn.Module:
    module = TopKSAE(normalization=normalize_max_l1)
    module.encoder.register_forward_hook(print)
    return module


def with_a_gain() -> nn.Module:
    module = TopKSAE(normalization=normalize_max_l1)
    module.encoder.gain = nn.Linear(6, 6)
    return module


def fused_before() -> nn.Module:
    module = TopKSAE(normalization=normalize_max_l1)
    module.dictionary._fused_dictionary = torch.ones(10, 6)
    return module.eval()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopKSAE(top_k="3"), "top_k is '3', expected a whole number"),
        (lambda: TopKSAE(top_k=11, normalization=normalize_max_l1), "k is 11, allowed: 1 to 10"),
        (lambda: TopKSAE(), "normalization is None, allowed: l2, max_l2, l1, max_l1, identity"),
        (lambda: TopKSAE(normalization=my_own), "normalization is 'my_own'"),
        (lambda: TopKSAE(activation=nn.GELU()), "encoder.final_activation is a torch.nn.modules."),
        (
            lambda: Mine(),
            "a module of the class overcomplete.sae.dictionary.Mine, expected one of",
        ),
        (hooked, "encoder has _forward_hooks, whose code is not run"),
        (with_a_gain, "encoder.gain is a torch.nn.modules.linear.Linear, allowed: no such part"),
        (fused_before, "the fused dictionary differs"),
    ],
)
def test_modules_that_are_refused(
    tmp_path: Path, make: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(LoadError) as caught:
        load(save_module(tmp_path / "sae.pt", make()))
    assert message in str(caught.value)
