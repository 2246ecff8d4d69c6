"""`sae_release.yaml`: the members of one version, where each lies, and what became of earlier ones.

version: v2.0
members:
  layer_0/k16: layer_0/k16        # from the folder of this file; or hf://…
  layer_0/k32: layer_0/k32
formerly:
  layer_0/k32: layer_0/wide       # its name in the version before
removed: [layer_1/k16]            # in the version before, and not in this one on purpose
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from sae_guard.errors import SetupError, SpecError, allowed
from sae_guard.specs import strict_yaml
from sae_guard.specs.load import spec_error
from sae_guard.specs.messages import explain
from sae_guard.specs.thresholds import Strict

FILE_NAME = "sae_release.yaml"

_Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Manifest:
    """A manifest: the members of a version, as its file lists them."""

    file: Path
    version: str
    members: dict[str, str] = field(hash=False)
    """Name → reference of its checkpoint, from the folder of the file."""
    formerly: dict[str, str] = field(default_factory=dict, hash=False)
    """Name → name in the version before, of members that were renamed."""
    removed: Sequence[str] = field(default=(), hash=False)
    """Names in the version before of members that this version does not have on purpose."""

    @property
    def folder(self) -> Path:
        """Folder that references start from."""
        return self.file.parent


class _ManifestModel(Strict):
    version: _Text = Field(description="the version, such as v2.0")
    members: dict[_Text, _Text] = Field(
        min_length=1, description="a mapping of names to the checkpoints of this version"
    )
    formerly: dict[_Text, _Text] = Field(default_factory=dict)
    removed: list[_Text] = Field(default_factory=list)


def nearest(path: Path) -> Path | None:
    """Return the nearest manifest at or above a checkpoint; None without one."""
    files = (folder / FILE_NAME for folder in (path, *path.parents))
    return next((file for file in files if file.is_file()), None)


def load(file: Path) -> Manifest:
    """Read a manifest.

    Raises:
        SpecError: It is malformed; the message has a line for each problem.
    """
    try:
        documents = strict_yaml.read(file.read_bytes())
    except OSError as error:
        raise SpecError(f"unreadable: {error.strerror}", file=str(file), line=1) from error
    except strict_yaml.YamlError as error:
        raise SpecError(error.message, file=str(file), line=error.line) from None
    if len(documents) != 1 or not isinstance(documents[0].value, dict):
        raise SpecError("expected one mapping: version and members", file=str(file), line=1)
    document = documents[0]
    try:
        model = _ManifestModel.model_validate(document.value)
    except ValidationError as error:
        problems = list(explain(error, root=_ManifestModel))
    else:
        manifest = Manifest(file, **model.model_dump())
        problems = list(_problems(manifest))
        if not problems:
            return manifest
    raise spec_error(((document.line_of(path), text) for path, text in problems), str(file))


def check(manifest: Manifest) -> None:
    """Raise `SetupError` where names of a manifest contradict each other."""
    if problems := [text for _, text in _problems(manifest)]:
        raise SetupError("; ".join(problems))


def to_yaml(manifest: Manifest) -> str:
    """Return the text of a manifest, which `load` reads."""
    content = {"version": manifest.version, "members": manifest.members}
    content |= {"formerly": manifest.formerly} if manifest.formerly else {}
    content |= {"removed": list(manifest.removed)} if manifest.removed else {}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _problems(manifest: Manifest) -> Iterator[tuple[strict_yaml.KeyPath, str]]:
    """Yield what the members, their earlier names and the removed ones contradict."""
    for name in manifest.formerly.keys() - manifest.members.keys():
        yield (
            ("formerly", name),
            f"`formerly.{name}` is no member; {allowed(name, manifest.members)}",
        )
    earlier = Counter(manifest.formerly.get(name, name) for name in manifest.members)
    for name, count in earlier.items():
        if count > 1:
            yield (
                ("formerly",),
                f"{count} members were {name!r} in the version before, expected one",
            )
    for name in manifest.removed:
        if name in earlier:
            yield ("removed",), f"{name!r} is removed, but a member is or was called so"
