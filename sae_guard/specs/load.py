"""Load a spec file as `Spec`s, one per YAML document; all its problems are in one `SpecError`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sae_guard.checkpoints.options import SaeOptions
from sae_guard.core.pareto import Pareto
from sae_guard.core.targets import Slice
from sae_guard.core.thresholds import Threshold
from sae_guard.errors import SetupError, SpecError
from sae_guard.specs import checks, strict_yaml, thresholds
from sae_guard.specs.messages import explain, yaml_path
from sae_guard.specs.models import DataSpec, DocumentModel, MembersSpec, ModelSpec
from sae_guard.specs.strict_yaml import KeyPath
from sae_guard.specs.thresholds import BoundsModel
from sae_guard.specs.values import flatten_statistics

Problem = tuple[int, str]
"""Line of the file, and what is wrong there."""


@dataclass(frozen=True)
class Spec:
    """One document of a spec file."""

    name: str
    # Names and meanings of the fields are those of `DocumentModel`, whose schema describes them.
    model: ModelSpec
    hook: str
    hook_out: str | None
    """Hook point that a transcoder writes to; None where it is ``hook``."""
    data: DataSpec
    checkpoint: str | None
    """Checkpoint to gate when a run names none: a path from the spec's folder, or a reference."""
    sae: SaeOptions
    thresholds: tuple[Threshold, ...]
    file: Path
    line: int
    spec_file: str
    """Path of the file from the project's root folder, as messages and reports print it."""
    pareto: Pareto | None = None
    """Pareto threshold: no record may dominate the checkpoint in these two metrics."""
    fast: bool = False
    """True if a run may stop measuring as soon as every verdict is certain enough."""
    alpha: float | None = None
    """Largest chance that an early verdict differs from the verdict on the whole token set."""
    baseline: str | None = None
    """Recorded version that thresholds on changes compare with."""
    members: MembersSpec = field(default_factory=MembersSpec)
    """Members that are expected to be new, or gone, since the baseline."""
    strict_env: bool = False
    """True if a baseline from another device or other library versions is an error."""

    @property
    def title(self) -> str:
        """``file::document``, as messages and records name the spec."""
        return f"{self.spec_file}::{self.name}"


_COPIED_FIELDS = {field.name for field in fields(Spec)} & DocumentModel.model_fields.keys() - {
    "name", "thresholds", "pareto",
}  # fmt: skip
"""Fields of `Spec` that are copied from the document unchanged."""


def load_specs(path: Path, *, display: str | None = None) -> tuple[Spec, ...]:
    """Load the specs of a YAML file, one per YAML document.

    Args:
        path: The file; relative paths in it start from its folder.
        display: Name of the file in messages; by default its path.

    Returns:
        The specs in the order of the file, at least one.

    Raises:
        SpecError: Unreadable or malformed; the message has a line ``file:line: …`` per problem.
    """
    file_name = display or str(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpecError(f"unreadable: {error.strerror}", file=file_name, line=1) from error
    return parse_specs(data, path, display=file_name)


def parse_specs(data: bytes, path: Path, *, display: str | None = None) -> tuple[Spec, ...]:
    """Parse the bytes of a spec file, which need not be on disk yet.

    Args:
        data: Content of the file.
        path: Where the file is or will be; relative paths in it start from its folder.
        display: Name of the file in messages; by default its path.

    Returns:
        The specs in the order of the file, at least one.

    Raises:
        SpecError: Malformed; the message has a line ``file:line: …`` per problem.
    """
    file_name = display or str(path)
    try:
        documents = strict_yaml.read(data)
    except strict_yaml.YamlError as error:
        raise SpecError(error.message, file=file_name, line=error.line) from None
    if not documents:
        raise SpecError("the file is empty, expected a spec", file=file_name, line=1)
    problems: list[Problem] = []
    valid_specs = []
    for document in documents:
        spec = _spec(document, path, file_name, problems)
        if spec is not None:
            valid_specs.append(spec)
    problems.extend(_name_problems(valid_specs))
    if problems:
        raise spec_error(problems, file_name)
    return tuple(valid_specs)


def read_data(block: Mapping[str, Any]) -> DataSpec:
    """Validate the ``data`` block of a spec that comes from Python instead of a file.

    Raises:
        SetupError: Malformed; the message lists every problem.
    """
    try:
        return DataSpec.model_validate(block)
    except ValidationError as error:
        raise SetupError("; ".join(text for _, text in explain(error, ("data",)))) from None


def spec_error(problems: Iterable[Problem], file: str) -> SpecError:
    """Combine one or more problems of a file into one error, in the order of their lines."""
    (line, text), *later = sorted(dict.fromkeys(problems), key=lambda problem: problem[0])
    more_lines = "".join(f"\n{file}:{line}: {text}" for line, text in later)
    return SpecError(text + more_lines, file=file, line=line)


def _spec(
    document: strict_yaml.YamlDocument, path: Path, file_name: str, problems: list[Problem]
) -> Spec | None:
    """Return the spec of a document, or append what is wrong to ``problems`` and return None."""
    if not isinstance(document.value, dict):
        content = "nothing" if document.value is None else repr(document.value)
        problems.append((document.line, f"the document holds {content}, expected a mapping"))
        return None
    count_before = len(problems)
    try:
        model = DocumentModel.model_validate(document.value)
    except ValidationError as error:
        for key_path, text in explain(error):
            problems.append((document.line_of(yaml_path(key_path)), text))
        # Go on to the bounds that are well-formed: users see all their mistakes at once.
        problems.extend(_bound_problems(document, (), _valid_bounds(document.value)))
        return None
    for block, bounds_by_name, slice in model.blocks:
        problems.extend(_bound_problems(document, block, bounds_by_name, slice))
    for key_path, text in checks.problems(model):
        problems.append((document.line_of(yaml_path(key_path)), text))
    # `Threshold` raises on some of these problems: build none from a spec that has any.
    if len(problems) > count_before:
        return None
    return Spec(
        **{name: getattr(model, name) for name in _COPIED_FIELDS},
        name=model.name or model.hook,
        thresholds=tuple(_thresholds(document, model, file_name)),
        file=path,
        line=document.line,
        spec_file=file_name,
        pareto=_pareto(document, model, file_name),
    )


def _pareto(
    document: strict_yaml.YamlDocument, model: DocumentModel, file_name: str
) -> Pareto | None:
    if model.pareto is None:
        return None
    line = document.line_of(("thresholds", "pareto"))
    return Pareto(model.pareto.x, model.pareto.y, file_name, line)


def _thresholds(
    document: strict_yaml.YamlDocument, model: DocumentModel, file: str
) -> Iterator[Threshold]:
    for block, bounds_by_name, slice in model.blocks:
        for name, bounds in bounds_by_name.items():
            line = document.line_of(yaml_path((*block, "thresholds", name)))
            yield from thresholds.to_thresholds(name, bounds, file=file, line=line, slice=slice)


def _valid_bounds(value: Mapping[str, Any]) -> dict[str, BoundsModel]:
    """Return the well-formed bounds of a document that is otherwise malformed.

    So that one error lists the problems of these bounds too.
    """
    try:
        bounds_by_name = flatten_statistics(value.get("thresholds"))
    except ValueError:
        return {}  # the validation of the document reports it
    valid: dict[str, BoundsModel] = {}
    # A `thresholds` that is no mapping is reported by the document's validation too.
    for name, bounds in bounds_by_name.items() if isinstance(bounds_by_name, dict) else ():
        try:
            valid[name] = BoundsModel.model_validate(bounds)
        except ValidationError:
            continue  # likewise
    return valid


def _bound_problems(
    document: strict_yaml.YamlDocument,
    block: KeyPath,
    bounds_by_name: Mapping[str, BoundsModel],
    slice: Slice | None = None,
) -> Iterator[Problem]:
    for name, bounds in bounds_by_name.items():
        for keys, text in thresholds.problems(name, bounds, slice):
            yield document.line_of(yaml_path((*block, "thresholds", name, *keys))), text


def _name_problems(specs: list[Spec]) -> Iterator[Problem]:
    first_line: dict[str, int] = {}
    for spec in specs:
        if spec.name in first_line:
            yield (
                spec.line,
                f"name {spec.name!r} is taken by the document on line {first_line[spec.name]}; "
                "give each document its own `name` (default: its hook)",
            )
        first_line.setdefault(spec.name, spec.line)
