"""A replacement at `hook_resid_mid` reaches the residual stream."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae_guard.model import Processing, load_model
from tests.helpers.tiny_models import VOCABULARY

TOKENS = torch.randint(1, VOCABULARY, (3, 10), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("processing", ["raw", "hooked"])
def test_a_replacement_at_resid_mid_reaches_the_residual_stream(
    model_folders: dict[str, Path], architecture: str, processing: Processing
) -> None:
    """resid_mid = resid_pre + attn_out, so adding to attn_out must be the same as adding to it."""
    model = load_model(model_folders[architecture], processing=processing)
    step = torch.randn(model.width("blocks.1.hook_resid_mid"))
    at_mid = model.logits_with(TOKENS, "blocks.1.hook_resid_mid", lambda x: x + step)
    at_attn_out = model.logits_with(TOKENS, "blocks.1.hook_attn_out", lambda x: x + step)
    torch.testing.assert_close(at_mid, at_attn_out, atol=1e-4, rtol=1e-4)
