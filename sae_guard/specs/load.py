"""Spec file → specs; all that is wrong with it in one `SpecError`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sae_guard.checkpoints.options import SaeOptions
from sae_guard.core.pareto import Pareto
from sae_guard.core.targets import Slice
from sae_guard.core.thresholds import Threshold
from sae_guard.errors import SetupError, SpecError
from sae_guard.specs import checks, strict_yaml
from sae_guard.specs import thresholds as bounds
from sae_guard.specs.messages import Path as Keys
from sae_guard.specs.messages import explain, written
from sae_guard.specs.models import DataSpec, DocumentModel, ModelSpec
from sae_guard.specs.thresholds import Bounds
from sae_guard.specs.values import flat

Problem = tuple[int, str]
"""Line and text."""


@dataclass(frozen=True)
class Spec:
    """One document of a spec file."""

    name: str
    model: ModelSpec
    hook: str
    hook_out: str | None
    """What a transcoder replaces."""
    data: DataSpec
    checkpoint: str | None
    """Gated when the command line names none: a path from the spec's folder, or a reference."""
    sae: SaeOptions
    thresholds: tuple[Threshold, ...]
    file: Path
    line: int
    spec_file: str
    """Path of the file from the project's root folder, as messages and reports have it."""
    pareto: Pareto | None = None
    """That no record may dominate the checkpoint."""
    fast: bool = False
    """Whether a run may stop once its verdicts stand."""
    alpha: float | None = None
    """Chance that one of these is not that of the whole set."""
    baseline: str | None = None
    """Recorded version that thresholds on changes compare with."""
    strict_env: bool = False
    """Whether a baseline of another device or other versions of libraries is refused."""


_AS_WRITTEN = {field.name for field in fields(Spec)} & DocumentModel.model_fields.keys() - {
    "name", "thresholds", "pareto",
}  # fmt: skip
"""Fields that are taken from the document as they are."""


def load_specs(path: Path, *, display: str | None = None) -> tuple[Spec, ...]:
    """The specs of a YAML file, one per document.

    Args:
        path: The file; relative paths in it start from its folder.
        display: What to call it in messages.

    Raises:
        SpecError: Unreadable or malformed; the message has a line ``file:line: …`` per problem.
    """
    shown = display or str(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpecError(f"unreadable: {error.strerror}", file=shown, line=1) from error
    return parse_specs(data, path, display=shown)


def parse_specs(data: bytes, path: Path, *, display: str | None = None) -> tuple[Spec, ...]:
    """As `load_specs`, of what the file at ``path`` holds or is to hold."""
    shown = display or str(path)
    try:
        documents = strict_yaml.read(data)
    except strict_yaml.YamlError as error:
        raise SpecError(error.message, file=shown, line=error.line) from None
    if not documents:
        raise SpecError("the file is empty, expected a spec", file=shown, line=1)
    problems: list[Problem] = []
    specs = [_spec(document, path, shown, problems) for document in documents]
    made = [spec for spec in specs if spec is not None]
    problems.extend(_name_problems(made))
    if problems:
        raise spec_error(problems, shown)
    return tuple(made)


def read_data(block: Mapping[str, Any]) -> DataSpec:
    """The ``data`` block of a spec, from Python; raises `SetupError` with all that is wrong."""
    try:
        return DataSpec.model_validate(block)
    except ValidationError as error:
        raise SetupError("; ".join(text for _, text in explain(error, ("data",)))) from None


def spec_error(problems: Iterable[Problem], file: str) -> SpecError:
    """One error of one problem or more."""
    (line, text), *others = sorted(dict.fromkeys(problems), key=lambda problem: problem[0])
    rest = "".join(f"\n{file}:{line}: {text}" for line, text in others)
    return SpecError(text + rest, file=file, line=line)


def _spec(
    document: strict_yaml.Document, path: Path, shown: str, problems: list[Problem]
) -> Spec | None:
    """The spec of a document; None when it adds to the problems."""
    if not isinstance(document.value, dict):
        found = "nothing" if document.value is None else repr(document.value)
        problems.append((document.line, f"the document holds {found}, expected a mapping"))
        return None
    before = len(problems)
    try:
        valid = DocumentModel.model_validate(document.value)
    except ValidationError as error:
        for found_path, text in explain(error):
            problems.append((document.line_of(written(found_path)), text))
        problems.extend(_bound_problems(document, (), _valid_bounds(document.value)))
        return None
    problems.extend(_bound_problems(document, (), valid.thresholds))
    for index, part in enumerate(valid.slices):
        at = ("slices", index)
        problems.extend(_bound_problems(document, at, part.thresholds, part.slice))
    for keys, text in checks.problems(valid):
        problems.append((document.line_of(written(keys)), text))
    if len(problems) > before:
        return None
    return Spec(
        **{name: getattr(valid, name) for name in _AS_WRITTEN},
        name=valid.name or valid.hook,
        thresholds=(
            *_thresholds(document, (), valid.thresholds, shown),
            *(
                threshold
                for index, part in enumerate(valid.slices)
                for threshold in _thresholds(
                    document, ("slices", index), part.thresholds, shown, part.slice
                )
            ),
        ),
        file=path,
        line=document.line,
        spec_file=shown,
        pareto=_pareto(document, valid, shown),
    )


def _pareto(document: strict_yaml.Document, valid: DocumentModel, shown: str) -> Pareto | None:
    if valid.pareto is None:
        return None
    line = document.line_of(("thresholds", "pareto"))
    return Pareto(valid.pareto.x, valid.pareto.y, shown, line)


def _thresholds(
    document: strict_yaml.Document,
    at: Keys,
    thresholds: Mapping[str, Bounds],
    shown: str,
    slice: Slice | None = None,
) -> Iterator[Threshold]:
    for name, given in thresholds.items():
        line = document.line_of(written((*at, "thresholds", name)))
        yield from bounds.thresholds(name, given, file=shown, line=line, slice=slice)


def _valid_bounds(value: Mapping[str, Any]) -> dict[str, Bounds]:
    """The bounds that are well-formed, in a document that is not."""
    try:
        thresholds = flat(value.get("thresholds"))
    except ValueError:
        return {}  # told by the document's own validation
    found: dict[str, Bounds] = {}
    for name, given in thresholds.items() if isinstance(thresholds, dict) else ():
        try:
            found[name] = Bounds.model_validate(given)
        except ValidationError:
            continue  # likewise
    return found


def _bound_problems(
    document: strict_yaml.Document,
    at: Keys,
    thresholds: Mapping[str, Bounds],
    slice: Slice | None = None,
) -> Iterator[Problem]:
    for name, given in thresholds.items():
        for below, text in bounds.problems(name, given, slice):
            yield document.line_of(written((*at, "thresholds", name, *below))), text


def _name_problems(specs: list[Spec]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for spec in specs:
        if spec.name in first:
            yield (
                spec.line,
                f"name {spec.name!r} is taken by the document on line {first[spec.name]}; give "
                "each document its own `name` (default: its hook)",
            )
        first.setdefault(spec.name, spec.line)
