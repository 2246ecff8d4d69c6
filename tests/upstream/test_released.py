"""Files of published releases, loaded here and through SAELens's converters: the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from sae_guard.checkpoints.declare import declare
from sae_guard.checkpoints.load import load
from tests.helpers.drawn import X, check, draw
from tests.helpers.releases import (
    circuit_tracer,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    neel,
    qwen_scope,
)

pytest.importorskip("sae_lens", reason="runs in the environment of `make test-saelens`")

SIZES = {"d_in": 6, "d_sae": 10, "dtype": "float32"}
Convert = Callable[..., tuple[dict[str, Any], dict[str, Tensor], Any]]


@pytest.fixture
def loaders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """SAELens's converters, which find ``tmp_path/<repository>`` where they would download."""
    from huggingface_hub.errors import EntryNotFoundError
    from sae_lens.loading import pretrained_sae_loaders

    def local(repo_id: str, filename: str, subfolder: str | None = None, **ignored: Any) -> str:
        path = tmp_path / repo_id.split("/")[1] / (subfolder or "") / filename
        if not path.exists():
            raise EntryNotFoundError(str(path))
        return str(path)

    def shapes(repo_id: str, filename: str, **ignored: Any) -> dict[str, list[int]]:
        return {n: list(t.shape) for n, t in load_file(local(repo_id, filename)).items()}

    monkeypatch.setattr(pretrained_sae_loaders, "hf_hub_download", local)
    monkeypatch.setattr(pretrained_sae_loaders, "get_safetensors_tensor_shapes", shapes)
    return pretrained_sae_loaders


def compare(loaders: Any, convert: Convert, repository: str, folder: str, path: Path) -> Any:
    """Load both ways; SAELens's config is returned."""
    from sae_lens import SAE

    config, weights, _ = convert(repository, folder, "cpu", cfg_overrides=dict(SIZES))
    new = loaders.handle_pre_6_0_config(config)
    kind = SAE.get_sae_class_for_architecture(new["architecture"])
    theirs = kind(kind.get_sae_config_class_for_architecture(new["architecture"]).from_dict(new))
    theirs.process_state_dict_for_loading(weights)
    theirs.load_state_dict({n: t.float() for n, t in weights.items()})
    if config.get("reshape_activations") == "hook_z":
        theirs.turn_off_forward_pass_hook_z_reshaping()  # it flattens heads; X is flat
    with torch.no_grad():
        latents = theirs.encode(X)
        latents = latents.to_dense() if latents.is_sparse else latents
        check(load(path), latents, theirs(X))
    return config


@pytest.mark.parametrize(
    "folder", ["layer_3/width_16k/average_l0_5", "embedding/width_4k/average_l0_6"]
)
def test_gemma_scope(loaders: Any, tmp_path: Path, folder: str) -> None:
    path = tmp_path / "gemma-scope-2b-pt-res" / folder
    gemma_scope.write(path)
    convert = loaders.gemma_2_sae_huggingface_loader
    config = compare(loaders, convert, "google/gemma-scope-2b-pt-res", folder, path)
    assert declare(path).hook == config["hook_name"]
    assert declare(path).model_name == config["model_name"]


def test_gemma_scope_transcoders(loaders: Any, tmp_path: Path) -> None:
    folder = "layer_3/width_16k/average_l0_5"
    path = tmp_path / "gemma-scope-2b-pt-transcoders" / folder
    gemma_scope.write(path)

    def convert(*arguments: Any, cfg_overrides: dict[str, Any]) -> Any:
        return loaders.gemma_2_transcoder_huggingface_loader(
            *arguments, cfg_overrides={**cfg_overrides, "d_out": 6}
        )

    config = compare(loaders, convert, "google/gemma-scope-2b-pt-transcoders", folder, path)
    assert declare(path).hook_out == config["hook_name_out"]


@pytest.mark.parametrize(
    ("folder", "skip"),
    [
        ("resid_post/layer_12_width_16k_l0_small", False),
        ("transcoder_all/layer_5_width_16k_l0_big", False),
        ("transcoder_all/layer_5_width_16k_l0_big_affine", True),
    ],
)
def test_gemma_scope_2(loaders: Any, tmp_path: Path, folder: str, skip: bool) -> None:
    path = tmp_path / "gemma-scope-2-270m-pt" / folder
    gemma_scope_2.write(path, skip=skip)
    convert = loaders.gemma_3_sae_huggingface_loader
    config = compare(loaders, convert, "google/gemma-scope-2-270m-pt", folder, path)
    assert declare(path).hook_out == config.get("hook_name_out")
    assert f"google/{declare(path).model_name}" == config["model_name"]


def test_qwen_scope(loaders: Any, tmp_path: Path) -> None:
    folder = tmp_path / qwen_scope.FOLDER
    qwen_scope.write(folder)
    convert = loaders.qwen_scope_sae_huggingface_loader
    path = folder / "layer3.sae.pt"
    config = compare(loaders, convert, f"Qwen/{folder.name}", "layer3.sae.pt", path)
    assert declare(path).hook == config["hook_name"]
    assert f"Qwen/{declare(path).model_name}" == config["model_name"]


@pytest.mark.parametrize("skip", [False, True])
def test_mwhanna(loaders: Any, tmp_path: Path, skip: bool) -> None:
    folder = tmp_path / "qwen3-4b-transcoders"
    more = {"W_skip": draw(6, 6)} if skip else None
    circuit_tracer.write(folder, circuit_tracer.CONFIG, more)
    wandb = {name: {"value": 6} for name in ("d_model", "d_feature", "batch_size")}
    (folder / "wandb-config.yaml").write_text(yaml.safe_dump(wandb))

    def convert(*arguments: Any, cfg_overrides: dict[str, Any]) -> Any:
        kind = "skip_transcoder" if skip else "transcoder"
        declared = {"architecture": kind, "model_from_pretrained_kwargs": {}}
        return loaders.mwhanna_transcoder_huggingface_loader(
            *arguments, cfg_overrides={**cfg_overrides, **declared}
        )

    path = folder / "layer_3.safetensors"
    config = compare(loaders, convert, "mwhanna/qwen3-4b-transcoders", path.name, path)
    assert declare(path).hook == config["hook_name"]
    assert declare(path).hook_out == config["hook_name_out"]


def test_deepseek(loaders: Any, tmp_path: Path) -> None:
    name = goodfire.DEEPSEEK
    path = tmp_path / name / f"{name}.pt"
    goodfire.write(path, dtype=torch.bfloat16)
    convert = loaders.deepseek_r1_sae_huggingface_loader
    config = compare(loaders, convert, f"qresearch/{name}", path.name, path)
    assert declare(path).hook == config["hook_name"]


def test_goodfire(loaders: Any, tmp_path: Path) -> None:
    name = "Llama-3.1-8B-Instruct-SAE-l19"
    path = tmp_path / name / f"{name}.pth"
    goodfire.write(path, "_linear")
    convert = loaders.get_goodfire_huggingface_loader
    config = compare(loaders, convert, f"Goodfire/{name}", path.name, path)
    assert declare(path).hook == config["hook_name"]


def test_attention_saes(loaders: Any, tmp_path: Path) -> None:
    folder = tmp_path / "attn-saes-gpt2-small-all-layers"
    folder.mkdir()
    neel.write(folder, neel.ATTENTION)
    convert = loaders.connor_rob_hook_z_huggingface_loader
    config = compare(loaders, convert, f"ckkissane/{folder.name}", "25.pt", folder / "25.pt")
    assert declare(folder / "25.pt").hook == config["hook_name"]
