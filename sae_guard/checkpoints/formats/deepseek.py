"""qresearch's SAEs of DeepSeek-R1: ``DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt``.

SAELens, `deepseek_r1_sae_huggingface_loader` in
https://github.com/decoderesearch/SAELens/blob/main/sae_lens/loading/pretrained_sae_loaders.py.
ReLU, no pre-bias. The keys are those of any two ``nn.Linear``: only the name tells.
"""

from __future__ import annotations

from sae_guard.checkpoints import released
from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement, renamed
from sae_guard.checkpoints.declare import names
from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.locate import Parts
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.sae import SAE

_NAMES = {
    "encoder.weight": "W_enc",
    "encoder.bias": "b_enc",
    "decoder.weight": "W_dec",
    "decoder.bias": "b_dec",
}
_ASSUMED = "ReLU, and b_dec is not taken off the input, as SAELens reads files of this name"


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE of a file or folder of that name; raises `LoadError`."""
    facts = Facts("standard", None, pre_bias=False, normalize="none")
    check_agreement(facts, options, opened.weights)
    said = names(Parts(opened.weights, opened.config_file))
    source = opened.source("DeepSeek-R1", _ASSUMED, **said)
    return assemble(renamed(opened.tensors, _NAMES), facts, source, opened.weights)


def _matches(opened: Opened) -> bool:
    release = released.named_by_layer(opened.weights)
    named = release is not None and (release.model_name or "").startswith("DeepSeek-R1-")
    return named and opened.entries.keys() == _NAMES.keys()


FAMILY = Family(
    "DeepSeek-R1",
    recognised_by="`DeepSeek-R1-…-SAE-lN.pt` (the file or its folder) with the keys of two "
    "`nn.Linear`",
    holds="standard SAEs",
    matches=_matches,
    read=read,
)
