"""Every source of text and tokens, and what each mistake in one is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae_guard.corpus import sources
from sae_guard.errors import SetupError


def test_expand_is_sorted_within_each_pattern(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert sources.expand(["c.md", "*.txt"], tmp_path) == [
        tmp_path / name for name in ("c.md", "a.txt", "b.txt")
    ]
    assert sources.expand([str(tmp_path / "a.txt")], Path("elsewhere")) == [tmp_path / "a.txt"]
    with pytest.raises(SetupError, match=r"no file matches '\*.csv'"):
        sources.expand(["*.csv"], tmp_path)


def test_text_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("grüße", encoding="utf-8")
    assert list(sources.text_files([tmp_path / "a.txt"])) == ["grüße"]
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(SetupError, match=r"b\.txt: unreadable text"):
        list(sources.text_files([tmp_path / "b.txt"]))


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "two"}\n')
    assert list(sources.json_lines([path], "text")) == ["one", "two"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"a\.jsonl:2: not JSON"),
        ("[1]", r"a\.jsonl:2: no field 'text'; there is: list"),
        ('{"body": 1}', r"a\.jsonl:2: no field 'text'; there is: body"),
    ],
)
def test_json_lines_that_are_none(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n' + line)
    with pytest.raises(SetupError, match=message):
        list(sources.json_lines([path], "text"))


TOKENS = [[0, 1, 2], [3, 4, 5]]


def _npy(path: Path) -> None:
    np.save(path, np.array(TOKENS, dtype=np.int32))


def _safetensors(path: Path) -> None:
    save_file({"tokens": torch.tensor(TOKENS)}, path)


def _jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in TOKENS))


@pytest.mark.parametrize(
    ("name", "write"),
    [("t.npy", _npy), ("t.safetensors", _safetensors), ("t.jsonl", _jsonl)],
)
def test_token_files(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    assert list(sources.token_file(tmp_path / name, "input_ids")) == TOKENS


def test_token_files_that_are_none(tmp_path: Path) -> None:
    np.save(tmp_path / "float.npy", np.ones((2, 2)))
    np.save(tmp_path / "flat.npy", np.ones(4, dtype=np.int64))
    np.save(tmp_path / "object.npy", np.array([[1, None]], dtype=object))
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    save_file({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "two.safetensors")
    (tmp_path / "text.jsonl").write_text('{"input_ids": [1, true]}')
    (tmp_path / "t.csv").write_text("1,2")
    for name, message in {
        "float.npy": r"float64\[2, 2\] is no matrix of token ids",
        "flat.npy": r"int64\[4\] is no matrix of token ids",
        "object.npy": "unreadable token file",
        "cut.npy": "unreadable token file",
        "two.safetensors": r"expected one tensor, found \['a', 'b'\]",
        "text.jsonl": "is not a list of token ids",
        "t.csv": r"token files are \.npy, \.safetensors or \.jsonl",
    }.items():
        with pytest.raises(SetupError, match=message):
            list(sources.token_file(tmp_path / name, "input_ids"))


def read_dataset(path: str, base: Path, *, split: str = "train", field: str = "text") -> list[str]:
    return list(
        sources.dataset(path, name=None, split=split, revision=None, field=field, base=base)
    )


def test_a_saved_dataset(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": ["one", "two"]})
    rows.save_to_disk(str(tmp_path / "one"))
    assert read_dataset("one", tmp_path) == ["one", "two"]
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "several"))
    assert read_dataset("several", tmp_path, split="test") == ["one", "two"]
    with pytest.raises(SetupError, match="split 'train'"):
        read_dataset("several", tmp_path)
    with pytest.raises(SetupError, match="no field 'body': text"):
        read_dataset("one", tmp_path, field="body")


def test_a_folder_of_data_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert read_dataset("data", tmp_path) == ["one", "two"]


def test_modules() -> None:
    (text,) = sources.module_sources(["textwrap"])
    assert "def dedent" in text
    for name in ("no_such_module", "sys", "os.path"):
        with pytest.raises(SetupError, match=f"no Python source for top-level module '{name}'"):
            list(sources.module_sources([name]))
