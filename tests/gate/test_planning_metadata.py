"""Metadata of a loaded checkpoint that contradict the spec are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sae_guard.errors import LoadError
from sae_guard.gate.planning import check_metadata
from sae_guard.specs import Spec, load_specs

HOOK, WRITTEN = "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"
TEXT = f"""\
model: gpt2
hook: {HOOK}
data: {{text: a.txt, prepend_bos: true}}
thresholds: {{kl: {{max: 0.1}}}}
"""


def load(folder: Path, text: str = TEXT) -> Spec:
    """Load the spec with this text."""
    (folder / "s.yaml").write_text(text)
    (one,) = load_specs(folder / "s.yaml")
    return one


METADATA: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"model_name": "gpt2", "hook_name": "blocks.1.hook_resid_pre", "prepend_bos": True}, None),
    ({"context_size": 4096, "seqpos_slice": [None]}, None),
    ({"exclude_special_tokens": True}, None),
    ({"model_from_pretrained_kwargs": {}}, None),
    ({"model_from_pretrained_kwargs": {"center_writing_weights": False}}, None),
    ({"model_from_pretrained_kwargs": ["odd"]}, None),
    ({"hook_name": "blocks.2.hook_resid_pre"}, "its hook point is blocks.2.hook_resid_pre"),
    ({"hook_name_out": WRITTEN}, f"it replaces {WRITTEN}, the spec's hook_out is none"),
    ({"model_name": "pythia"}, "its model is 'pythia', the spec's is 'gpt2'"),
    ({"model_name": ["gpt2"]}, "model_name is ['gpt2'], expected text"),
    ({"hook_name": 3}, "hook_name is 3, expected text"),
    ({"hook_name_out": {}}, "hook_name_out is {}, expected text"),
    ({"prepend_bos": False}, "it was trained with prepend_bos false, the spec has `data: {prepend"),
    ({"prepend_bos": "no"}, "it was trained with prepend_bos no"),
    (
        {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
        "it was trained with center_writing_weights true, which is `model: {processing: hooked}`",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("metadata", "message"), METADATA)
def test_metadata_of_a_loaded_checkpoint_must_not_contradict_the_spec(
    tmp_path: Path, metadata: dict[str, Any], message: str | None
) -> None:
    one = load(tmp_path)
    if message is None:
        check_metadata(one, metadata, "v1")
        return
    with pytest.raises(LoadError) as caught:
        check_metadata(one, metadata, "v1")
    assert str(caught.value).startswith(f"v1: {message}")
    assert caught.value.contract == "metadata"


def test_special_tokens_excluded_in_training_must_not_be_included(tmp_path: Path) -> None:
    one = load(tmp_path, TEXT.replace("a.txt", "a.txt, special_tokens: include"))
    check_metadata(one, {"exclude_special_tokens": False}, "v1")
    for excluded in (True, [0, 2]):
        with pytest.raises(LoadError, match="trained with exclude_special_tokens"):
            check_metadata(one, {"exclude_special_tokens": excluded}, "v1")


def test_a_transcoder_may_leave_out_the_hook_point_it_replaces(tmp_path: Path) -> None:
    one = load(tmp_path, TEXT.replace("hook:", f"hook_out: {WRITTEN}\nhook:"))
    for metadata in ({"hook_name": HOOK}, {"hook_name": HOOK, "hook_name_out": WRITTEN}, {}):
        check_metadata(one, metadata, "v1")
