"""Write transcoders as circuit-tracer's are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor

from tests.helpers.drawn import draw

CONFIG = {
    "model_name": "Qwen/Qwen3-4B",
    "model_kind": "transcoder_set",
    "feature_input_hook": "mlp.hook_in",
    "feature_output_hook": "mlp.hook_out",
}


def write(
    folder: Path,
    config: dict[str, Any] | None = None,
    more: dict[str, Tensor] | None = None,
    *,
    d_sae: int = 10,
) -> dict[str, Tensor]:
    """Write the transcoder of a layer, and a config where one is given."""
    w = {
        "W_enc": draw(d_sae, 6), "W_dec": draw(d_sae, 6, seed=1), "b_enc": draw(d_sae),
        "b_dec": draw(6, seed=2), **(more or {}),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file(w, folder / "layer_3.safetensors")
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return w
