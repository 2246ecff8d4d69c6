"""``hf://organisation/repository/path@revision``: checkpoints of the Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sae_guard.checkpoints.formats import FORMATS
from sae_guard.errors import InfrastructureError, SetupError, allowed

PREFIX = "hf://"
_REFERENCE = re.compile(
    r"hf://(?P<repository>[^/@#]+/[^/@#]+)(?P<path>(/[^/@#]+)*)/?"
    r"(@(?P<revision>[^@#]+))?(#(?P<name>.+))?"
)


@dataclass(frozen=True)
class Fetched:
    """Where a checkpoint of the hub lies on this machine."""

    path: Path
    origin: str
    """The reference with the commit in place of the revision."""
    name: str | None


def fetch(reference: str) -> Fetched:
    """Download the files of a checkpoint, and no others, into the cache of the hub.

    Raises:
        SetupError: The reference is malformed, or there is no such repository, revision or file.
        InfrastructureError: The hub cannot be reached and the files are not in the cache.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise SetupError(
            f"{reference!r} is no reference, expected {PREFIX}organisation/repository/path@revision"
        )
    repository, revision = match["repository"], match["revision"]
    path = match["path"].strip("/")
    snapshot = _snapshot(reference, repository, revision, _wanted(path))
    found = snapshot / path
    if not found.exists() or (found.is_dir() and not any(found.iterdir())):
        raise _nothing_there(reference, repository, revision, path)
    origin = "/".join(filter(None, [f"{PREFIX}{repository}", path]))
    return Fetched(found, f"{origin}@{snapshot.name}", match["name"])


def _wanted(path: str) -> list[str]:
    """List what to download: a file, or a folder in any format, and configs beside and above."""
    here = PurePosixPath(path)
    above = here.parents
    wanted = [path] if path else []
    for format in FORMATS:
        names = [name for f in format.folders for name in (f.config, f.weights) if name]
        wanted += [str(here / name) for name in names]
        configs = [(name, n) for name in format.configs_above for n in (0, 1)]
        configs += [(b.config.format(stem=here.stem), n) for b in format.beside for n in b.above]
        wanted += [str(above[n] / name) for name, n in configs if n < len(above)]
    return wanted


def _snapshot(reference: str, repository: str, revision: str | None, wanted: list[str]) -> Path:
    """The folder of the cache that holds the revision."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise SetupError(f"{reference}: {_first_line(error)}") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InfrastructureError(
            f"{reference} is not in the cache {HF_HUB_CACHE} and cannot be downloaded: "
            f"{_first_line(error)}"
        ) from error


def _nothing_there(
    reference: str, repository: str, revision: str | None, path: str
) -> SetupError | InfrastructureError:
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        names = HfApi().list_repo_files(repository, revision=revision)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        return InfrastructureError(
            f"{reference}: {path or 'a checkpoint'} is not in the cache {HF_HUB_CACHE}, and the "
            f"hub cannot be asked: {_first_line(error)}"
        )
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    return SetupError(f"{reference}: no checkpoint there; {allowed(path, {*names, *folders})}")


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
