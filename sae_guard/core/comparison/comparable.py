"""Check that two measurements differ in the SAE alone, and list what else differs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sae_guard.core.measurement import Measurement, Provenance
from sae_guard.errors import SetupError

_POLICY = ("context", "prepend_bos", "excluded_ids", "n_sequences", "seed")
"""Keys of a corpus that decide which tokens are measured, besides the text."""
_CLEAN_CE_TOLERANCE = {"float32": 1e-3, "float64": 1e-3}
"""Dtype → largest relative difference, per sequence, of the clean model's cross-entropy on equal
tokens. Devices and library versions differ by 1e-5; another model revision by more."""
_HALF_CLEAN_CE_TOLERANCE = 3e-2
"""The same for half-precision dtypes, where devices and library versions differ by 1e-2."""


class NotComparableError(SetupError):
    """Two measurements differ in more than the SAE."""

    def __init__(self, before: str, after: str, reasons: tuple[str, ...]) -> None:
        super().__init__(f"{after} is not comparable with {before}: {'; '.join(reasons)}")
        self.reasons = reasons
        """Sentences, one for each difference."""


@dataclass(frozen=True)
class Differences:
    """Differences between two measurements besides the SAE, one sentence each."""

    refused: tuple[str, ...]
    """Differences that make a comparison meaningless."""
    noted: tuple[str, ...]
    """Differences that may change numbers slightly: device and library versions."""


def differences(before: Measurement, after: Measurement) -> Differences:
    """Return the differences between two measurements besides the SAE.

    Formula versions are checked per metric (`formula_difference`). Name and folder of the model are
    ignored, as the same model may lie elsewhere; the clean cross-entropy of every sequence shows
    whether it is the same model.
    """
    old, new = before.provenance, after.provenance
    refused = setting_differences(old, new)
    if not refused:
        refused += _clean_model_differences(before, after)
    return Differences(tuple(refused), tuple(_sentences(_environments(old, new))))


def setting_differences(before: Provenance, after: Provenance) -> list[str]:
    """Return the differences in hook point, model settings and token set, one sentence each."""
    reasons = [*_sentences(_hook_points(before, after)), *_sentences(_token_sets(before, after))]
    if before.corpus.get("sha256") is None:
        reasons.append(
            "the tokens without a sha256 cannot be shown to be the same: measure the earlier "
            "version again"
        )
    elif before.corpus["sha256"] != after.corpus.get("sha256") and _is_source_code(after):
        reasons.append(
            "the text of `data.modules` depends on the version of Python: measure both under one"
        )
    return reasons


def shape_differences(before: Provenance, after: Provenance) -> list[str]:
    """Return the differences in architecture, d_sae and k, one sentence each."""
    return [
        f"it is another SAE: {key} {old} then, {new} now; give each a name within its release"
        for key in ("architecture", "d_sae", "k")
        if (old := before.checkpoint.get(key)) != (new := after.checkpoint.get(key))
    ]


def _is_source_code(provenance: Provenance) -> bool:
    """Return whether the text is the source of installed Python modules."""
    return bool(provenance.corpus.get("source", {}).get("modules"))


def formula_difference(before: Provenance, after: Provenance, metric: str) -> str | None:
    """Return why two values of a metric come from different formulas; None where they do not."""
    old, new = (provenance.formula_versions.get(metric) for provenance in (before, after))
    if old == new and old is not None:
        return None
    return f"the formula version of {metric} was {_abbreviated(old)} and is {_abbreviated(new)}"


_Pair = tuple[str, Any, Any]
"""(key, value before, value after)"""


def _hook_points(old: Provenance, new: Provenance) -> Iterator[_Pair]:
    yield "hook", old.hook, new.hook
    yield "hook_out", old.hook_out, new.hook_out
    for key in ("processing", "dtype"):
        yield f"model.{key}", old.model.get(key), new.model.get(key)


def _token_sets(old: Provenance, new: Provenance) -> Iterator[_Pair]:
    for key in _POLICY:
        yield f"policy: {key}", old.corpus.get(key), new.corpus.get(key)
    yield "sha256 of the tokens", old.corpus.get("sha256"), new.corpus.get("sha256")


def _clean_model_differences(before: Measurement, after: Measurement) -> Iterator[str]:
    """Yield why the rows are not those of one clean model on the same scored tokens."""
    if not np.array_equal(before.sequences, after.sequences):
        yield f"{before.n_sequences} sequences were measured and {after.n_sequences} are"
        return
    if not np.array_equal(before.sums["n_tokens"], after.sums["n_tokens"]):
        yield "other tokens of the sequences are scored"
        return
    old, new = before.sums["ce_clean"], after.sums["ce_clean"]
    dtype = after.provenance.model.get("dtype", "")
    tolerance = _CLEAN_CE_TOLERANCE.get(dtype, _HALF_CLEAN_CE_TOLERANCE)
    # Written so that NaN counts as a difference.
    with np.errstate(invalid="ignore"):
        equal = np.abs(new - old) <= tolerance * np.abs(old)
    if not equal.all():
        row = int(np.flatnonzero(~equal)[0])
        n = before.sums["n_tokens"][row]
        yield (
            f"the clean model differs: its cross-entropy on sequence {before.sequences[row]} was "
            f"{old[row] / n:.6g} and is {new[row] / n:.6g}"
        )


def _environments(old: Provenance, new: Provenance) -> Iterator[_Pair]:
    yield "device", _device_type(old.device), _device_type(new.device)
    # What a version of the package computes otherwise shows in the versions of its formulas.
    for name in sorted({*old.versions, *new.versions} - {"sae-guard"}):
        yield name, old.versions.get(name), new.versions.get(name)
    yield "model.revision", old.model.get("revision"), new.model.get("revision")


def _device_type(device: str) -> str:
    """Return ``cuda`` for ``cuda:1``: the GPUs of one machine count as the same device."""
    return device.partition(":")[0]


def _sentences(pairs: Iterator[_Pair]) -> Iterator[str]:
    """Yield ``KEY was OLD and is NEW`` for each pair of different values."""
    for key, old, new in pairs:
        if _plain(old) != _plain(new):
            yield f"{key} was {_abbreviated(old)} and is {_abbreviated(new)}"


def _plain(value: Any) -> Any:
    """Return the value as JSON reads it back: one of the two may come from a file."""
    return json.loads(json.dumps(value)) if isinstance(value, (Mapping, list, tuple)) else value


def _abbreviated(value: Any) -> str:
    """Return the value as text of at most 40 characters; hashes are cut short."""
    if value is None:
        return "not set"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:16]}…"
