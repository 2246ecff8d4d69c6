"""Drawn files: whatever the bytes and the tensors, `load` and `declare` raise `LoadError` only."""

from __future__ import annotations

import pickle
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_guard.checkpoints.declare import declare
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.locate import SUFFIXES
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.checkpoints.tensor_files import read_entries
from sae_guard.errors import LoadError
from tests.attacks.containers import WRITERS, Foreign, pickle_of_foreign, raw_pickle, write
from tests.helpers.examples import examples

_STARTS = st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95", b"\x1f\x8b\x08\x00",
                           b"\x93NUMPY\x01\x00", b"\x08" + bytes(7) + b"{}"])  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(start=_STARTS, data=st.binary(max_size=300))
def test_any_bytes_are_refused(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, start: bytes, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / f"sae{suffix}"
    path.write_bytes(start + data)
    with pytest.raises(LoadError, match="sae"):
        load(path)
    declare(path)


_CODES = sorted(value for name, value in vars(pickle).items()
                if name.isupper() and isinstance(value, bytes) and len(value) == 1)  # fmt: skip
_STEPS = st.one_of(
    st.sampled_from(_CODES),
    st.sampled_from(
        [b"cos\nsystem\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
         b"ctorch\nFloatStorage\n", b"ctorch.storage\n_load_from_bytes\n", b"ctorch\nSize\n",
         b"K\x01", b"K\x00", b"X\x01\x00\x00\x00a", b")", b"}", b"]", b"(", b"t", b"R", b"q\x00"]
    ),
)  # fmt: skip


@settings(max_examples=examples(3))
@given(steps=st.lists(_STEPS, max_size=30), container=st.sampled_from(["zip", "old", "pkl"]))
def test_any_steps_of_a_pickle_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, steps: list[bytes], container: str
) -> None:
    path = tmp_path_factory.mktemp("steps") / WRITERS[container][0]
    raw_pickle(container, path, b"\x80\x04" + b"".join(steps) + b".", a=bytes(4))
    with suppress(LoadError):
        read_entries(path)
    with suppress(LoadError):
        load(path)


_NAMES = st.sampled_from(
    re.split(
        r"\s+",
        """W_enc W_dec b_enc b_dec b_dec_out threshold log_threshold scaling_factor W_skip b_mag
    r_mag b_gate encoder.weight encoder.bias decoder.weight decoder.bias bias dict k gate_bias
    mag_bias pre_bias latent_bias activation activation_state_dict cfg state_dict tied_bias
    thresholds encoder_linear.weight encoder_linear.bias decoder_linear.weight decoder_linear.bias
    jumprelu.log_threshold pre_encoder_bias._bias_reference dictionary._weights D E b
    dictionary.multiplier encoder.final_block.0.weight encoder.final_block.0.bias
    w_enc w_dec affine_skip_connection log_jumprelu_threshold __record__ __list__
    blocks-0-hook.encoder.0.weight blocks-0-hook.decoder.weight W_enc_0 W_dec_0 model sae""",
    )
)
_TENSORS = st.lists(st.sampled_from([0, 1, 2, 6, 10]), max_size=3).flatmap(
    lambda shape: st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.int64]).map(
        lambda dtype: torch.ones(shape, dtype=dtype)
    )
)
_PLAIN = st.sampled_from([None, True, 3, -1, 0.5, float("nan"), "ReLU", "TopK", b"a", [], [1], {},
                          {"d_in": 6}, {"k": 3}, (1,), {1}, torch.float32])  # fmt: skip
_OPTIONS = st.sampled_from(
    [None, SaeOptions(architecture="standard", pre_bias=True, normalize="none"),
     SaeOptions(architecture="topk", k=3, pre_bias=False, normalize="none")]
)  # fmt: skip


@settings(max_examples=examples(3))
@given(
    content=st.dictionaries(
        _NAMES,
        _TENSORS | _PLAIN | st.dictionaries(_NAMES, _TENSORS | _PLAIN, max_size=4),
        max_size=7,
    ),
    options=_OPTIONS,
    container=st.sampled_from(["zip", "pkl"]),
    name=st.sampled_from([None, "0", "blocks-0-hook"]),
)
def test_any_entries_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    content: dict[str, Any],
    options: SaeOptions | None,
    container: str,
    name: str | None,
) -> None:
    path = write(container, tmp_path_factory.mktemp("entries"), content)
    with suppress(LoadError):
        load(path, options, name=name)
    with suppress(LoadError):
        declare(path)


_CLASSES = st.sampled_from(
    [("sparse_autoencoder.autoencoder.model", "SparseAutoencoderState"),
     ("overcomplete.sae.base", "SAE"), ("overcomplete.sae.topk_sae", "TopKSAE"),
     ("overcomplete.sae.dictionary", "DictionaryLayer"), ("torch.nn.modules.linear", "Linear"),
     ("sae_training.config", "LanguageModelSAERunnerConfig"), ("x", "Y")]
)  # fmt: skip
_FIELDS = st.sampled_from(
    """__dict__ state_dict config cfg d_in d_sae d_out hook_point hook_point_layer is_transcoder
    _parameters _buffers _modules encoder dictionary final_block 0 weight bias _weights multiplier
    nb_concepts dimensions top_k thresholds running_threshold normalization n_components
    n_input_features n_learned_features component_names activation_fn dtype training _forward_hooks
    _fused_dictionary delta
    __items__""".split()  # noqa: SIM905
)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    states = st.dictionaries(_FIELDS | _NAMES, inner, max_size=6)
    return states | st.builds(
        lambda name, state: Foreign(name[0], name[1], state), _CLASSES, states
    )


@settings(max_examples=examples(3))
@given(
    content=_objects(st.recursive(_TENSORS | _PLAIN, _objects, max_leaves=12)),
    name=st.sampled_from([None, "0"]),
)
def test_any_foreign_objects_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: Any, name: str | None
) -> None:
    path = tmp_path_factory.mktemp("objects") / "sae.pkl"
    path.write_bytes(pickle_of_foreign(content))
    with suppress(LoadError):
        load(path, name=name)


@settings(max_examples=examples(1.5))
@given(
    content=st.dictionaries(_NAMES, _TENSORS, min_size=1, max_size=7),
    options=_OPTIONS,
    container=st.sampled_from(["npz", "safetensors"]),
)
def test_any_tensors_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    content: dict[str, torch.Tensor],
    options: SaeOptions | None,
    container: str,
) -> None:
    if container == "npz":
        content = {name: tensor.float() for name, tensor in content.items()}
    path: Path = write(container, tmp_path_factory.mktemp("tensors"), content)
    with suppress(LoadError):
        load(path, options)
    with suppress(LoadError):
        declare(path)
