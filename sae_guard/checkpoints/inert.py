"""Pickled objects without their code: what is no tensor or plain value becomes an empty record.

Old checkpoints hold the config of their training as an object of a class that is not installed
here, and must not be imported if it were. ``torch.load`` takes this module as its
``pickle_module``.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import torch
import torch._utils

# All that a state dict needs. Storages are read by torch itself, by the size of their record.
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


class Record:
    """Stands for an object of foreign code, none of which was run; its state is kept."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Record:
        """An empty record, whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Forget the arguments."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class Unpickler(pickle.Unpickler):
    """Finds no class and no function but those of a state dict."""

    def find_class(self, module: str, name: str) -> Any:
        """The allowed, or a record class of that name."""
        allowed = _ALLOWED.get((module, name))
        return allowed if allowed is not None else type(name, (Record,), {"__module__": module})


def load(path: Path) -> Any:
    """What a zip file of ``torch.save`` holds, with records in place of foreign objects.

    Files from before torch 1.6 are no zip files and say their own sizes; they are not read.
    """
    import sae_guard.checkpoints.inert as this_module

    with zipfile.ZipFile(path) as archive:
        if any(PurePath(name).name == "constants.pkl" for name in archive.namelist()):
            # torch.load would hand it to torch.jit, which runs the code in it.
            raise pickle.UnpicklingError("a TorchScript archive is a program, not a state dict")
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=this_module)
