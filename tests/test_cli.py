"""The command."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from sae_guard.cli import main
from sae_guard.spec import json_schema

SCHEMA = Path(__file__).parents[1] / "docs" / "spec.schema.json"


def test_schema_prints_the_schema_and_the_file_in_docs_is_that() -> None:
    result = CliRunner().invoke(main, ["schema"])
    assert result.exit_code == 0
    assert json.loads(result.output) == json_schema()
    assert SCHEMA.read_text(encoding="utf-8") == result.output


def test_help_and_version() -> None:
    assert "pytest --sae CHECKPOINT" in CliRunner().invoke(main, ["--help"]).output
    assert "sae-guard, version" in CliRunner().invoke(main, ["--version"]).output
    assert CliRunner().invoke(main, ["measur"]).exit_code == 2
