"""One small SAE in each container, and pickles that no pickler writes."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
PICKLED = (".pt", ".pkl", ".pkl.gz")


def tensors(d_in: int = 6, d_sae: int = 10) -> dict[str, Tensor]:
    """A state dict with names that say nothing of the activation."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "W_enc": (d_in, d_sae),
        "b_enc": (d_sae,),
        "W_dec": (d_sae, d_in),
        "b_dec": (d_in,),
    }
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def _pt(path: Path, content: Any) -> None:
    torch.save(content, path)


def _old_pt(path: Path, content: Any) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _pkl(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content))


def _pkl_gz(path: Path, content: Any) -> None:
    path.write_bytes(gzip.compress(pickle.dumps(content)))


def _npz(path: Path, content: dict[str, Tensor]) -> None:
    """With thresholds, for all SAEs in such files are JumpReLU ones."""
    threshold = (
        torch.full((content["b_enc"].numel(),), 0.5) if "b_enc" in content else torch.ones(1)
    )
    arrays: dict[str, Any] = {name: value.numpy() for name, value in content.items()}
    np.savez(path, **{"threshold": threshold.numpy(), **arrays})


def _safetensors(path: Path, content: dict[str, Tensor]) -> None:
    save_file(content, path)


WRITERS: dict[str, tuple[str, Callable[[Path, Any], None]]] = {
    "zip": ("sae.pt", _pt),
    "old": ("old.pt", _old_pt),
    "pkl": ("sae.pkl", _pkl),
    "pkl.gz": ("sae.pkl.gz", _pkl_gz),
    "npz": ("sae.npz", _npz),
    "safetensors": ("sae.safetensors", _safetensors),
}
"""Container → name of the file, and what writes a state dict into it."""
_STANDARD = SaeOptions(architecture="standard", pre_bias=True, normalize="none")
OPTIONS = {container: None if container == "npz" else _STANDARD for container in WRITERS}
"""Container → what has to be said to load `tensors` from it."""
OF_OBJECTS = ("zip", "old", "pkl", "pkl.gz")
"""Containers that hold any pickled object."""


def write(container: str, folder: Path, content: Any) -> Path:
    """The object in a file of that container."""
    name, writer = WRITERS[container]
    writer(folder / name, content)
    return folder / name


def saelens_folder(folder: Path, **changes: Any) -> Path:
    """A folder of SAELens 6."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architecture": "standard",
        "d_in": 6,
        "d_sae": 10,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.0.hook_resid_post"},
        **changes,
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(tensors(), folder / "sae_weights.safetensors")
    return folder


def refusal(read: Callable[[Path], object], path: Path) -> str | None:
    """The message of the `LoadError`, None if it is read; any other error is a failure."""
    try:
        read(path)
    except LoadError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class Foreign:
    """An object of a class that is not installed, with its state."""

    module: str
    name: str
    state: Any


class _ForeignClass:
    def __init__(self, content: Foreign) -> None:
        self.content = content

    def __call__(self) -> None:
        """Only what can be called may be pickled as a class."""


def pickle_of_foreign(content: Any) -> bytes:
    """The pickle of an object that may hold `Foreign` ones."""
    out = io.BytesIO()

    class Pickler(pickle._Pickler):
        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, Foreign):
                return (_ForeignClass(value), (), value.state)
            return "a class" if isinstance(value, _ForeignClass) else NotImplemented

        def save_global(self, value: Any, name: str | None = None) -> None:
            if isinstance(value, _ForeignClass):
                out.write(f"c{value.content.module}\n{value.content.name}\n".encode())
            else:
                super().save_global(value, name)  # type: ignore[misc]  # not in typeshed

    Pickler(out, protocol=2).dump(content)
    return out.getvalue()


def raw_pickle(container: str, path: Path, pickled: bytes, **storages: bytes) -> Path:
    """A file of that container around a pickle as it is."""
    if container == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("sae/data.pkl", pickled)
            archive.writestr("sae/byteorder", b"little")
            for key, data in storages.items():
                archive.writestr(f"sae/data/{key}", data)
    elif container == "old":
        header = MAGIC + pickle.dumps(1001, protocol=2) + pickle.dumps({}, protocol=2)
        keys = pickle.dumps(list(storages), protocol=2)
        path.write_bytes(header + pickled + keys + b"".join(storages.values()))
    elif container == "pkl":
        path.write_bytes(pickled)
    else:
        path.write_bytes(gzip.compress(pickled))
    return path


class Leaves:
    """Unpickling it leaves a trace: it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.trace),))


def tensor_pickle(
    count: int, shape: tuple[int, ...], stride: tuple[int, ...], *target: None
) -> bytes:
    """{"W_enc": a float tensor} over a storage "a" of ``count`` elements, as `torch.save` does.

    The old container has a target, None, in its persistent ids.
    """
    out = io.BytesIO()

    class Pickler(pickle._Pickler):
        def persistent_id(self, value: Any) -> Any:
            return value.pid if isinstance(value, _Storage) else None

    pid = ("storage", torch.FloatStorage, "a", "cpu", count, *target)
    Pickler(out, protocol=2).dump({"W_enc": _Rebuilt(_Storage(pid), shape, stride)})
    return out.getvalue()


class _Storage:
    def __init__(self, pid: Any) -> None:
        self.pid = pid


class _Rebuilt:
    def __init__(self, storage: _Storage, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.arguments = (storage, 0, shape, stride, False, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return (torch._utils._rebuild_tensor_v2, self.arguments)
