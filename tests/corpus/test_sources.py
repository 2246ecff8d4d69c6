"""Sources yield the documents of their files; errors name file, field and what is allowed."""

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
from sae_guard.specs import DatasetSpec


def test_expand_is_sorted_within_each_pattern(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert sources.expand(["c.md", "*.txt"], tmp_path) == [
        tmp_path / name for name in ("c.md", "a.txt", "b.txt")
    ]
    assert sources.expand([str(tmp_path / "a.txt")], Path("elsewhere")) == [tmp_path / "a.txt"]
    with pytest.raises(SetupError, match=r"no file matches '\*.csv'"):
        sources.expand(["*.csv"], tmp_path)


def test_text_files_are_one_document_each(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("grüße", encoding="utf-8")
    assert list(sources.text_files([tmp_path / "a.txt"], tmp_path)) == [("a.txt", "grüße")]
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(SetupError, match=r"b\.txt: unreadable text"):
        list(sources.text_files([tmp_path / "b.txt"], tmp_path))


def test_the_source_of_a_file_is_its_path_from_the_spec(tmp_path: Path) -> None:
    for folder in ("specs", "text/arxiv"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("text/arxiv/1.txt", "specs/own.txt"):
        (tmp_path / name).write_text(name)
    base = tmp_path / "specs"

    def names(*patterns: str) -> list[str]:
        return [sources.source_name(path, base) for path in sources.expand(patterns, base)]

    assert names("./own.txt", "../text/*/*.txt") == ["own.txt", "../text/arxiv/1.txt"]
    assert names(str(tmp_path / "text/**/*.txt")) == [(tmp_path / "text/arxiv/1.txt").as_posix()]


def test_json_lines_are_one_document_each_without_empty_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "two"}\n')
    assert read_lines(path) == [("a.jsonl", "one"), ("a.jsonl", "two")]


def read_lines(path: Path, source_field: str | None = None) -> list[sources.RawDocument]:
    return list(sources.json_lines([path], "text", source_field=source_field, base=path.parent))


ROW = {
    "text": "one", "source": "arxiv", "meta": {"pile_set_name": "Pile-CC", "tags": []},
    "meta.year": 1999, "none": None, "empty": "", "yes": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "source"),
    [("source", "arxiv"), ("meta.pile_set_name", "Pile-CC"), ("meta.year", "1999")],
)
def test_source_field_gives_the_source_of_a_row(tmp_path: Path, field: str, source: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW))
    assert read_lines(tmp_path / "a.jsonl", field) == [(source, "one")]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("sauce", r"a\.jsonl:1: no source_field 'sauce'; allowed: text, source, meta, meta\.year"),
        ("meta.pile", r"'meta\.pile'; allowed: pile_set_name, tags"),
        ("source.name", r"'source\.name'; str has no fields"),
        ("meta", r"'meta' .*; allowed: meta\.pile_set_name, meta\.tags"),
        ("meta.tags", r"'meta\.tags' is \[\]; allowed: text"),
        ("none", "'none' is None; allowed: text"),
        ("empty", "'empty' is ''; allowed: text"),
        ("yes", "'yes' is True; allowed: text"),
    ],
)
def test_a_source_field_without_a_name_is_an_error(
    tmp_path: Path, field: str, message: str
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW))
    with pytest.raises(SetupError, match=message):
        read_lines(tmp_path / "a.jsonl", field)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"a\.jsonl:2: not JSON"),
        ("[1]", r"a\.jsonl:2: no field 'text'; list"),
        ('{"body": 1}', r"a\.jsonl:2: no field 'text'; allowed: body"),
    ],
)
def test_a_line_without_the_field_is_an_error_with_its_number(
    tmp_path: Path, line: str, message: str
) -> None:
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
def test_each_format_of_token_files_gives_the_same_documents(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    assert read_tokens(tmp_path / name) == [(name, row) for row in TOKENS]
    if name != "t.jsonl":
        with pytest.raises(SetupError, match=rf"{name} .*`source_field: a` is not allowed"):
            read_tokens(tmp_path / name, "a")


def read_tokens(path: Path, source_field: str | None = None) -> list[sources.RawDocument]:
    return list(sources.token_file(path, "input_ids", source_field=source_field, base=path.parent))


def test_source_field_gives_the_source_of_a_line_of_tokens(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"input_ids": [1, 2], "set": "arxiv"}')
    assert read_tokens(tmp_path / "t.jsonl", "set") == [("arxiv", [1, 2])]


def test_a_token_file_without_token_ids_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "float.npy", np.ones((2, 2)))
    np.save(tmp_path / "flat.npy", np.ones(4, dtype=np.int64))
    np.save(tmp_path / "object.npy", np.array([[1, None]], dtype=object))
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    save_file({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "two.safetensors")
    (tmp_path / "text.jsonl").write_text('{"input_ids": [1, true]}')
    (tmp_path / "t.csv").write_text("1,2")
    for name, message in {
        "float.npy": r"float\.npy.* float64\[2, 2\]; allowed: .*\[document, pos\]",
        "flat.npy": r"flat\.npy.* int64\[4\]; allowed: ",
        "object.npy": "unreadable",
        "cut.npy": "unreadable",
        "two.safetensors": r"2 tensors \(a, b\); allowed: one",
        "text.jsonl": "'input_ids' is not a list of token ids",
        "t.csv": r"t\.csv.*allowed: \.npy, \.safetensors and \.jsonl",
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
) -> list[sources.RawDocument]:
    return list(
        sources.dataset(
            DatasetSpec(path=path, split=split), field, source_field=source_field, base=base
        )
    )


def test_a_saved_dataset_gives_one_document_per_row(tmp_path: Path) -> None:
    meta = [{"set": "arxiv"}, {"set": "books"}]
    rows = datasets.Dataset.from_dict({"text": ["one", "two"], "meta": meta})
    rows.save_to_disk(str(tmp_path / "one"))
    assert read_dataset("one", tmp_path) == [("one", "one"), ("one", "two")]
    assert read_dataset("one", tmp_path, source_field="meta.set") == [
        ("arxiv", "one"), ("books", "two"),
    ]  # fmt: skip
    with pytest.raises(SetupError, match=r"'one': no source_field 'meta\.name'; allowed: set"):
        read_dataset("one", tmp_path, source_field="meta.name")
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "several"))
    assert read_dataset("several", tmp_path, split="test") == [
        ("several", "one"), ("several", "two"),
    ]  # fmt: skip
    with pytest.raises(SetupError, match="split 'train'"):
        read_dataset("several", tmp_path)
    with pytest.raises(SetupError, match="'one' has no field 'body'; allowed: text, meta"):
        read_dataset("one", tmp_path, field="body")


def test_a_folder_of_data_files_is_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert read_dataset("data", tmp_path) == [("data", "one"), ("data", "two")]


def test_modules_give_their_source_code() -> None:
    ((source, text),) = sources.module_sources(["textwrap"])
    assert source == "textwrap"
    assert "def dedent" in text
    for name in ("no_such_module", "sys", "os.path"):
        with pytest.raises(SetupError, match=f"no Python source for module '{name}'"):
            list(sources.module_sources([name]))
