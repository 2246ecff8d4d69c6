"""The residual between attention and MLP is one that can be replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae_guard.model import Processing, load_model
from tests.helpers.tiny_models import VOCABULARY

TOKENS = torch.randint(1, VOCABULARY, (3, 10), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("processing", ["raw", "hooked"])
def test_a_patch_at_resid_mid_replaces_the_residual_and_not_only_the_input_of_the_mlp(
    model_folders: dict[str, Path], architecture: str, processing: Processing
) -> None:
    """resid_mid = resid_pre + attn_out, so adding to either is adding to it."""
    model = load_model(model_folders[architecture], processing=processing)
    step = torch.randn(model.width("blocks.1.hook_resid_mid"))
    at_mid = model.logits_with(TOKENS, "blocks.1.hook_resid_mid", lambda x: x + step)
    at_attn_out = model.logits_with(TOKENS, "blocks.1.hook_attn_out", lambda x: x + step)
    torch.testing.assert_close(at_mid, at_attn_out, atol=1e-4, rtol=1e-4)
