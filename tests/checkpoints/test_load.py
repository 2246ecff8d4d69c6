"""Any SAE, saved in any format that can hold it, is recognised and computes the same again."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import NOTHING_SAID, SaeOptions
from sae_guard.sae import SAE
from sae_guard.sae.activations import AbsTopK, Gated, GroupMax, JumpReLU, ReLU, TopK
from sae_guard.testing import saes
from tests.helpers.checkpoint_files import tensors_of, write_saelens
from tests.helpers.examples import examples

Written = tuple[Path, SaeOptions]
Writer = Callable[[SAE, Path], Written | None]


def is_plain(sae: SAE, *, pre_bias: bool) -> bool:
    """Return whether only the activation and a pre-bias differ from a standard SAE."""
    return (
        not sae.transcoder
        and sae.normalize == "none"
        and sae.rescale_by_decoder_norm == "none"
        and sae.latent_scale is None
        and (sae.scale_in, sae.scale_out) == (1.0, 1.0)
        and (sae.b_pre is not None) == pre_bias
        and not getattr(sae.activation, "inclusive", False)
    )


def ordinary(sae: SAE) -> SAE:
    """The same weights and activation, with nothing else out of the ordinary."""
    activation = sae.activation
    if isinstance(activation, JumpReLU):
        activation = replace(activation, inclusive=False)
    return replace(
        sae,
        activation=activation,
        normalize="none",
        rescale_by_decoder_norm="none",
        latent_scale=None,
        scale_in=1.0,
        scale_out=1.0,
    )


def linear(sae: SAE) -> dict[str, Tensor]:
    return {
        "encoder.weight": sae.W_enc.T.contiguous(), "encoder.bias": sae.b_enc,
        "decoder.weight": sae.W_dec.T.contiguous(),
    }  # fmt: skip


def saelens(sae: SAE, folder: Path) -> Written | None:
    kinds = {ReLU: "standard", TopK: "topk", AbsTopK: "abstopk", JumpReLU: "jumprelu"}
    kind = {**kinds, Gated: "gated"}.get(type(sae.activation))
    rescaled = sae.rescale_by_decoder_norm
    scaled = sae.latent_scale is not None or (sae.scale_in, sae.scale_out) != (1.0, 1.0)
    fits = rescaled == "none" or (rescaled == "latents" and kind in ("topk", "abstopk"))
    inclusive = getattr(sae.activation, "inclusive", False)
    if kind is None or scaled or not fits or inclusive or sae.transcoder:
        return None
    return write_saelens(folder, sae), NOTHING_SAID


def saelens_transcoder(sae: SAE, folder: Path) -> Written | None:
    kinds = {ReLU: "", JumpReLU: "jumprelu_"}
    plain = sae.latent_scale is None and (sae.scale_in, sae.scale_out) == (1.0, 1.0)
    rescaled = sae.rescale_by_decoder_norm != "none" or getattr(sae.activation, "inclusive", False)
    if not sae.transcoder or type(sae.activation) not in kinds or not plain or rescaled:
        return None
    if sae.b_pre is not None:
        return None
    skip = "skip_" if sae.W_skip is not None else ""
    config = {
        "architecture": f"{kinds[type(sae.activation)]}{skip}transcoder",
        "d_in": sae.d_in, "d_sae": sae.d_sae, "d_out": sae.d_out, "dtype": "float32",
        "normalize_activations": sae.normalize, "apply_b_dec_to_input": False,
        "metadata": {"sae_lens_version": "6.54.12"},
    }  # fmt: skip
    tensors = tensors_of(sae) | ({} if sae.W_skip is None else {"W_skip": sae.W_skip})
    return write_saelens(folder, sae, config=config, tensors=tensors), NOTHING_SAID


def dictionary_learning(sae: SAE, folder: Path) -> Written | None:
    name: str | None = None
    tensors: dict[str, Tensor] = {}
    if is_plain(sae, pre_bias=True) and isinstance(sae.activation, ReLU):
        name, tensors = "AutoEncoder", {**linear(sae), "bias": sae.b_dec}
    elif is_plain(sae, pre_bias=False) and isinstance(sae.activation, ReLU):
        name, tensors = "AutoEncoderNew", {**linear(sae), "decoder.bias": sae.b_dec}
    elif is_plain(sae, pre_bias=False) and isinstance(sae.activation, JumpReLU):
        name, tensors = "JumpReluAutoEncoder", tensors_of(sae)
    elif is_plain(sae, pre_bias=True) and isinstance(sae.activation, TopK):
        own = {"b_dec": sae.b_dec, "k": torch.tensor(sae.activation.k), "threshold": torch.ones(())}
        name, tensors = "AutoEncoderTopK", {**linear(sae), **own}
    elif is_plain(sae, pre_bias=True) and isinstance(sae.activation, Gated):
        gates = {"gate_bias": "b_gate", "mag_bias": "b_mag", "r_mag": "r_mag"}
        name = "GatedAutoEncoder"
        tensors = {theirs: getattr(sae.activation, mine) for theirs, mine in gates.items()}
        tensors |= {**linear(sae), "decoder_bias": sae.b_dec}
        del tensors["encoder.bias"]
    if name is None:
        return None
    torch.save(tensors, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": name}}))
    return folder, NOTHING_SAID


def sparsify(sae: SAE, folder: Path) -> Written | None:
    kinds: dict[type, dict[str, Any]] = {
        TopK: {"activation": "topk"}, GroupMax: {"activation": "groupmax"},
        AbsTopK: {"activation": "topk", "signed": True},
    }  # fmt: skip
    activation_fields = kinds.get(type(sae.activation))
    if activation_fields is None or not is_plain(sae, pre_bias=True):
        return None
    tensors = linear(sae) | {"W_dec": sae.W_dec, "b_dec": sae.b_dec}
    del tensors["decoder.weight"]
    save_file(tensors, folder / "sae.safetensors")
    config = {**activation_fields, "k": getattr(sae.activation, "k", None), "d_in": sae.d_in}
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder, NOTHING_SAID


def gemma_scope(sae: SAE, folder: Path) -> Written | None:
    if not isinstance(sae.activation, JumpReLU) or not is_plain(sae, pre_bias=False):
        return None
    arrays = {name: tensor.numpy() for name, tensor in tensors_of(sae).items()}
    np.savez(folder / "params.npz", allow_pickle=False, **arrays)
    return folder, NOTHING_SAID


def openmoss(sae: SAE, folder: Path) -> Written | None:
    kinds = {ReLU: "relu", TopK: "topk", JumpReLU: "jumprelu"}
    rescaled = sae.rescale_by_decoder_norm
    plain = sae.latent_scale is None and sae.b_pre is None and not sae.transcoder
    inclusive = getattr(sae.activation, "inclusive", False)
    if type(sae.activation) not in kinds or not plain or inclusive or rescaled == "latents":
        return None
    if sae.normalize != "none" or sae.scale_in != sae.scale_out:
        return None
    names = {"W_E": sae.W_enc, "b_E": sae.b_enc, "W_D": sae.W_dec, "b_D": sae.b_dec}
    norm = math.sqrt(sae.d_in) / sae.scale_in
    tensors = {**names, "dataset_average_activation_norm.h": torch.tensor(norm)}
    if isinstance(sae.activation, JumpReLU):
        logarithms = sae.activation.threshold.double().log()
        tensors["activation_function.log_jumprelu_threshold"] = logarithms.to(torch.float32)
    config = {
        "hook_point_in": "h", "hook_point_out": "h", "d_model": sae.d_in,
        "expansion_factor": sae.d_sae / sae.d_in, "act_fn": kinds[type(sae.activation)],
        "top_k": getattr(sae.activation, "k", 1), "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": rescaled == "selection", "use_decoder_bias": True,
    }  # fmt: skip
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder, SaeOptions(scale="stored")


def openai(sae: SAE, folder: Path) -> Written | None:
    plain = is_plain(sae, pre_bias=True)
    if not plain or not isinstance(sae.activation, ReLU):
        return None
    entries = {**linear(sae), "pre_bias": sae.b_dec, "latent_bias": sae.b_enc, "activation": "ReLU"}
    del entries["encoder.bias"]
    torch.save(entries, folder / "8.pt")
    return folder / "8.pt", NOTHING_SAID


def tied(sae: SAE, folder: Path) -> Written | None:
    """The state dict of AI Safety Foundation's library, with an axis of one component."""
    if not isinstance(sae.activation, ReLU) or not is_plain(sae, pre_bias=True):
        return None
    entries = {**linear(sae), "tied_bias": sae.b_dec}
    torch.save({name: tensor[None].clone() for name, tensor in entries.items()}, folder / "sae.pt")
    return folder / "sae.pt", NOTHING_SAID


WRITERS: dict[str, Writer] = {
    writer.__name__: writer
    for writer in (
        saelens, saelens_transcoder, dictionary_learning, sparsify, gemma_scope, openmoss, openai,
        tied,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=examples(0.5), suppress_health_check=[HealthCheck.filter_too_much])
@given(st.data())
def test_saved_recognised_loaded_and_the_same(name: str, data: st.DataObject) -> None:
    d_in, d_sae = data.draw(st.integers(2, 8)), data.draw(st.integers(1, 12))
    sae = data.draw(saes(d_in=d_in, d_sae=d_sae, transcoders=name == "saelens_transcoder"))
    sae = ordinary(sae) if data.draw(st.integers(0, 3)) else sae
    x = torch.randn(3, 4, d_in, generator=torch.Generator().manual_seed(d_sae)) * 3
    with tempfile.TemporaryDirectory() as folder:
        written = WRITERS[name](sae, Path(folder))
        assume(written is not None)
        assert written is not None
        loaded = load(*written)
    assert torch.equal(loaded(x).latents != 0, sae(x).latents != 0)
    torch.testing.assert_close(loaded(x).latents, sae(x).latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        loaded(x).reconstruction, sae(x).reconstruction, rtol=1e-5, atol=1e-4
    )
