"""The JSON Schema agrees with what is read."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from sae_guard.core.metrics import METRICS
from sae_guard.specs import json_schema, strict_yaml
from tests.helpers.spec_texts import GOOD, MALFORMED, WHOLE

# A schema of single values cannot compare two of them, nor know what a metric's values are.
BEYOND_A_SCHEMA = ("above max", "a warning lies", "cannot pass", "cannot fail", "warns at", "[low,",
                   "say which", "has a field", "has a source_field", "low below high",
                   "none of the sources", "bounded in `slices")  # fmt: skip


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("text", [GOOD, WHOLE, GOOD.replace("text: a.txt", "dataset: a/b")])
def test_accepts_what_is_read(validator: Any, text: str) -> None:
    for document in strict_yaml.read(text.encode()):
        validator.validate(document.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (old, new)
        for old, new, _, message in MALFORMED
        if not any(part in message for part in BEYOND_A_SCHEMA)
    ],
)
def test_refuses_what_is_refused(validator: Any, old: str, new: str) -> None:
    try:
        (document,) = strict_yaml.read(GOOD.replace(old, new).encode())
    except strict_yaml.YamlError:
        return  # no document to check
    assert not validator.is_valid(document.value)


def test_describes_every_key_and_metric() -> None:
    schema = json_schema()
    objects = [schema, *schema["$defs"].values()]
    for described in objects:
        for key, value in described.get("properties", {}).items():
            assert value.get("description"), key
    assert list(schema["properties"]["thresholds"]["properties"]) == [*METRICS, "pareto"]
