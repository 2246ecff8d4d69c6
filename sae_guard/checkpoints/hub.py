"""Checkpoints of the Hugging Face hub: ``hf://organisation/repository/path@revision``."""

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
    """A downloaded checkpoint of the hub: its local path and its reference."""

    path: Path
    origin: str
    """The reference with the commit in place of the revision."""
    path_in_repository: str
    """Path below the root of the repository; empty for the root itself."""
    name: str | None


def fetch(reference: str) -> Fetched:
    """Download the files of one checkpoint, and no others, into the cache of the hub.

    Raises:
        SetupError: The reference is malformed, or there is no such repository, revision or file.
        InfrastructureError: The hub cannot be reached and the files are not in the cache.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise SetupError(
            f"{reference!r} is malformed, expected {PREFIX}organisation/repository/path@revision"
        )
    repository, revision = match["repository"], match["revision"]
    path = match["path"].strip("/")
    snapshot = _snapshot(reference, repository, revision, _candidate_files(path))
    local_path = snapshot / path
    if not local_path.exists() or (local_path.is_dir() and not any(local_path.iterdir())):
        raise _missing_error(reference, repository, revision, path)
    origin = "/".join(filter(None, [f"{PREFIX}{repository}", path]))
    # The cache of the hub names the folder of a snapshot by its commit.
    return Fetched(local_path, f"{origin}@{snapshot.name}", path, match["name"])


def _candidate_files(path: str) -> list[str]:
    """List the files to ask for: the path, and the weights and configs of every format there."""
    target = PurePosixPath(path)
    parents = target.parents
    files = [path] if path else []
    for format in FORMATS:
        names = [name for f in format.folders for name in (f.config, f.weights) if name]
        files += [str(target / name) for name in names]
        configs = [(name, n) for name in format.configs_above for n in (0, 1)]
        configs += [
            (location.config.format(stem=target.stem), n)
            for location in format.config_locations
            for n in location.levels_up
        ]
        files += [str(parents[n] / name) for name, n in configs if n < len(parents)]
    return files


def _snapshot(reference: str, repository: str, revision: str | None, files: list[str]) -> Path:
    """Download the files, and return the folder of the cache for the revision."""
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
        return Path(snapshot_download(repository, revision=revision, allow_patterns=files))
    # Before HfHubHTTPError, from which the first two derive.
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise SetupError(f"{reference}: {_first_line(error)}") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InfrastructureError(
            f"{reference} is not in the cache {HF_HUB_CACHE} and cannot be downloaded: "
            f"{_first_line(error)}"
        ) from error


def _missing_error(
    reference: str, repository: str, revision: str | None, path: str
) -> SetupError | InfrastructureError:
    """Return the error for a path without a checkpoint; it lists what the repository has."""
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
    return SetupError(
        f"{reference}: no checkpoint at this path of the repository; "
        + allowed(path, {*names, *folders})
    )


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
