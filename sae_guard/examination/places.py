"""Places near to one, where an SAE may belong instead."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Literal

from sae_guard.engine import Place

Reach = Literal["beside", "near", "far"]
"""The same hook point of the next blocks; other kinds too; all kinds, three blocks each way."""

_RESIDUAL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
_OUTPUTS = ("hook_attn_out", "hook_mlp_out")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_BLOCKS = {"beside": 1, "near": 1, "far": 3}


def places(place: Place, known: Collection[str], reach: Reach) -> Iterator[Place]:
    """Other places, the most alike first.

    Args:
        place: Where the SAE is. A transcoder's hook points move together.
        known: Hook points of the model.
        reach: How far to go.
    """
    if place.read == place.replaced:
        pairs = [(hook, hook) for hook in _neighbours(place.read, reach)]
    else:
        blocks = _distances(reach)
        pairs = [(_shifted(place.read, n), _shifted(place.replaced, n)) for n in blocks]
    for read, replaced in pairs:
        if read in known and replaced in known and (read, replaced) != (place.read, place.replaced):
            yield Place(read, replaced)


def _neighbours(hook: str, reach: Reach) -> Iterator[str]:
    found = _BLOCK.fullmatch(hook)
    if found is None:
        return
    block, kind = int(found[1]), found[2]
    for blocks in _distances(reach):
        yield f"blocks.{block + blocks}.{kind}"
    if reach == "beside":
        return
    in_stream = kind in _RESIDUAL
    streams = _RESIDUAL if in_stream or reach == "far" else ()
    for other in (*streams, *_OUTPUTS):
        everywhere = reach == "far" or (in_stream and other in _RESIDUAL)
        for blocks in _distances(reach) if everywhere else (0,):
            if other != kind:
                yield f"blocks.{block + blocks}.{other}"


def _distances(reach: Reach) -> list[int]:
    return sorted(range(-_BLOCKS[reach], _BLOCKS[reach] + 1), key=abs)


def _shifted(hook: str, blocks: int) -> str:
    return _BLOCK.sub(lambda found: f"blocks.{int(found[1]) + blocks}.{found[2]}", hook)
