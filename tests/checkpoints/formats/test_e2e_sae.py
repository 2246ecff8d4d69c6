"""Files of e2e_sae, against its forward pass, and their traps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

X = torch.linspace(-3, 4, 48).view(2, 4, 6)
HOOKS = ("blocks.2.hook_resid_pre", "blocks.6.hook_resid_pre", "blocks.10.hook_mlp_out")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def weights(hook: str) -> dict[str, Tensor]:
    """The tensors of one SAE; the columns of its decoder are not of length 1."""
    seed = len(hook) + int(hook.split(".")[1])
    return {
        "encoder.0.weight": draw(10, 6, seed=seed),
        "encoder.0.bias": draw(10, seed=seed),
        "decoder.weight": draw(6, 10, seed=seed) * 3,
        "decoder.bias": draw(6, seed=seed),
    }


def write(folder: Path, *hooks: str, saes: Any = None, **changes: Any) -> Path:
    tensors = {
        f"{hook.replace('.', '-')}.{name}": tensor
        for hook in hooks
        for name, tensor in weights(hook).items()
    }
    settings = {
        "type_of_sparsifier": "sae",
        "dict_size_to_input_ratio": 10 / 6,
        "k": None,
        "pretrained_sae_paths": None,
        "retrain_saes": False,
        "sae_positions": list(hooks),
    }
    config = {
        "tlens_model_name": "gpt2-small",
        "tlens_model_path": None,
        "train_data": {"n_ctx": 1024},
        "saes": {**settings, **saes} if isinstance(saes, dict) else saes or settings,
    }
    (folder / "final_config.yaml").write_text(yaml.dump({**config, **changes}))
    torch.save(tensors, folder / "samples_400000.pt")
    return folder / "samples_400000.pt"


def compare(sae: Any, hook: str) -> None:
    w = weights(hook)
    latents = torch.relu(X @ w["encoder.0.weight"].T + w["encoder.0.bias"])
    columns = w["decoder.weight"]
    expected = latents @ (columns / columns.norm(dim=0)).T + w["decoder.bias"]
    mine = sae(X)
    assert torch.equal(mine.latents != 0, latents != 0)
    torch.testing.assert_close(mine.latents, latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.reconstruction, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("hook", HOOKS)
def test_trap_several_saes_per_file_are_named_with_hyphens(tmp_path: Path, hook: str) -> None:
    path = write(tmp_path, *HOOKS)
    for name in (hook, hook.replace(".", "-")):
        sae = load(path, name=name)
        compare(sae, hook)
        assert sae.source.path == f"{path}#{hook}"
        assert sae.source.declared["hook_name"] == hook
        assert sae.source.declared["model_name"] == "gpt2-small"
        assert sae.source.declared["context_size"] == 1024
        assert declare(path, name) == Declaration("gpt2-small", hook)


def test_which_of_several_has_to_be_said(tmp_path: Path) -> None:
    path = write(tmp_path, *HOOKS)
    with pytest.raises(LoadError, match=r"holds 3 SAEs; say which: .*#blocks.2.hook_resid_pre or"):
        load(path)
    with pytest.raises(LoadError, match=r"no SAE 'blocks.6.hook_resid_post'; did you mean blocks."):
        load(path, name="blocks.6.hook_resid_post")
    assert declare(path) == Declaration("gpt2-small")


def test_the_only_sae_needs_no_name(tmp_path: Path) -> None:
    path = write(tmp_path, HOOKS[1])
    compare(load(path), HOOKS[1])
    assert declare(path) == Declaration("gpt2-small", HOOKS[1])
    (tmp_path / "final_config.yaml").unlink()
    compare(load(path), HOOKS[1])
    assert load(path).source.declared["hook_name"] == HOOKS[1]


def test_a_position_may_be_a_part_of_a_name(tmp_path: Path) -> None:
    path = write(tmp_path, HOOKS[1], saes={"sae_positions": ["hook_resid_pre"]})
    assert declare(path) == Declaration("gpt2-small")
    assert declare(path, HOOKS[1]) == Declaration("gpt2-small", HOOKS[1])


def test_trap_the_stored_decoder_is_not_of_unit_norm(tmp_path: Path) -> None:
    sae = load(write(tmp_path, HOOKS[0]))
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(10))
    (assumption,) = sae.source.assumptions
    assert assumption.startswith("decoder rows, stored with lengths ")
    assert assumption.endswith("are divided by them, as e2e_sae does in every forward pass")


def test_trap_no_bias_is_taken_off_the_input(tmp_path: Path) -> None:
    path = write(tmp_path, HOOKS[0])
    assert load(path).b_pre is None
    with pytest.raises(LoadError, match="says pre_bias False, the `sae` options say True"):
        load(path, SaeOptions(pre_bias=True))


@pytest.mark.parametrize(
    ("saes", "message"),
    [
        ({"type_of_sparsifier": "codebook"}, "type_of_sparsifier is 'codebook', allowed: 'sae'"),
        ({"dict_size_to_input_ratio": 60}, "dict_size_to_input_ratio is 60, but the weights have"),
        ({"dict_size_to_input_ratio": float("inf")}, "dict_size_to_input_ratio is inf"),
        ({"dict_size_to_input_ratio": [2]}, "dict_size_to_input_ratio is [2]"),
        ({"layer_norm": True}, "saes: layer_norm = True: not understood; allowed keys: "),
        ([1], "saes is [1], expected an object"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, saes: Any, message: str) -> None:
    with pytest.raises(LoadError) as caught:
        load(write(tmp_path, HOOKS[0], saes=saes))
    assert message in str(caught.value)


def test_tensors_that_are_refused(tmp_path: Path) -> None:
    def message(**changes: Tensor) -> str:
        tensors = {f"blocks-0-hook_z.{name}": t for name, t in weights(HOOKS[0]).items()}
        tensors = {n: t for n, t in {**tensors, **changes}.items() if t.numel()}
        torch.save(tensors, tmp_path / "sae.pt")
        with pytest.raises(LoadError) as caught:
            load(tmp_path / "sae.pt", name="blocks.0.hook_z")
        return str(caught.value)

    gone = torch.empty(0)
    codebook = {"blocks-0-hook_z.codebook": draw(10, 6), "blocks-0-hook_z.encoder.0.weight": gone}
    assert "codebook: codebooks are not read" in message(**codebook)
    assert "not understood: gain" in message(**{"blocks-0-hook_z.gain": draw(10)})
    assert "missing: b_enc" in message(**{"blocks-0-hook_z.encoder.0.bias": gone})
    assert "no matrix of floats blocks-0-hook_z.decoder.weight" in message(
        **{"blocks-0-hook_z.decoder.weight": draw(6)}
    )
    other = {f"x.{name}": tensor for name, tensor in weights(HOOKS[0]).items()}
    assert "no matrix of floats blocks-0-hook_z.decoder.weight" in message(
        **other, **{"blocks-0-hook_z.decoder.weight": gone}
    )
