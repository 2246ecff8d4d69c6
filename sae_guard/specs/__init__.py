"""Load spec files: strict YAML to typed specs, every error with file and line. No torch here."""

from sae_guard.specs.load import Spec, load_specs, read_data
from sae_guard.specs.models import DatasetSpec, DataSpec, ModelSpec
from sae_guard.specs.schema import json_schema

__all__ = ["DataSpec", "DatasetSpec", "ModelSpec", "Spec", "json_schema", "load_specs", "read_data"]
