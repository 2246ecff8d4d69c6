"""Record → the case that measures it again, from what the record itself says."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sae_guard.checkpoints.options import parse
from sae_guard.checkpoints.reference import Checkpoint
from sae_guard.errors import SetupError
from sae_guard.gate.cases import Case
from sae_guard.history.record import HistoryError, Recorded
from sae_guard.specs import ModelSpec, Spec, read_data


class _Model(BaseModel):
    name: str
    revision: str | None = None
    processing: str
    dtype: str


class _Checkpoint(BaseModel):
    files: dict[str, str]
    model_name: Any = None
    """As the checkpoint calls the model."""


class _Corpus(BaseModel):
    source: dict[str, Any]
    sha256: str
    n_sequences: int


class Needed(BaseModel):
    """The parts of a provenance without which nothing is measured again."""

    model: _Model
    checkpoint: _Checkpoint
    corpus: _Corpus
    formula_versions: dict[str, int]
    versions: dict[str, str]
    device: str


def needed(recorded: Recorded) -> Needed:
    """Raises `HistoryError` where the record does not say enough."""
    try:
        return Needed.model_validate(recorded.record.provenance)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        key = ".".join(map(str, ("provenance", *detail["loc"])))
        raise HistoryError(f"{recorded.path}: {key}: {detail['msg']}") from error


def case_of(
    recorded: Recorded,
    checkpoint: Checkpoint,
    member: str,
    base: Path,
    *,
    specs: Sequence[Spec] = (),
    model: str | None = None,
) -> Case:
    """What measures the checkpoint as the record's was.

    Thresholds are none of the case; of columns on request it asks for those that were recorded.

    Args:
        recorded: The record.
        checkpoint: Supposed to be the same.
        member: Name of the checkpoint in reports.
        base: Folder that relative paths of the record's data start from.
        specs: The documents of a spec file, if model and data are to be taken from there.
        model: Name or folder of the model, if it is elsewhere.

    Raises:
        HistoryError: The record does not say enough.
        SetupError: No spec is of its place, or what it says is not known to this version.
    """
    told = needed(recorded)
    spec = _spec_of(recorded, specs, told) if specs else _spec(recorded, told, base)
    known = tuple(dict.fromkeys(filter(None, [*spec.model.aliases, _text(told)])))
    changed = {"aliases": known, **({"name": model} if model else {})}
    spec = replace(spec, model=spec.model.model_copy(update=changed), thresholds=(), pareto=None)
    metrics = recorded.record.metrics
    asked = "kl_random_error" in metrics and metrics["kl_random_error"].value is not None
    options = parse(recorded.record.checkpoint.options)
    return Case(spec, member, checkpoint, (), options, compared=asked)


def _text(told: Needed) -> str | None:
    # The checkpoint's own name of the model was accepted when it was recorded, by an alias of the
    # spec: its files are the same.
    name = told.checkpoint.model_name
    return name if isinstance(name, str) else None


def _spec(recorded: Recorded, told: Needed, base: Path) -> Spec:
    record = recorded.record
    try:
        model = ModelSpec.model_validate(told.model.model_dump())
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        key = ".".join(map(str, ("provenance.model", *detail["loc"])))
        raise SetupError(f"{recorded.path}: {key}: {detail['msg']}") from None
    return Spec(
        name=record.spec.name,
        model=model,
        hook=record.hook,
        hook_out=record.hook_out,
        data=read_data(told.corpus.source),
        checkpoint=None,
        sae=parse({}),
        thresholds=(),
        file=base / Path(record.spec.file).name,
        line=0,
        spec_file=record.spec.file,
    )


def _spec_of(recorded: Recorded, specs: Sequence[Spec], told: Needed) -> Spec:
    """The document that is of the record's place, by its name where there are several."""
    record = recorded.record
    place = (record.hook, record.hook_out)
    fit = [spec for spec in specs if (spec.hook, spec.hook_out) == place]
    fit = [spec for spec in fit if spec.name == record.spec.name] or fit
    if len(fit) != 1:
        found = ", ".join(f"{spec.name} ({spec.hook})" for spec in specs)
        raise SetupError(
            f"{specs[0].file} has {len(fit)} specs of {record.hook}, where "
            f"{record.spec.name} was recorded; it has {found}"
        )
    (spec,) = fit
    for key in ("dtype", "processing"):
        was, now = getattr(told.model, key), getattr(spec.model, key)
        if was != now:
            raise SetupError(f"{spec.file}: model.{key} is {now}, the record is of {was}")
    return spec


def base_of(recorded: Recorded, root: Path) -> Path:
    """The folder that a spec of the record would lie in, in the project at ``root``."""
    return Path(os.path.normpath(root / Path(recorded.record.spec.file).parent))


def as_json(identity: Any) -> Any:
    """As a record has it."""
    return json.loads(json.dumps(identity))
