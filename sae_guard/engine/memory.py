"""The cache entry of a model and a corpus, and the names under which the engine stores tensors."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import torch
import xxhash
from torch import Tensor

from sae_guard.cache import Cache, CacheError, Entry
from sae_guard.corpus import Corpus
from sae_guard.engine.code_hash import code_hash
from sae_guard.engine.intervention import HookSite
from sae_guard.model import LanguageModel
from sae_guard.sae import SAE

Tensors = Mapping[str, Tensor]

_PACKAGES = ("torch", "transformers", "transformer-lens")


class Memory:
    """Cache entry of a model and a corpus; without one, nothing is stored.

    An error of the disk ends the use of the entry, but not the measurement.
    """

    def __init__(self, entry: Entry | None = None, failure: str = "") -> None:
        self.entry = entry
        self.failure = failure
        """Reason why a requested cache is not used; empty if there is none."""

    @classmethod
    def from_cache(cls, cache: Cache | None, model: LanguageModel, corpus: Corpus) -> Memory:
        """Open the entry of a model and a corpus.

        The key of the entry is a hash of everything that numbers depend on: weights, configuration,
        tokens, device, the code of the engine and the versions of its libraries.

        Args:
            cache: Cache, or None to store nothing.
            model: Language model.
            corpus: Windows.
        """
        if cache is None:
            return cls()
        weights = model.bridge.original_model.state_dict()
        config = model.bridge.original_model.config.to_dict()
        if any(value.device.type == "meta" for value in weights.values()):
            return cls(None, "weights that are offloaded have no hash")
        description = {"model": model.identity, "corpus": corpus.identity}
        parts = {
            "weights": fingerprint(weights),
            # Names and paths are left out: the same weights from another folder are the same model.
            "config": {k: v for k, v in config.items() if k != "_name_or_path"},
            "model": model.identity | {"name": "", "revision": ""},
            "corpus": corpus.sha256,
            "device": _device(model.device),
            "code": code_hash(),
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        }
        try:
            return cls(cache.entry(digest(parts), description))
        except CacheError as error:
            return cls(None, str(error))

    def read(self, name: str) -> Tensors | None:
        """Return the tensors stored under a name, or None."""
        stored = None if self.entry is None else self.entry.read(name)
        return None if stored is None else stored.tensors

    def has(self, name: str) -> bool:
        """Return True if tensors are stored under the name."""
        return self.entry is not None and self.entry.has(name)

    def write(self, name: str, tensors: Tensors) -> None:
        """Store tensors under a name."""
        if self.entry is None:
            return
        try:
            self.entry.write(name, tensors)
        except CacheError as error:
            self._stop(error)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock of a name: other processes wait for it."""
        with ExitStack() as locks:
            if self.entry is not None:
                try:
                    locks.enter_context(self.entry.lock(name))
                except CacheError as error:
                    self._stop(error)
            yield

    def reserve(self, n_bytes: int) -> bool:
        """Make room for so many bytes more; return False if they do not fit."""
        try:
            return self.entry is not None and self.entry.reserve(n_bytes)
        except CacheError as error:
            self._stop(error)
            return False

    def _stop(self, error: CacheError) -> None:
        self.entry, self.failure = None, str(error)


def fingerprint(tensors: Tensors) -> str:
    """Hash the names, dtypes, shapes and bits of tensors."""
    hasher, hashes = xxhash.xxh3_128(), dict[tuple[Any, ...], str]()
    for name, tensor in sorted(tensors.items()):
        layout = f"{tensor.dtype}:{list(tensor.shape)}"
        storage = (tensor.device, tensor.data_ptr(), tensor.stride(), layout)
        if storage not in hashes:  # the bridge lists each weight under several names
            # As bytes, since NumPy has no bfloat16.
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            hashes[storage] = xxhash.xxh3_128_hexdigest(flat.numpy().data)
        hasher.update(f"{name}:{layout}:{hashes[storage]};".encode())
    return hasher.hexdigest()


def run_name(sae: SAE, site: HookSite, *, random_error: bool = False) -> str:
    """Return the name under which the run of an SAE is stored.

    Args:
        sae: SAE.
        site: Hook points that it reads and replaces.
        random_error: True if KL with a random error is measured too.
    """
    parts = {
        "sae": sae_parts(sae),
        "device": _device(sae.device),
        "at": asdict(site),
        "random_error": random_error,
    }
    return f"runs/{digest(parts)}"


def sae_parts(sae: SAE) -> dict[str, Any]:
    """Return everything that identifies an SAE: weights, settings, activation function.

    The file that it was loaded from and its device are not part of it.
    """
    tensors = {name: value for name, value in vars(sae).items() if isinstance(value, Tensor)}
    settings = {
        name: value
        for name, value in vars(sae).items()
        if name not in tensors and name not in ("activation", "source")
    }
    activation = {
        name: fingerprint({name: value}) if isinstance(value, Tensor) else value
        for name, value in vars(sae.activation).items()
    }
    return {
        "weights": fingerprint(tensors),
        "settings": settings,
        "activation": [sae.activation.architecture, activation],
    }


def _device(device: torch.device) -> str:
    # By its kind and not its index: equal GPUs round in the same way, those of another kind may
    # not.
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def digest(parts: Mapping[str, Any]) -> str:
    """Hash a mapping of JSON values; other values are hashed by their `repr`."""
    return xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True, default=repr).encode())
