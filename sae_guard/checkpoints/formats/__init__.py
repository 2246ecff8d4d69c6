"""The checkpoint formats, one module each.

`saelens_training`, `overcomplete_module` and `openmoss_config` are parts of other formats.
"""

from __future__ import annotations

from sae_guard.checkpoints.formats import (
    aisf,
    bussmann,
    circuit_tracer,
    deepseek,
    dictionary_learning,
    e2e_sae,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    mats,
    neel,
    openai,
    openmoss,
    openmoss_before_2025,
    overcomplete,
    plain,
    qwen_scope,
    refused,
    saelens,
    saelens_before_6,
    sparsify,
)

FORMATS = (
    *refused.FORMATS,
    openmoss_before_2025.FORMAT,
    openmoss.FORMAT,
    saelens.FORMAT,
    saelens_before_6.FORMAT,
    sparsify.FORMAT,
    aisf.FORMAT,
    e2e_sae.FORMAT,
    overcomplete.FORMAT,
    mats.FORMAT,
    dictionary_learning.FORMAT,
    bussmann.FORMAT,
    neel.FORMAT,
    gemma_scope.FORMAT,
    gemma_scope_2.FORMAT,
    qwen_scope.FORMAT,
    circuit_tracer.FORMAT,
    deepseek.FORMAT,
    openai.FORMAT,
    goodfire.FORMAT,
    plain.FORMAT,
)
"""All formats, in the order in which they are tried: the first that matches reads or refuses."""
