"""``~`` in what people write for a path, wherever that is; and files that are written whole."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest

from sae_guard.cache import root_from_option
from sae_guard.corpus.sources import expand
from sae_guard.errors import SetupError
from sae_guard.files import expanded, write_whole
from sae_guard.specs import ModelSpec

NOBODY = "~nobody-is-called-so/x"


def test_a_tilde_is_the_home_folder_and_of_nobody_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert expanded("~/x") == Path("/home/ada/x")
    assert expanded("a/~/x") == Path("a/~/x")
    assert expanded(NOBODY) == Path(NOBODY)


def test_a_path_of_nobody_is_not_found_and_no_crash(tmp_path: Path) -> None:
    assert ModelSpec(name=NOBODY).path_or_name(tmp_path) == tmp_path / NOBODY
    assert root_from_option(NOBODY) == Path(NOBODY)
    with pytest.raises(SetupError, match="nobody-is-called-so"):
        expand([NOBODY], tmp_path)


def test_a_file_is_written_through_links_and_keeps_its_mode(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"before")
    target.chmod(0o640)
    link.symlink_to(target)
    write_whole(link, b"after")
    assert link.is_symlink()
    assert target.read_bytes() == b"after"
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_file_that_fails_half_way_is_the_one_before(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("disk full")

    path = tmp_path / "file"
    write_whole(path, b"whole")
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]
