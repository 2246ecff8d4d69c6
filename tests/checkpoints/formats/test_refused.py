"""Formats that hold no SAE of one token at one hook point: refused by name, and nothing else is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from safetensors.torch import save_file

from sae_guard.checkpoints.format import Opened
from sae_guard.checkpoints.formats import FORMATS, refused
from sae_guard.checkpoints.load import load, open_checkpoint
from sae_guard.errors import LoadError
from sae_guard.sae import SAE
from tests.helpers.checkpoint_files import saelens_saes, tensors_of, write_saelens

TEMPORAL = (
    "recognised as temporal SAE and refused: its latents of a token depend on the tokens before it"
)
LORSA = "recognised as Lorsa and refused: it replaces an attention layer"
MOLT = "recognised as mixture of linear transforms (MOLT) and refused: its latents have"
CLT = "recognised as cross-layer transcoder and refused: each of its layers writes to all"
CROSSCODER = (
    "recognised as crosscoder and refused: it reads and reconstructs several hook points or models"
)
PURSUIT = "recognised as matching pursuit SAE and refused: its encoder is a search in steps"


def ones(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {name.replace("__", "."): torch.ones(shape) for name, shape in shapes.items()}


PLAIN = ones(W_enc=(6, 10), W_dec=(10, 6), b_enc=(10,), b_dec=(6,))
HEADS = ones(W_Q=(2, 6, 3), W_K=(2, 6, 3), W_V=(10, 6), W_O=(10, 6), b_Q=(2, 3), b_V=(10,))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (ones(D=(10, 6), b=(6,), attn_layers__0__k_ctx__weight=(3, 6)), TEMPORAL),
        (ones(W_dec=(10, 6), b_dec=(6,), attn_layers__0__v_ctx__bias=(6,)), TEMPORAL),
        (HEADS, LORSA),
        ({"sae": HEADS, "version": "2"}, LORSA),
        (ones(W_E=(6, 10), b_E=(10,), U_matrices__4=(10, 6, 4), V_matrices__4=(10, 4, 6)), MOLT),
        (ones(W_enc_0=(10, 6), b_enc_0=(10,), b_dec_0=(6,)), CLT),
        (ones(W_dec_11=(10, 3, 6)), CLT),
        (ones(w_enc=(6, 10), w_dec=(10, 3, 6), b_enc=(10,), b_dec=(3, 6), threshold=(10,)), CLT),
        (ones(encoder__weight=(10, 6), W_decs__0=(10, 6), b_decs__0=(6,)), CLT),
        (ones(W_E=(2, 6, 10), b_E=(2, 10), W_D__0=(1, 10, 6), W_D__1=(2, 10, 6)), CLT),
        (ones(W_E=(2, 6, 10), b_E=(2, 10), W_D=(2, 10, 6), b_D=(2, 6)), CROSSCODER),
        (ones(W_enc=(2, 6, 10), W_dec=(10, 2, 6), b_enc=(10,), b_dec=(2, 6)), CROSSCODER),
        (
            ones(encoder__weight=(2, 6, 10), encoder__bias=(10,), decoder__weight=(2, 10, 6),
                 decoder__bias=(2, 6)),
            CROSSCODER,
        ),
        (ones(W_dec=(10, 6), b_dec=(6,)), PURSUIT),
    ],
)  # fmt: skip
def test_trap_saes_that_mix_positions_or_layers_are_refused_by_their_keys(
    tmp_path: Path, tensors: dict[str, Any], message: str
) -> None:
    path = tmp_path / "sae.pt"
    torch.save(tensors, path)
    with pytest.raises(LoadError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("config", "weights", "content", "message"),
    [
        ("cfg.json", "sae_weights.safetensors", {"architecture": "temporal"}, TEMPORAL),
        ("cfg.json", "sae_weights.safetensors", {"architecture": "matching_pursuit"}, PURSUIT),
        ("conf.yaml", "latest_ckpt.safetensors", {"sae": {"scaling_factor": 0.1}}, TEMPORAL),
        ("cfg.json", "cc_weights.pt", {"d_in": 6}, CROSSCODER),
        ("config.json", "sae_weights.safetensors", {"sae_type": "lorsa"}, LORSA),
        ("config.json", "sae_weights.safetensors", {"sae_type": "molt"}, MOLT),
        ("config.json", "sae_weights.safetensors", {"sae_type": "clt"}, CLT),
        ("config.json", "sae_weights.safetensors", {"sae_type": "crosscoder"}, CROSSCODER),
    ],
)
def test_by_config(
    tmp_path: Path, config: str, weights: str, content: dict[str, Any], message: str
) -> None:
    (tmp_path / config).write_text(json.dumps(content))  # which is YAML as well
    if weights.endswith(".pt"):
        torch.save(PLAIN, tmp_path / weights)
    else:
        save_file(PLAIN, tmp_path / weights)
    with pytest.raises(LoadError) as caught:
        load(tmp_path)
    assert message in str(caught.value)


def test_one_that_is_named_in_it_is_refused_for_the_same_reason(tmp_path: Path) -> None:
    torch.save(HEADS, tmp_path / "sae.pt")
    with pytest.raises(LoadError, match="recognised as Lorsa and refused"):
        load(tmp_path / "sae.pt", name="blocks.3")


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    """Makes objects of classes that can be imported while they are written."""

    def make(module_name: str, class_name: str) -> Any:
        module = ModuleType(module_name)
        for name in (module_name.partition(".")[0], module_name):
            monkeypatch.setitem(sys.modules, name, module)
        cls = type(class_name, (), {"__module__": module_name})
        setattr(module, class_name, cls)
        instance = cls()
        instance.autoencoders = [torch.ones(2, 2)]
        return instance

    return make


def test_learned_dicts(tmp_path: Path, foreign: Callable[[str, str], Any]) -> None:
    one = foreign("autoencoders.learned_dict", "UntiedSAE")
    path = tmp_path / "learned_dicts.pt"
    for content in ([(one, {"l1_alpha": 0.1}), (one, {})], {"0": one}, one):
        torch.save(content, path)
        with pytest.raises(LoadError, match="recognised as learned dicts and refused: they are"):
            load(path)


def test_sae_group(tmp_path: Path, foreign: Callable[[str, str], Any]) -> None:
    path = tmp_path / "group.pt"
    torch.save(foreign("sae_training.sae_group", "SAEGroup"), path)
    with pytest.raises(LoadError, match="recognised as SAEGroup and refused: it is an object"):
        load(path)


def test_trap_a_list_that_holds_itself_is_no_circle(tmp_path: Path) -> None:
    content: list[Any] = []
    content.append(content)
    opened = Opened(path=tmp_path, weights=tmp_path, entries={"__list__": content})
    assert not any(row.matches(opened) for row in refused.FORMATS)


@given(sae=saelens_saes())
def test_nothing_that_is_read_is_refused(
    tmp_path_factory: pytest.TempPathFactory, sae: SAE
) -> None:
    folder = write_saelens(tmp_path_factory.mktemp("sae"), sae)
    bare = folder / "bare.pt"
    torch.save(tensors_of(sae), bare)
    for path in (folder, bare):
        opened = open_checkpoint(path)
        assert [row.name for row in refused.FORMATS if row.matches(opened)] == []


@pytest.mark.parametrize(
    "tensors",
    [
        ones(tied_bias=(2, 6), encoder__weight=(2, 10, 6), encoder__bias=(2, 10),
             decoder__weight=(2, 6, 10)),
        ones(bias=(6,), encoder__weight=(10, 6), encoder__bias=(10,), decoder__weight=(6, 10)),
        ones(w_enc=(6, 10), w_dec=(10, 6), b_enc=(10,), b_dec=(6,), threshold=(10,)),
        ones(W_enc=(10, 6), W_dec=(10, 6), b_enc=(10,), b_dec=(6,), W_skip=(6, 6)),
    ],
)  # fmt: skip
def test_files_of_other_formats_are_not_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    torch.save(tensors, tmp_path / "sae.pt")
    opened = open_checkpoint(tmp_path / "sae.pt")
    assert not any(row.matches(opened) for row in refused.FORMATS)


def test_the_table_of_formats_says_so() -> None:
    assert FORMATS[: len(refused.FORMATS)] == refused.FORMATS
    for row in FORMATS:
        assert row.holds.startswith("refused: ") == row.refused == (row in refused.FORMATS)


def test_what_is_read_does_not_list_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError) as caught:
        load(tmp_path)
    assert "SAELens 6" in str(caught.value)
    assert "Lorsa" not in str(caught.value)
