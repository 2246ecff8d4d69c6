"""qresearch's SAEs of DeepSeek-R1: ``DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt``.

SAELens, `deepseek_r1_sae_huggingface_loader` in
https://github.com/decoderesearch/SAELens/blob/main/sae_lens/loading/pretrained_sae_loaders.py.
ReLU, no pre-bias. Any two ``nn.Linear`` have the same keys: only the file name identifies the
format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, renamed
from sae_guard.checkpoints.declarations import Declaration, named_by_layer
from sae_guard.checkpoints.files import CheckpointFiles
from sae_guard.checkpoints.format import Format, Opened
from sae_guard.checkpoints.formats import plain
from sae_guard.checkpoints.options import SaeOptions

if TYPE_CHECKING:
    from sae_guard.sae import SAE

_ASSUMED = "ReLU, and b_dec is not taken off the input, as SAELens reads files of this name"


def by_name(files: CheckpointFiles) -> Declaration | None:
    """Read model and layer from the name of the file or its folder; None for other names."""
    declaration = named_by_layer(files.weights)
    model = declaration.model_name if declaration is not None else None
    return declaration if model is not None and model.startswith("DeepSeek-R1-") else None


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE of a file or folder with such a name; raises `LoadError`."""
    settings = ForwardSettings("standard", pre_bias=False)
    source = opened.source("DeepSeek-R1", _ASSUMED, declaration=by_name(opened))
    return assemble(renamed(opened.tensors, plain.LINEAR), settings, source, opened.weights)


FORMAT = Format(
    name="DeepSeek-R1",
    recognised_by="a file with the keys of two `nn.Linear`, called `DeepSeek-R1-…-SAE-lN.pt` or in "
    "a folder of that name; name the file, not the folder",
    holds="standard SAEs",
    declare=lambda files: by_name(files) if files.config is None else None,
    matches=lambda opened: (
        by_name(opened) is not None and opened.entries.keys() == plain.LINEAR.keys()
    ),
    read=read,
)
