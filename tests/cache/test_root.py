"""The cache is at the expected folder, and refuses folders that belong to something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sae_guard.cache import Cache, CacheError, default_root, root_from_option
from tests.helpers.cache_entries import KEY


def test_a_folder_with_other_files_is_neither_used_nor_cleared(tmp_path: Path) -> None:
    release = tmp_path / "v1" / KEY / "sae.safetensors"
    release.parent.mkdir(parents=True)
    release.write_text("a year's work")
    cache = Cache(tmp_path)
    uses: list[Callable[[], object]] = [cache.clear, cache.entries, lambda: cache.entry(KEY, {})]
    for use in uses:
        with pytest.raises(CacheError, match=r"not a cache: .*no CACHEDIR\.TAG.*allowed: "):
            use()
    (tmp_path / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n# pip")
    for use in uses:
        with pytest.raises(CacheError, match="not a cache"):
            use()
    assert release.read_text() == "a year's work"


def test_the_default_folder_is_that_of_the_variable_or_of_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAE_GUARD_CACHE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.setenv("SAE_GUARD_CACHE", "~/own")
    assert default_root() == Path.home() / "own"
    monkeypatch.setenv("SAE_GUARD_CACHE", "")
    assert default_root().name == "sae-guard"
    assert default_root().is_absolute()


def test_a_folder_from_an_option_takes_precedence_and_off_gives_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAE_GUARD_CACHE", str(tmp_path))
    assert root_from_option(None) == tmp_path
    assert root_from_option("~/own") == Path.home() / "own"
    assert root_from_option("off") is None
    monkeypatch.setenv("SAE_GUARD_CACHE", "off")
    assert root_from_option(None) is None
    assert root_from_option("own") == Path("own")
