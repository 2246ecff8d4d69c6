"""Tensors that are no weights: wrong dtypes, layouts, shapes and values."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.safe_pickle.inert import InertObject
from sae_guard.checkpoints.tensor_files import read_entries
from sae_guard.errors import InfrastructureError, LoadError
from tests.attacks.containers import OF_OBJECTS, OPTIONS, WRITERS, saelens_folder, tensors, write

INTEGERS = [torch.int64, torch.int32, torch.int8, torch.uint8, torch.uint16, torch.bool]


@pytest.mark.parametrize("container", WRITERS)
@pytest.mark.parametrize("dtype", [*INTEGERS, torch.complex64], ids=str)
def test_dtypes_that_are_no_floats(tmp_path: Path, container: str, dtype: torch.dtype) -> None:
    weights = {**tensors(), "W_dec": torch.ones(10, 6).to(dtype)}
    path = write(container, tmp_path, weights)
    assert read_entries(path)["W_dec"].dtype == dtype
    with pytest.raises(LoadError, match=f"W_dec is {dtype}") as caught:
        load(path, OPTIONS[container])
    assert caught.value.contract == "shapes"


@pytest.mark.parametrize("container", ["zip", "safetensors"])
def test_eight_bit_floats_are_their_values(tmp_path: Path, container: str) -> None:
    weights = {**tensors(), "W_dec": torch.eye(10, 6).to(torch.float8_e4m3fn)}
    sae = load(write(container, tmp_path, weights), OPTIONS[container])
    assert torch.equal(sae.W_dec, torch.eye(10, 6))


@pytest.mark.parametrize("container", OF_OBJECTS)
@pytest.mark.parametrize("kind", ["sparse", "csr", "nested", "meta", "numpy", "list"])
@pytest.mark.filterwarnings("ignore:.*(Sparse|nested)")
def test_layouts_that_are_not_dense(tmp_path: Path, container: str, kind: str) -> None:
    dense = torch.eye(10, 6)
    kinds: dict[str, Callable[[], Any]] = {
        "sparse": dense.to_sparse,
        "csr": dense.to_sparse_csr,
        "nested": lambda: torch.nested.nested_tensor([dense, dense]),
        "meta": lambda: dense.to("meta"),
        "numpy": dense.numpy,
        "list": dense.tolist,
    }
    path = write(container, tmp_path, {**tensors(), "W_dec": kinds[kind]()})
    if kind != "list":
        assert isinstance(read_entries(path)["W_dec"], InertObject)
    with pytest.raises(LoadError, match="W_dec"):
        load(path, OPTIONS[container])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_numpy_are_records_in_each_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    """The default protocol depends on the version of Python, so each is tried."""
    path = tmp_path / "sae.pkl"
    weights = {**tensors(), "W_dec": np.eye(10, 6, dtype=np.float32)}
    path.write_bytes(pickle.dumps(weights, protocol=protocol))
    assert isinstance(read_entries(path)["W_dec"], InertObject)
    with pytest.raises(LoadError, match="W_dec"):
        load(path, OPTIONS["pkl"])


@pytest.mark.parametrize("container", OF_OBJECTS)
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_quantised_tensors(tmp_path: Path, container: str) -> None:
    odd = torch.quantize_per_tensor(torch.eye(10, 6), 0.1, 0, torch.qint8)
    with pytest.raises(LoadError, match=r"a storage of <class 'torch\.QInt8Storage'>"):
        load(write(container, tmp_path, {**tensors(), "W_dec": odd}), OPTIONS[container])


@pytest.mark.parametrize("container", WRITERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", tensors())
def test_values_that_are_not_finite(
    tmp_path: Path, container: str, name: str, value: float
) -> None:
    weights = tensors()
    weights[name].view(-1)[3] = value
    with pytest.raises(LoadError, match=f"{name} has 1 values that are not finite") as caught:
        load(write(container, tmp_path, weights), OPTIONS[container])
    assert caught.value.contract == "finite"


@pytest.mark.parametrize("container", WRITERS)
def test_a_double_that_overflows_in_float32(tmp_path: Path, container: str) -> None:
    weights = {name: tensor.double() for name, tensor in tensors().items()}
    weights["b_enc"][0] = 1e300
    with pytest.raises(LoadError, match="b_enc has 1 values that are not finite in float32"):
        load(write(container, tmp_path, weights), OPTIONS[container])


SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "a bias too many": {"b_enc": (11,)},
    "a bias with a row": {"b_dec": (1, 6)},
    "three axes": {"W_enc": (1, 6, 10)},
    "a number": {"W_enc": ()},
    "no latents": {"W_enc": (6, 0), "W_dec": (0, 6), "b_enc": (0,)},
    "no width": {"W_enc": (0, 10), "W_dec": (10, 0), "b_dec": (0,)},
    "another width": {"W_enc": (7, 10)},
}
TRANSPOSED: dict[str, dict[str, tuple[int, ...]]] = {
    "both matrices transposed": {"W_enc": (10, 6), "W_dec": (6, 10)},
    "the encoder transposed": {"W_enc": (10, 6)},
    "the decoder transposed": {"W_dec": (6, 10)},
    "the biases swapped": {"b_enc": (6,), "b_dec": (10,)},
}


def shaped(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {**tensors(), **{name: torch.ones(shape) for name, shape in shapes.items()}}


@pytest.mark.parametrize("container", WRITERS)
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_disagree(tmp_path: Path, container: str, name: str) -> None:
    with pytest.raises(LoadError):
        load(write(container, tmp_path, shaped(SHAPES[name])), OPTIONS[container])


@pytest.mark.parametrize("container", ["saelens", "npz"])
@pytest.mark.parametrize("name", [*SHAPES, *TRANSPOSED])
def test_shapes_that_the_format_does_not_have(tmp_path: Path, container: str, name: str) -> None:
    weights = shaped((SHAPES | TRANSPOSED)[name])
    if container == "saelens":
        path = saelens_folder(tmp_path / "sae")
        write("safetensors", path, weights).replace(path / "sae_weights.safetensors")
    else:
        path = write(container, tmp_path, weights)
    with pytest.raises(LoadError):
        load(path)


@pytest.mark.parametrize("name", TRANSPOSED)
def test_a_bare_state_dict_lies_as_its_biases_say(tmp_path: Path, name: str) -> None:
    """Shapes that fit one way only are read that way; no other reading has these shapes."""
    weights = shaped(TRANSPOSED[name])
    sae = load(write("zip", tmp_path, weights), OPTIONS["zip"])
    assert (sae.d_sae, sae.d_in) == (len(weights["b_enc"]), len(weights["b_dec"]))


@pytest.mark.parametrize("container", OF_OBJECTS)
@pytest.mark.parametrize("name", ["", "a\x1b[2J", "a\nb", "x" * 201, "\u202e"])
def test_names_that_cannot_be_printed(tmp_path: Path, container: str, name: str) -> None:
    path = write(container, tmp_path, {**tensors(), name: torch.ones(1)})
    with pytest.raises(LoadError) as caught:
        load(path, OPTIONS[container])
    assert all(letter.isprintable() for line in str(caught.value).splitlines() for letter in line)


@pytest.mark.parametrize("container", OF_OBJECTS)
def test_two_names_that_are_one_text(tmp_path: Path, container: str) -> None:
    path = write(container, tmp_path, {1: torch.ones(1), "1": torch.ones(1)})
    with pytest.raises(LoadError, match="several entries have the same name"):
        load(path)


def test_arrays_in_the_order_of_other_machines(tmp_path: Path) -> None:
    path = tmp_path / "sae.npz"
    np.savez(path, W_enc=np.ones((6, 10), dtype=">f4"))
    with pytest.raises(LoadError, match="unreadable"):
        load(path)


def test_no_memory_is_not_the_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("zip", tmp_path, tensors())

    def fail(*_: object) -> Tensor:
        raise MemoryError

    monkeypatch.setattr("sae_guard.checkpoints.tensor_files.read_torch", fail)
    with pytest.raises(InfrastructureError, match="not enough memory to read"):
        read_entries(path)


def test_an_interrupt_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("zip", tmp_path, tensors())

    def interrupt(*_: object) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr("sae_guard.checkpoints.tensor_files.read_torch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_entries(path)
