"""Bare state dicts: read exactly once the options decide what the names leave open."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE
from tests.helpers.checkpoint_files import (
    as_linear,
    example_sae,
    options_of,
    saelens_saes,
    tensors_of,
)


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


@given(
    saelens_saes().filter(lambda sae: sae.rescale_by_decoder_norm == "none"),
    st.sampled_from(("a.pt", "a.pth", "a.safetensors")),
    st.booleans(),
)
def test_round_trip(sae: SAE, name: str, linear: bool) -> None:
    x = torch.linspace(-3, 4, 24).view(4, 6)
    tensors = as_linear(tensors_of(sae)) if linear else tensors_of(sae)
    with tempfile.TemporaryDirectory() as folder:
        loaded = load(write(Path(folder) / name, tensors), options_of(sae))
    for mine, theirs in zip(loaded(x), sae(x), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_parameters_are_tensors(tmp_path: Path) -> None:
    tensors = {n: torch.nn.Parameter(t) for n, t in tensors_of(example_sae()).items()}
    path = tmp_path / "sae.pt"
    torch.save(tensors, path)
    assert not load(path, options_of(example_sae())).W_enc.requires_grad


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (
            SaeOptions(),
            [
                "sae.architecture: standard or topk or tanh_relu",
                "sae.pre_bias:",
                "sae.normalize:",
            ],
        ),
        (SaeOptions(architecture="standard", normalize="none"), ["sae.pre_bias:"]),
        (SaeOptions(architecture="standard", pre_bias=True), ["sae.normalize:"]),
        (SaeOptions(architecture="topk", pre_bias=True, normalize="none"), ["sae.k:"]),
    ],
)
def test_the_ambiguous_is_refused_with_its_candidates(
    tmp_path: Path, options: SaeOptions, missing: list[str]
) -> None:
    path = write(tmp_path / "sae.pt", tensors_of(example_sae()))
    with pytest.raises(LoadError) as caught:
        load(path, options)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path} is ambiguous; decide in the spec:"
    assert len(lines) == 1 + len(missing)
    assert [f"sae.{key}" for key in caught.value.options] == [m.partition(":")[0] for m in missing]
    for line, expected in zip(lines[1:], missing, strict=True):
        assert line.strip().startswith(expected)


@pytest.mark.parametrize(
    ("architecture", "option"),
    [("jumprelu", "standard"), ("gated", "topk"), ("standard", "jumprelu")],
)
def test_an_architecture_that_the_tensors_cannot_be(
    tmp_path: Path, architecture: str, option: str
) -> None:
    path = write(tmp_path / "sae.pt", tensors_of(example_sae(architecture)))
    options = SaeOptions.model_validate(
        {"architecture": option, "pre_bias": True, "normalize": "none", "k": None}
    )
    with pytest.raises(LoadError, match=f"say '{option}'"):
        load(path, options)


def test_k_of_an_sae_that_has_none(tmp_path: Path) -> None:
    path = write(tmp_path / "sae.pt", tensors_of(example_sae()))
    options = SaeOptions(architecture="standard", k=5, pre_bias=True, normalize="none")
    with pytest.raises(LoadError, match="a standard SAE has no k"):
        load(path, options)


def test_left_over_keys_are_named(tmp_path: Path) -> None:
    tensors = {**tensors_of(example_sae()), "scaling_factor": torch.ones(10)}
    with pytest.raises(LoadError, match="not understood: scaling_factor"):
        load(write(tmp_path / "sae.pt", tensors), options_of(example_sae()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds nothing"),
        ({"W_enc": torch.ones(2), "step": 3}, r"holds 'step' \(int\)"),
        ({"state_dict": {"W_enc": torch.ones(2)}}, r"'state_dict' \(dict\)"),
    ],
)
def test_what_is_no_tensor_is_named(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "sae.pt")
    with pytest.raises(LoadError, match=message):
        load(tmp_path / "sae.pt")


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sae.bin").write_bytes(b"")
    with pytest.raises(
        LoadError, match=r"suffix '\.bin', expected \.pt, .*; formats that are read: .*SAELens 6"
    ):
        load(tmp_path / "sae.bin")
    with pytest.raises(LoadError, match=r"a folder with sae\.bin; formats that are read"):
        load(tmp_path)
    with pytest.raises(LoadError, match="no such checkpoint"):
        load(tmp_path / "nothing.pt")


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated"])
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("turned", [("W_enc", "W_dec"), ("W_enc",), ("W_dec",)])
def test_trap_names_do_not_tell_which_way_the_matrices_lie(
    tmp_path: Path, architecture: str, linear: bool, turned: tuple[str, ...]
) -> None:
    sae = example_sae(architecture)
    tensors = {n: t.T.contiguous() if n in turned else t for n, t in tensors_of(sae).items()}
    path = write(tmp_path / "sae.pt", as_linear(tensors) if linear else tensors)
    loaded = load(path, options_of(sae))
    x = torch.linspace(-3, 4, 24).view(2, 2, 6)
    for mine, theirs in zip(loaded(x), sae(x), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert len(loaded.source.assumptions) == len(turned)


def test_trap_square_matrices_lie_as_the_names_say(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = {
        "W_enc": torch.randn(6, 6, generator=generator), "b_enc": torch.randn(6),
        "W_dec": torch.randn(6, 6, generator=generator), "b_dec": torch.randn(6),
    }  # fmt: skip
    options = SaeOptions(architecture="standard", pre_bias=False, normalize="none")
    for name, stored in (("a.pt", tensors), ("b.pt", as_linear(tensors))):
        sae = load(write(tmp_path / name, stored), options)
        assert torch.equal(sae.W_enc, tensors["W_enc"])
        assert torch.equal(sae.W_dec, tensors["W_dec"])
        assert not sae.source.assumptions


def test_shapes_that_fit_neither_way_are_refused(tmp_path: Path) -> None:
    tensors = {**tensors_of(example_sae()), "W_enc": torch.ones(10, 7)}
    with pytest.raises(LoadError, match=r"W_enc has shape \[10, 7\], expected \[6, 10\]"):
        load(write(tmp_path / "sae.pt", tensors), options_of(example_sae()))
