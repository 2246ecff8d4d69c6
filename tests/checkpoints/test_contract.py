"""The load contract of a loaded SAE: sound SAEs keep every part, each kind of damage breaks one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae_guard.checkpoints.contract import check
from sae_guard.checkpoints.options import NOTHING_SAID, SaeOptions
from sae_guard.errors import Contract, LoadError
from sae_guard.sae import SAE, SaeSource
from sae_guard.sae.activations import GroupMax, JumpReLU, ReLU, TopK
from sae_guard.sae.controls import identity_sae, zero_sae
from sae_guard.testing import saes
from tests.helpers.checkpoint_files import example_sae

PARTS = get_args(Contract)


def broken(sae: SAE, options: SaeOptions = NOTHING_SAID) -> dict[str, str]:
    """Part → what breaks it."""
    failures: dict[str, str] = {}
    for part in PARTS:
        try:
            check(part, sae, options)
        except LoadError as error:
            failures[error.contract] = str(error).removeprefix(f"{sae.source.path}: ")
    return failures


def damaged(sae: SAE, name: str, at: tuple[int, ...], value: float) -> SAE:
    tensor = getattr(sae, name).clone()
    tensor[at] = value
    return replace(sae, **{name: tensor})


@given(saes(transcoders=True))
def test_sound_saes_keep_every_part_and_what_is_truly_said_of_them(sae: SAE) -> None:
    assert broken(sae) == {}
    options = SaeOptions(
        architecture=sae.activation.architecture,  # type: ignore[arg-type]
        k=getattr(sae.activation, "k", None),
        pre_bias=sae.b_pre is not None,
        normalize=sae.normalize,
    )
    assert broken(sae, options) == {}


@pytest.mark.parametrize("sae", [identity_sae(6), zero_sae(6)], ids=["identity", "zero"])
def test_the_controls_keep_it(sae: SAE) -> None:
    assert broken(sae) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "standard"}, "architecture 'topk', the `sae` options say 'standard'"),
        ({"k": 4}, "k 3, the `sae` options say 4"),
        ({"pre_bias": False}, "pre_bias True, "),
        ({"normalize": "layer_norm"}, "normalize 'none', "),
    ],
)
def test_an_activation_other_than_was_said(options: dict[str, Any], message: str) -> None:
    sae = example_sae("topk")
    failures = broken(sae, SaeOptions(**options))
    assert failures.keys() == {"activation"}
    assert failures["activation"].startswith(f"{sae.source.path} says {message}")


def test_a_k_where_there_is_none() -> None:
    assert broken(example_sae(), SaeOptions(k=3)).keys() == {"activation"}


@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec", "b_pre", "W_skip"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite(name: str, value: float) -> None:
    at = (2, 3) if name.startswith("W") else (2,)
    sae = replace(example_sae(), W_skip=torch.zeros(6, 6), transcoder=True, b_pre=torch.zeros(6))
    failures = broken(damaged(sae, name, at, value))
    assert failures["finite"] == f"{name} holds values that are not finite"


@pytest.mark.parametrize("name", ["b_gate", "b_mag", "r_mag"])
def test_gates_that_are_not_finite(name: str) -> None:
    sae = example_sae("gated")
    gates = replace(sae.activation, **{name: torch.full((10,), torch.nan)})  # type: ignore[arg-type]
    assert broken(replace(sae, activation=gates))["finite"].startswith(f"{name} holds ")


@pytest.mark.parametrize("values", [[-1.0] * 10, [0.0] * 10, [1.0] * 9 + [-1e-6]])
def test_thresholds_that_were_never_trained(values: list[float]) -> None:
    sae = replace(example_sae(), activation=JumpReLU(torch.tensor(values)))
    message = "thresholds are below 0 or all 0: they were never trained; allowed: some above 0"
    assert broken(sae) == {"threshold": message}


def test_thresholds_of_which_some_are_zero_are_kept() -> None:
    sae = replace(example_sae(), activation=JumpReLU(torch.tensor([0.0] * 9 + [0.1])))
    assert broken(sae) == {}


@pytest.mark.parametrize("name", ["scale_in", "scale_out"])
@pytest.mark.parametrize("value", [0.0, -1.0, torch.inf, torch.nan])
def test_scales_that_are_none(name: str, value: float) -> None:
    failures = broken(replace(example_sae(), **{name: value}))  # type: ignore[arg-type]
    assert failures["scale"] == f"{name} is {value}, expected a number above 0"


def double(activation: Callable[[Tensor], Tensor], architecture: str = "standard") -> SAE:
    """An SAE with an activation that no format has."""

    class Double(ReLU):
        def __call__(self, q: Tensor) -> Tensor:
            return activation(q)

    sae = example_sae(architecture)
    return replace(sae, activation=Double())


def counter() -> Callable[[Tensor], Tensor]:
    count = itertools.count()
    return lambda q: torch.relu(q + next(count))


@pytest.mark.parametrize(
    "activation",
    [
        counter(),
        lambda q: torch.relu(q + torch.rand_like(q)),
        lambda q: torch.relu(q * (1 + 1e-3 * torch.rand_like(q))),
        lambda q: torch.nn.functional.dropout(torch.relu(q)),
    ],
    ids=["counter", "noise", "little noise", "dropout"],
)
def test_latents_that_differ_the_second_time(activation: Callable[[Tensor], Tensor]) -> None:
    failures = broken(double(activation))
    assert failures == {"deterministic": "the same activations give other latents the second time"}


def test_the_batch_is_not_blamed_for_what_is_not_deterministic() -> None:
    with pytest.raises(LoadError) as caught:
        check("batch_mates", double(counter()), NOTHING_SAID)
    assert caught.value.contract == "deterministic"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_latents_that_are_not_finite(value: float) -> None:
    """Check sound weights whose latents are not finite for all, or only for long activations."""
    everywhere = double(lambda q: torch.where(q > 0, value, 0.0))
    long = double(lambda q: torch.where(q > q.max() * 0.9, value, torch.relu(q)))
    for sae in (everywhere, long):
        assert broken(sae) == {
            "deterministic": "finite activations give latents or a reconstruction that are not "
            "finite"
        }


def test_latents_that_are_not_finite_the_second_time_only() -> None:
    count = itertools.count()
    sae = double(lambda q: torch.relu(q) * (torch.nan if next(count) else 1.0))
    assert broken(sae).keys() == {"deterministic"}


def batch_topk(k: int) -> Callable[[Tensor], Tensor]:
    """Return the activation of training: the k · n largest latents of all n tokens."""

    def activation(q: Tensor) -> Tensor:
        least = q.flatten().topk(k * len(q)).values[-1]
        return torch.relu(q) * (q >= least)

    return activation


MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "BatchTopK, k 1": batch_topk(1),
    "BatchTopK, k 3": batch_topk(3),
    "mean": lambda q: torch.relu(q - q.mean(dim=0)),
    "batch norm": lambda q: torch.relu(q / q.std(dim=0)),
    "largest": lambda q: torch.relu(q) * (q == q.max(dim=0).values),
    "NaN beside large ones": lambda q: torch.relu(q) * (torch.nan if q.abs().max() > 5e3 else 1.0),
}


@pytest.mark.parametrize("name", MIXING)
def test_latents_that_depend_on_the_batch(name: str) -> None:
    failures = broken(double(MIXING[name]))
    assert failures == {
        "batch_mates": "the latents of a token depend on the tokens beside it in the batch"
    }


def test_a_topk_per_token_is_no_topk_over_the_batch() -> None:
    assert broken(example_sae("topk")) == {}
    for k in (1, 10):
        assert broken(replace(example_sae(), activation=TopK(k))) == {}
    assert broken(replace(example_sae(), activation=GroupMax(5))) == {}


@given(st.integers(1, 300), st.sampled_from([1e-4, 1.0, 1e4]))
def test_wide_and_badly_scaled_saes_keep_it(d_sae: int, size: float) -> None:
    generator = torch.Generator().manual_seed(d_sae)
    W_enc = torch.randn(16, d_sae, generator=generator) * size
    sae = SAE(
        W_enc, W_enc.T.contiguous(), torch.zeros(d_sae), torch.zeros(16),
        TopK(min(d_sae, 4)), SaeSource("wide", "drawn"), normalize="layer_norm",
    )  # fmt: skip
    assert broken(sae) == {}
