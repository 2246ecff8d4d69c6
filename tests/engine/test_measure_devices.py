"""A model whose weights lie on several devices, or on disk, is measured as the undivided one is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sae_guard.core.metrics import COLUMNS
from sae_guard.corpus import Corpus
from sae_guard.engine import measure
from sae_guard.model import DeviceMap, load_model
from tests.helpers.device_maps import DEVICE_MAPS
from tests.helpers.small_measurements import likely_corpus, make_sae


@pytest.fixture(scope="module")
def corpus(model_folders: dict[str, Path]) -> Corpus:
    return likely_corpus(model_folders["llama"])


@pytest.mark.parametrize("hook", ["blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"])
@pytest.mark.parametrize("device_map", DEVICE_MAPS, ids=str)
def test_divided_model_gives_the_numbers_of_the_undivided_one(
    model_folders: dict[str, Path], corpus: Corpus, device_map: DeviceMap, hook: str
) -> None:
    undivided = load_model(model_folders["llama"])
    spread = load_model(model_folders["llama"], device_map=device_map)
    expected = measure(undivided, make_sae(), corpus, hook, reference=True)
    for reference in (False, True):
        measurement = measure(spread, make_sae(), corpus, hook, reference=reference)
        assert (measurement.provenance.paths["forward"] == "whole model") == reference
        for column in COLUMNS:
            np.testing.assert_allclose(
                measurement.sums[column],
                expected.sums[column],
                rtol=1e-5,
                atol=1e-4,
                err_msg=column,
            )
