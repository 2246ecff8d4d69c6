"""What users write → checkpoints: names inside files, the hub's cache, SAELens's list."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from sae_guard.checkpoints.hub import fetch
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.checkpoints.reference import Checkpoint, resolve
from sae_guard.errors import InfrastructureError, SetupError
from tests.helpers.checkpoint_files import example_sae, write_saelens

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with one repository in it, and no network."""
    repository = tmp_path / "hub" / "models--someone--saes"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "refs" / "v2").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    write_saelens(snapshot / "layer_3" / "width_10", example_sae())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return snapshot


@pytest.mark.parametrize("revision", ["", "@main", "@v2", f"@{COMMIT}"])
def test_the_hub_is_read_from_its_cache(cache: Path, revision: str) -> None:
    (checkpoint,) = resolve(f"hf://someone/saes/layer_3/width_10{revision}", Path("/"))
    assert checkpoint.path == cache / "layer_3" / "width_10"
    assert str(checkpoint) == f"hf://someone/saes/layer_3/width_10@{COMMIT}"


def test_a_name_in_a_file_of_the_hub(cache: Path) -> None:
    (cache / "saes.pt").write_bytes(b"")
    (checkpoint,) = resolve("hf://someone/saes/saes.pt@main#blocks.1", Path("/"))
    assert (checkpoint.path, checkpoint.name) == (cache / "saes.pt", "blocks.1")
    assert str(checkpoint) == f"hf://someone/saes/saes.pt@{COMMIT}#blocks.1"


def test_only_the_files_of_the_checkpoint_are_asked_for(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: dict[str, list[str]] = {}

    def download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        requests[repository] = allow_patterns
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    fetch("hf://someone/saes/layer_3/width_10")
    names = set(requests["someone/saes"])
    assert {
        "layer_3/width_10",
        "layer_3/width_10/cfg.json",
        "layer_3/width_10/sae_weights.safetensors",
        "layer_3/width_10/params.npz",
        "layer_3/config.json",
        "config.json",
    } <= names
    assert not any("*" in name for name in names)


@pytest.mark.parametrize(
    "reference", ["hf://someone", "hf://someone/", "hf:///saes", "hf://someone/saes/a@b@c"]
)
def test_malformed_references(reference: str) -> None:
    with pytest.raises(SetupError, match="expected hf://organisation/repository/path@revision"):
        resolve(reference, Path("/"))


@pytest.mark.parametrize("reference", ["hf://someone/others", "hf://someone/saes/x@other"])
def test_offline_the_error_names_the_cache(
    cache: Path, tmp_path: Path, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InfrastructureError) as caught:
        resolve(reference, Path("/"))
    assert f"{reference} is not in the cache {tmp_path / 'hub'}" in str(caught.value)


def test_a_path_that_was_never_downloaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = "hf://someone/saes/layer_4"

    def offline(*args: object, **kwargs: object) -> list[str]:
        raise OfflineModeIsEnabled("offline mode is enabled")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", offline)
    with pytest.raises(InfrastructureError, match=r"layer_4 is not in the cache .*cannot be asked"):
        resolve(reference, Path("/"))
    monkeypatch.setattr(
        huggingface_hub.HfApi, "list_repo_files", lambda *a, **k: ["layer_3/width_10/cfg.json"]
    )
    with pytest.raises(SetupError, match=r"no checkpoint at this path .*; did you mean layer_3"):
        resolve(reference, Path("/"))


def test_a_name_after_the_path(tmp_path: Path) -> None:
    (tmp_path / "saes.pt").write_bytes(b"")
    (tmp_path / "a#b.pt").write_bytes(b"")
    assert resolve("saes.pt#x.y", tmp_path) == [Checkpoint(tmp_path / "saes.pt", "x.y")]
    assert resolve("a#b.pt", tmp_path) == [Checkpoint(tmp_path / "a#b.pt")]
    assert resolve("a#b.pt#1", tmp_path) == [Checkpoint(tmp_path / "a#b.pt", "1")]
    with pytest.raises(SetupError, match="no checkpoint at"):
        resolve("gone.pt#x", tmp_path)


@pytest.fixture
def list_of_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    release = SimpleNamespace(
        repo_id="someone/saes",
        saes_map={"layer_3": "layer_3/width_10", "layer_4": "layer_4"},
        norm_scaling_factor={"layer_3": 0.5},
        config_overrides={"normalize_activations": "none", "dataset_path": "x"},
    )
    module = types.ModuleType("sae_lens.loading.pretrained_saes_directory")
    module.get_pretrained_saes_directory = lambda: {"mine": release}  # type: ignore[attr-defined]
    for name in ("sae_lens", "sae_lens.loading"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("list_of_releases")
def test_a_release_of_saelens_with_what_only_the_list_knows(cache: Path) -> None:
    (checkpoint,) = resolve("sae_lens://mine/layer_3", Path("/"))
    assert checkpoint.path == cache / "layer_3" / "width_10"
    assert checkpoint.options == SaeOptions(scale=0.5, normalize="none")
    assert str(checkpoint).startswith("hf://someone/saes/layer_3/width_10@")


@pytest.mark.usefixtures("list_of_releases")
@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("sae_lens://mini/layer_3", "no release 'mini'; did you mean mine?"),
        ("sae_lens://mine/layer_5", "has no SAE 'layer_5'; did you mean"),
        ("sae_lens://mine", "has no SAE ''; allowed: layer_3, layer_4"),
    ],
)
def test_releases_that_are_not_listed(reference: str, message: str) -> None:
    with pytest.raises(SetupError) as caught:
        resolve(reference, Path("/"))
    assert message in str(caught.value)


def test_without_saelens_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    for name in [n for n in sys.modules if n.startswith("sae_lens.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SetupError, match=r"needs SAELens 6, .* pip install sae-lens"):
        resolve("sae_lens://mine/layer_3", Path("/"))
