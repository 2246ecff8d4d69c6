"""Build the case that measures a recorded checkpoint again, from the record itself."""

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
from sae_guard.history.record import HistoryError, Recorded, first_problem
from sae_guard.specs import ModelSpec, Spec, read_data


class _Model(BaseModel):
    name: str
    revision: str | None = None
    processing: str
    dtype: str


class _Checkpoint(BaseModel):
    files: dict[str, str]
    model_name: Any = None
    """Name of the model in the checkpoint's own metadata; None if it has none."""


class _Corpus(BaseModel):
    source: dict[str, Any]
    sha256: str
    n_sequences: int


class Needed(BaseModel):
    """Parts of a record's provenance that are needed to measure it again."""

    model: _Model
    checkpoint: _Checkpoint
    corpus: _Corpus
    formula_versions: dict[str, int]
    versions: dict[str, str]
    device: str


def needed(recorded: Recorded) -> Needed:
    """Return the parts of the provenance that are needed to measure a record again.

    Raises:
        HistoryError: One of them is missing or malformed.
    """
    try:
        return Needed.model_validate(recorded.record.provenance)
    except ValidationError as error:
        problem = first_problem(error, "provenance")
        raise HistoryError(f"{recorded.path}: {problem}") from error


def case_of(
    recorded: Recorded,
    checkpoint: Checkpoint,
    member: str,
    base: Path,
    *,
    specs: Sequence[Spec] = (),
    model: str | None = None,
) -> Case:
    """Return the case that measures a checkpoint as the record's checkpoint was measured.

    It has no thresholds. It measures the optional columns that the record has.

    Args:
        recorded: The record.
        checkpoint: The checkpoint, supposed to be the recorded one.
        member: Name of the checkpoint in reports.
        base: Folder that relative paths of the record's data start from.
        specs: Documents of a spec file to take model and data from; empty to take them from the
            record.
        model: Name or folder of the model, instead of the recorded one.

    Raises:
        HistoryError: The provenance of the record is incomplete.
        SetupError: Not exactly one spec has the hook point of the record, its model settings
            differ, or this version does not support the recorded ones.
    """
    provenance = needed(recorded)
    if specs:
        spec = _matching_spec(recorded, specs, provenance)
    else:
        spec = _recorded_spec(recorded, provenance, base)
    # The checkpoint may call the model by an alias, which the spec accepted for the record.
    alias = provenance.checkpoint.model_name
    names = [*spec.model.aliases, alias if isinstance(alias, str) else ""]
    aliases = tuple(dict.fromkeys(filter(None, names)))
    changes = {"aliases": aliases, **({"name": model} if model else {})}
    spec = replace(spec, model=spec.model.model_copy(update=changes), thresholds=(), pareto=None)
    metrics = recorded.record.metrics
    random_error = "kl_random_error" in metrics and metrics["kl_random_error"].value is not None
    options = parse(recorded.record.checkpoint.options)
    # `compared` asks for the random error, which no threshold does here.
    return Case(spec, member, checkpoint, (), options, compared=random_error)


def _recorded_spec(recorded: Recorded, provenance: Needed, base: Path) -> Spec:
    record = recorded.record
    try:
        model = ModelSpec.model_validate(provenance.model.model_dump())
    except ValidationError as error:
        problem = first_problem(error, "provenance", "model")
        raise SetupError(f"{recorded.path}: {problem}") from None
    return Spec(
        name=record.spec.name,
        model=model,
        hook=record.hook,
        hook_out=record.hook_out,
        data=read_data(provenance.corpus.source),
        checkpoint=None,
        sae=parse({}),
        thresholds=(),
        file=base / Path(record.spec.file).name,
        line=0,
        spec_file=record.spec.file,
    )


def _matching_spec(recorded: Recorded, specs: Sequence[Spec], provenance: Needed) -> Spec:
    """Return the spec with the hook points of the record; of several, the one with its name."""
    record = recorded.record
    hooks = (record.hook, record.hook_out)
    matches = [spec for spec in specs if (spec.hook, spec.hook_out) == hooks]
    matches = [spec for spec in matches if spec.name == record.spec.name] or matches
    if len(matches) != 1:
        documents = ", ".join(f"{spec.name} ({spec.hook})" for spec in specs)
        raise SetupError(
            f"{specs[0].file} has {len(matches)} specs of {record.hook}, the hook point of the "
            f"record; expected one (named {record.spec.name}, if several); it has {documents}"
        )
    (spec,) = matches
    for key in ("dtype", "processing"):
        old, new = getattr(provenance.model, key), getattr(spec.model, key)
        if old != new:
            raise SetupError(f"{spec.file}: model.{key} is {new}, but the record has {old}")
    return spec


def base_of(recorded: Recorded, root: Path) -> Path:
    """Return the folder of the record's spec file, in the project at ``root``."""
    return Path(os.path.normpath(root / Path(recorded.record.spec.file).parent))


def as_json(identity: Any) -> Any:
    """Return the identity as JSON reads it back, so that it can equal the one in a record."""
    return json.loads(json.dumps(identity))
