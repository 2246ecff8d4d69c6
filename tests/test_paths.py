"""``~`` in what people write for a path, wherever that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_guard.cache import chosen_root
from sae_guard.corpus.sources import expand
from sae_guard.errors import SetupError
from sae_guard.paths import expanded
from sae_guard.spec import ModelSpec

NOBODY = "~nobody-is-called-so/x"


def test_a_tilde_is_the_home_folder_and_of_nobody_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert expanded("~/x") == Path("/home/ada/x")
    assert expanded("a/~/x") == Path("a/~/x")
    assert expanded(NOBODY) == Path(NOBODY)


def test_a_path_of_nobody_is_not_found_and_no_crash(tmp_path: Path) -> None:
    assert ModelSpec(name=NOBODY).path_or_name(tmp_path) == tmp_path / NOBODY
    assert chosen_root(NOBODY) == Path(NOBODY)
    with pytest.raises(SetupError, match="nobody-is-called-so"):
        expand([NOBODY], tmp_path)
