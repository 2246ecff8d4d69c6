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
    assert list(sources.text_files([tmp_path / "a.txt"], tmp_path)) == [("a.txt", "grüße")]
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(SetupError, match=r"b\.txt: unreadable text"):
        list(sources.text_files([tmp_path / "b.txt"], tmp_path))


def test_a_file_is_called_as_the_spec_has_it(tmp_path: Path) -> None:
    for folder in ("specs", "text/arxiv"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("text/arxiv/1.txt", "specs/here.txt"):
        (tmp_path / name).write_text(name)
    base = tmp_path / "specs"

    def called(*patterns: str) -> list[str]:
        return [sources.named(path, base) for path in sources.expand(patterns, base)]

    assert called("./here.txt", "../text/*/*.txt") == ["here.txt", "../text/arxiv/1.txt"]
    assert called(str(tmp_path / "text/**/*.txt")) == [(tmp_path / "text/arxiv/1.txt").as_posix()]


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "two"}\n')
    assert read_lines(path) == [("a.jsonl", "one"), ("a.jsonl", "two")]


def read_lines(path: Path, source_field: str | None = None) -> list[sources.Found]:
    return list(sources.json_lines([path], "text", source_field=source_field, base=path.parent))


ROW = {
    "text": "one", "source": "arxiv", "meta": {"pile_set_name": "Pile-CC", "tags": []},
    "meta.year": 1999, "none": None, "empty": "", "yes": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "source"),
    [("source", "arxiv"), ("meta.pile_set_name", "Pile-CC"), ("meta.year", "1999")],
)
def test_a_row_says_where_it_comes_from(tmp_path: Path, field: str, source: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW))
    assert read_lines(tmp_path / "a.jsonl", field) == [(source, "one")]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("sauce", r"a\.jsonl:1: no source_field 'sauce'; there is: text, source, meta, meta\.year"),
        ("meta.pile", r"no source_field 'meta\.pile'; there is: pile_set_name, tags"),
        ("source.name", r"no source_field 'source\.name'; there is: str"),
        ("meta", r"source_field 'meta' is a mapping; say which of meta\.pile_set_name, meta\.tags"),
        ("meta.tags", r"source_field 'meta\.tags' is \[\], expected text"),
        ("none", "source_field 'none' is None, expected text"),
        ("empty", "source_field 'empty' is '', expected text"),
        ("yes", "source_field 'yes' is True, expected text"),
    ],
)
def test_a_row_that_does_not_say_where_it_comes_from(
    tmp_path: Path, field: str, message: str
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW))
    with pytest.raises(SetupError, match=message):
        read_lines(tmp_path / "a.jsonl", field)


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
        read_lines(path)


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
    assert read_tokens(tmp_path / name) == [(name, row) for row in TOKENS]
    if name != "t.jsonl":
        with pytest.raises(SetupError, match=rf"{name} has no fields; source_field 'a' is for"):
            read_tokens(tmp_path / name, "a")


def read_tokens(path: Path, source_field: str | None = None) -> list[sources.Found]:
    return list(sources.token_file(path, "input_ids", source_field=source_field, base=path.parent))


def test_a_line_of_tokens_says_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"input_ids": [1, 2], "set": "arxiv"}')
    assert read_tokens(tmp_path / "t.jsonl", "set") == [("arxiv", [1, 2])]


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
            read_tokens(tmp_path / name)


def read_dataset(
    path: str,
    base: Path,
    *,
    split: str = "train",
    field: str = "text",
    source_field: str | None = None,
) -> list[sources.Found]:
    return list(
        sources.dataset(
            path, name=None, split=split, revision=None, field=field, source_field=source_field,
            base=base,
        )
    )  # fmt: skip


def test_a_saved_dataset(tmp_path: Path) -> None:
    meta = [{"set": "arxiv"}, {"set": "books"}]
    rows = datasets.Dataset.from_dict({"text": ["one", "two"], "meta": meta})
    rows.save_to_disk(str(tmp_path / "one"))
    assert read_dataset("one", tmp_path) == [("one", "one"), ("one", "two")]
    assert read_dataset("one", tmp_path, source_field="meta.set") == [
        ("arxiv", "one"), ("books", "two"),
    ]  # fmt: skip
    with pytest.raises(SetupError, match=r"dataset 'one': no source_field 'meta\.name'; there"):
        read_dataset("one", tmp_path, source_field="meta.name")
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "several"))
    assert read_dataset("several", tmp_path, split="test") == [
        ("several", "one"), ("several", "two"),
    ]  # fmt: skip
    with pytest.raises(SetupError, match="split 'train'"):
        read_dataset("several", tmp_path)
    with pytest.raises(SetupError, match="no field 'body': text, meta"):
        read_dataset("one", tmp_path, field="body")


def test_a_folder_of_data_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert read_dataset("data", tmp_path) == [("data", "one"), ("data", "two")]


def test_modules() -> None:
    ((source, text),) = sources.module_sources(["textwrap"])
    assert source == "textwrap"
    assert "def dedent" in text
    for name in ("no_such_module", "sys", "os.path"):
        with pytest.raises(SetupError, match=f"no Python source for top-level module '{name}'"):
            list(sources.module_sources([name]))
