"""Each mistake in a spec is reported with its line, key and value, and with what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_guard.errors import SpecError
from sae_guard.specs import load_specs
from tests.helpers.spec_texts import GOOD, MALFORMED, write


@pytest.mark.parametrize(("old", "new", "line", "message"), MALFORMED)
def test_a_malformed_spec_is_refused_with_line_and_message(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(SpecError) as caught:
        load_specs(write(tmp_path, GOOD.replace(old, new)), display="thresholds/spec.yaml")
    first_line, *more_lines = str(caught.value).splitlines()
    assert first_line.startswith(f"thresholds/spec.yaml:{line}: ") or more_lines
    assert message in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("gpt2", "[]").replace("a.txt", "3").replace("max: 0.1", "min: 1")
    with pytest.raises(SpecError) as caught:
        load_specs(write(tmp_path, text), display="s.yaml")
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["1", "3", "5"]
