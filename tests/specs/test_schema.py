"""The JSON Schema accepts and refuses the specs that `load_specs` does."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from sae_guard.core.metrics import METRICS
from sae_guard.specs import json_schema, strict_yaml
from tests.helpers.spec_texts import GOOD, MALFORMED, WHOLE

# JSON Schema cannot compare two values, nor does it know the range of a metric.
BEYOND_A_SCHEMA = ("above max", "a warn bound has", "cannot pass", "cannot fail", "warns at",
                   "[low,", "say which", "has a field", "has a source_field", "low below high",
                   "matches no source", "bounded in `slices")  # fmt: skip


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("text", [GOOD, WHOLE, GOOD.replace("text: a.txt", "dataset: a/b")])
def test_accepts_valid_specs(validator: Any, text: str) -> None:
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
def test_refuses_malformed_specs(validator: Any, old: str, new: str) -> None:
    try:
        (document,) = strict_yaml.read(GOOD.replace(old, new).encode())
    except strict_yaml.YamlError:
        return  # the text is no YAML: there is no document to check
    assert not validator.is_valid(document.value)


def test_describes_every_key_and_metric() -> None:
    schema = json_schema()
    objects = [schema, *schema["$defs"].values()]
    for mapping in objects:
        for key, value in mapping.get("properties", {}).items():
            assert value.get("description"), key
    assert list(schema["properties"]["thresholds"]["properties"]) == [*METRICS, "pareto"]
