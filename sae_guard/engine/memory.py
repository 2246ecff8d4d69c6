"""What the engine remembers of a model and a corpus, and by which name."""

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
    """An entry of the cache or, without one, nothing that is remembered.

    Trouble with the disk ends its use, not the measurement.
    """

    def __init__(self, entry: Entry | None = None, trouble: str = "") -> None:
        self.entry = entry
        self.trouble = trouble
        """Why nothing is remembered any more, although it was asked for."""

    @classmethod
    def of(cls, cache: Cache | None, model: LanguageModel, corpus: Corpus) -> Memory:
        """What is remembered of this model and corpus, by the content of both and of our code."""
        if cache is None:
            return cls()
        weights = model.bridge.original_model.state_dict()
        config = model.bridge.original_model.config.to_dict()
        if any(value.device.type == "meta" for value in weights.values()):
            return cls(None, "weights that are offloaded have no hash")
        description = {"model": model.identity, "corpus": corpus.identity}
        parts = {
            "weights": fingerprint(weights),
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
        """Tensors by their name; None where there are none."""
        found = None if self.entry is None else self.entry.read(name)
        return None if found is None else found.tensors

    def has(self, name: str) -> bool:
        """Whether there are some."""
        return self.entry is not None and self.entry.has(name)

    def write(self, name: str, tensors: Tensors) -> None:
        """Remember tensors."""
        if self.entry is None:
            return
        try:
            self.entry.write(name, tensors)
        except CacheError as error:
            self._stop(error)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Let one process at a time do what this names."""
        with ExitStack() as held:
            if self.entry is not None:
                try:
                    held.enter_context(self.entry.lock(name))
                except CacheError as error:
                    self._stop(error)
            yield

    def reserve(self, n_bytes: int) -> bool:
        """Whether so many bytes more will fit; makes room for them."""
        try:
            return self.entry is not None and self.entry.reserve(n_bytes)
        except CacheError as error:
            self._stop(error)
            return False

    def _stop(self, error: CacheError) -> None:
        self.entry, self.trouble = None, str(error)


def fingerprint(tensors: Tensors) -> str:
    """Hash of names, dtypes, shapes and every bit."""
    hashed, seen = xxhash.xxh3_128(), dict[tuple[Any, ...], str]()
    for name, tensor in sorted(tensors.items()):
        what = f"{tensor.dtype}:{list(tensor.shape)}"
        place = (tensor.device, tensor.data_ptr(), tensor.stride(), what)
        if place not in seen:  # a bridge names each weight several times
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            seen[place] = xxhash.xxh3_128_hexdigest(flat.numpy().data)
        hashed.update(f"{name}:{what}:{seen[place]};".encode())
    return hashed.hexdigest()


def run_name(sae: SAE, at: HookSite, *, random_error: bool = False) -> str:
    """By what the measurement of an SAE at a place, with or without a random error, is
    remembered.
    """
    parts = {
        "sae": contents(sae),
        "device": _device(sae.device),
        "at": asdict(at),
        "random_error": random_error,
    }
    return f"runs/{digest(parts)}"


def contents(sae: SAE) -> dict[str, Any]:
    """What an SAE is, wherever it comes from and wherever it lies."""
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
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def digest(parts: Mapping[str, Any]) -> str:
    """Of what can be JSON, or told apart by its text."""
    return xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True, default=repr).encode())
