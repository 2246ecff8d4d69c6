"""Configs that are hostile or broken: each is a `LoadError` that names the file."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.checkpoints.declare import declare
from sae_guard.checkpoints.files import read_config
from sae_guard.checkpoints.load import load
from sae_guard.errors import LoadError
from tests.attacks.containers import refusal, saelens_folder

BROKEN: dict[str, str | bytes] = {
    "empty": "",
    "a blank": " \n",
    "no object": "[1, 2]",
    "a number": "1",
    "null": "null",
    "two objects": "{}{}",
    "cut off": '{"d_in": 6',
    "nested": '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "nested 101 deep": '{"a": ' + "[" * 101 + "]" * 101 + "}",
    "nested objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "5,000 digits": '{"d_in": ' + "9" * 5000 + "}",
    "400 digits": '{"d_in": ' + "9" * 400 + "}",
    "not UTF-8": b'{"d_in": "\xff"}',
    "UTF-16": '{"d_in": 6}'.encode("utf-16"),
    "null bytes": bytes(100),
    "huge": " " * (4 * 2**20 + 1),
    "a million values": '{"a": [' + "0," * 1_100_000 + "0]}",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_json(tmp_path: Path, name: str) -> None:
    folder, text = saelens_folder(tmp_path), BROKEN[name]
    (folder / "cfg.json").write_bytes(text.encode() if isinstance(text, str) else text)
    for read in (load, declare):
        with pytest.raises(LoadError, match=r"cfg\.json"):
            read(folder)


def _bomb() -> str:
    lines = ['a0: &a0 ["x", "x"]'] + [
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 40)
    ]
    return "\n".join(lines)


def _merged() -> str:
    lines = ["a0: &a0 {x: 1}"] + [
        f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}"
        for level in range(1, 12)
    ]
    return "\n".join(lines)


BROKEN_YAML = {
    "aliases that multiply": _bomb(),
    "merges that multiply": _merged(),
    "an alias of itself": "a: &a [*a]",
    "a Python object": 'a: !!python/object/apply:os.system ["touch trace"]',
    "a Python name": "a: !!python/name:os.system",
    "a tab": "a:\n\t- 1",
    "several documents": "a: 1\n---\nb: 2",
    "nested": "a: " + "[" * 20_000,
    "long": "a: 1\n" * 100_000,
    "a hexadecimal number of 10,000 digits": "a: 0x" + "f" * 10_000,
    "5,000 digits": "a: " + "9" * 5000,
    "a number to the base of 60": "a: " + "1" + ":59" * 1000 + ".5",
    "a date that is none": "a: 2024-13-45",
    "a truth that is none": "a: !!bool maybe",
    "a number that is none": 'a: !!int ""',
    "a time that is none": "a: !!timestamp x",
    "a list as a key": "? [1]\n: 1",
    "an empty file": "",
    "control characters": "a: \x01",
}


@pytest.mark.parametrize("name", BROKEN_YAML)
def test_broken_yaml(tmp_path: Path, name: str) -> None:
    path = tmp_path / "final_config.yaml"
    path.write_text(BROKEN_YAML[name])
    start = time.perf_counter()
    with pytest.raises(LoadError, match=r"final_config\.yaml"):
        read_config(path)
    assert time.perf_counter() - start < 20
    assert not Path("trace").exists()


@pytest.mark.parametrize("read", [load, declare])
def test_a_config_that_is_a_folder(tmp_path: Path, read: Any) -> None:
    folder = saelens_folder(tmp_path)
    (folder / "cfg.json").unlink()
    (folder / "cfg.json").mkdir()
    if read is load:
        with pytest.raises(LoadError, match=r"a folder with cfg\.json"):
            read(folder)
    else:
        assert read(folder).model_name is None
    with pytest.raises(LoadError, match="unreadable config"):
        read_config(folder / "cfg.json")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_config_that_may_not_be_read(tmp_path: Path) -> None:
    folder = saelens_folder(tmp_path)
    (folder / "cfg.json").chmod(0)
    for read in (load, declare):
        with pytest.raises(LoadError, match="unreadable config"):
            read(folder)


STRANGE: list[Any] = [
    None, True, -1, 0, 1, 2**63, 10**299, 0.5, float("nan"), float("inf"), "", "x", "\x1b[2J", [],
    [[]], {}, {"a": {}}, [1, "a"], {"": None},
]  # fmt: skip
FIELDS = [
    "architecture", "d_in", "d_sae", "dtype", "apply_b_dec_to_input", "normalize_activations",
    "reshape_activations", "metadata", "k", "activation_fn", "hook_name", "scaling_factor", "",
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_any_value_of_a_field_is_read_or_refused(tmp_path: Path, field: str) -> None:
    for number, value in enumerate(STRANGE):
        folder = saelens_folder(tmp_path / str(number), **{field: value})
        for read in (load, declare):
            message = refusal(read, folder)
            assert message is None or str(folder) in message


def test_a_number_too_large_for_a_float(tmp_path: Path) -> None:
    folder = saelens_folder(tmp_path)
    text = json.dumps({"d_in": 6, "hook_point_layer": 1}).replace("1}", "1e999}")
    (folder / "cfg.json").write_text(text)
    assert read_config(folder / "cfg.json")["hook_point_layer"] == float("inf")
    with pytest.raises(LoadError):
        load(folder)


@given(
    config=st.dictionaries(
        st.sampled_from([*FIELDS, "trainer", "buffer", "model_name", "hook_point", "sae_type"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=2)
            ),
            max_leaves=4,
        ),
    ),
    weights=st.sampled_from(["sae_weights.safetensors", "sae.safetensors", "params.safetensors"]),
    name=st.sampled_from(["cfg.json", "config.json", "hyperparams.json"]),
)
def test_any_config_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any], weights: str, name: str
) -> None:
    folder = saelens_folder(tmp_path_factory.mktemp("sae"))
    (folder / "sae_weights.safetensors").rename(folder / weights)
    (folder / "cfg.json").rename(folder / name)
    (folder / name).write_text(json.dumps(config))
    for read in (load, declare):
        message = refusal(read, folder)
        assert message is None or str(folder) in message
