"""Whether two measurements are of the same thing but for the SAE, and in what they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sae_guard.core.measurement import Measurement, Provenance
from sae_guard.errors import SetupError

_POLICY = ("context", "prepend_bos", "excluded_ids", "n_sequences", "seed")
"""What of a corpus is not the text."""
_CLEAN_CE = {"float32": 1e-3, "float64": 1e-3}
_HALF_CLEAN_CE = 3e-2
"""Relative, of a sequence: the clean model's loss on equal tokens, by its dtype. Devices and
libraries differ by 1e-5 and, in half precision, by 1e-2; another revision by more."""


class NotComparableError(SetupError):
    """Two measurements are of other things than the SAE too."""

    def __init__(self, before: str, after: str, reasons: tuple[str, ...]) -> None:
        super().__init__(f"{after} is not comparable with {before}: {'; '.join(reasons)}")
        self.reasons = reasons
        """In what they differ, in words."""


@dataclass(frozen=True)
class Differences:
    """In what two measurements differ, in words."""

    refused: tuple[str, ...]
    """What makes a comparison meaningless."""
    noted: tuple[str, ...]
    """What may move numbers a little: the device, versions of libraries."""


def differences(before: Measurement, after: Measurement) -> Differences:
    """In what they differ beside the SAE: ``was`` is before, ``is`` after.

    Formula versions are a metric's own business (`formula_difference`). Names and folders of the
    model are none: the same model may lie elsewhere. That it is the same is seen by its loss.
    """
    old, new = before.provenance, after.provenance
    refused = other_things(old, new)
    if not refused:
        refused += _of_clean_model(before, after)
    return Differences(tuple(refused), tuple(_said(_of_environment(old, new))))


def other_things(before: Provenance, after: Provenance) -> list[str]:
    """In what the provenance of two measurements says that they are of other things."""
    found = [*_said(_of_place(before, after)), *_said(_of_tokens(before, after))]
    if before.corpus.get("sha256") is None:
        found.append("of tokens without a sha256 nothing says that they are the same")
    elif before.corpus["sha256"] != after.corpus.get("sha256") and _of_modules(after):
        found.append(
            "the text of `data.modules` depends on the version of Python: measure both under one"
        )
    return found


def _of_modules(provenance: Provenance) -> bool:
    """Return whether the text is the source of installed Python modules."""
    return bool(provenance.corpus.get("source", {}).get("modules"))


def formula_difference(before: Provenance, after: Provenance, metric: str) -> str | None:
    """Why two values of the metric are not of one formula; None where they are."""
    old, new = (each.formula_versions.get(metric) for each in (before, after))
    if old == new and old is not None:
        return None
    return f"the formula version of {metric} was {_shown(old)} and is {_shown(new)}"


_Pair = tuple[str, Any, Any]


def _of_place(old: Provenance, new: Provenance) -> Iterator[_Pair]:
    yield "hook", old.hook, new.hook
    yield "hook_out", old.hook_out, new.hook_out
    for key in ("processing", "dtype"):
        yield f"model.{key}", old.model.get(key), new.model.get(key)


def _of_tokens(old: Provenance, new: Provenance) -> Iterator[_Pair]:
    for key in _POLICY:
        yield f"policy: {key}", old.corpus.get(key), new.corpus.get(key)
    yield "sha256 of the tokens", old.corpus.get("sha256"), new.corpus.get("sha256")


def _of_clean_model(before: Measurement, after: Measurement) -> Iterator[str]:
    if not np.array_equal(before.sequences, after.sequences):
        yield f"{before.n_sequences} sequences were measured and {after.n_sequences} are"
        return
    if not np.array_equal(before.sums["n_tokens"], after.sums["n_tokens"]):
        yield "other tokens of the sequences are scored"
        return
    old, new = before.sums["ce_clean"], after.sums["ce_clean"]
    far = _CLEAN_CE.get(after.provenance.model.get("dtype", ""), _HALF_CLEAN_CE)
    # Written so that NaN is told; whose metrics are undefined all the same.
    with np.errstate(invalid="ignore"):
        near = np.abs(new - old) <= far * np.abs(old)
    if not near.all():
        row = int(np.flatnonzero(~near)[0])
        n = before.sums["n_tokens"][row]
        yield (
            f"the clean model differs: its cross-entropy on sequence {before.sequences[row]} was "
            f"{old[row] / n:.6g} and is {new[row] / n:.6g}"
        )


def _of_environment(old: Provenance, new: Provenance) -> Iterator[_Pair]:
    yield "device", _kind(old.device), _kind(new.device)
    for name in sorted({*old.versions, *new.versions} - {"sae-guard"}):
        yield name, old.versions.get(name), new.versions.get(name)
    yield "model.revision", old.model.get("revision"), new.model.get("revision")


def _kind(device: str) -> str:
    """Which GPU of several does not matter."""
    return device.partition(":")[0]


def _said(pairs: Iterator[_Pair]) -> Iterator[str]:
    for key, old, new in pairs:
        if _plain(old) != _plain(new):
            yield f"{key} was {_shown(old)} and is {_shown(new)}"


def _plain(value: Any) -> Any:
    """As JSON has it: one of the two may have been read."""
    return json.loads(json.dumps(value)) if isinstance(value, (Mapping, list, tuple)) else value


def _shown(value: Any) -> str:
    if value is None:
        return "not said"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:16]}…"
