"""``sae_lens://release/id``: what SAELens's list of releases calls an SAE."""

from __future__ import annotations

from typing import Any

from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import SetupError, allowed

PREFIX = "sae_lens://"


def look_up(reference: str) -> tuple[str, SaeOptions]:
    """The place on the hub, and the facts of which the list is the only source.

    Raises:
        SetupError: SAELens is not installed, or lists no such release or SAE.
    """
    try:
        from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
    except ImportError as error:
        raise SetupError(
            f"{reference} needs SAELens 6, which is not installed here ({error}): "
            "pip install sae-lens, or write hf://organisation/repository/path"
        ) from error
    release_name, _, sae_id = reference.removeprefix(PREFIX).partition("/")
    releases: dict[str, Any] = get_pretrained_saes_directory()
    if release_name not in releases:
        raise SetupError(f"{reference}: no release {release_name!r}; "
                         + allowed(release_name, releases))  # fmt: skip
    release = releases[release_name]
    if sae_id not in release.saes_map:
        raise SetupError(
            f"{reference}: no SAE {sae_id!r} in it; {allowed(sae_id, release.saes_map)}"
        )
    path = str(release.saes_map[sae_id]).strip("/")
    place = f"hf://{release.repo_id}" + (f"/{path}" if path not in ("", ".") else "")
    said: dict[str, Any] = {}
    if sae_id in release.norm_scaling_factor:
        said["scale"] = float(release.norm_scaling_factor[sae_id])
    normalize = (release.config_overrides or {}).get("normalize_activations")
    if normalize is not None:
        said["normalize"] = normalize
    return place, SaeOptions(**said)
