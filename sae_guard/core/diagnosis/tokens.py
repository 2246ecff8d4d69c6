"""Suspicions about which tokens are patched: BOS, other special tokens, attention sinks."""

from __future__ import annotations

from collections.abc import Iterator

from sae_guard.core.diagnosis.examination import Examination, Group
from sae_guard.core.diagnosis.suspicion import Suspicion

# SAEs that were trained on a kind of token reconstruct it about as well as they do others.
_WORSE = 1.5
_MORE_ERROR = 3.0
_MOST_ERROR = 0.5

_NAMES = {
    "bos": ("bos", "the BOS token"),
    "first": ("bos", "the first token of a window, which is no BOS,"),
    "special": ("special-tokens", "special tokens"),
    "large": ("large-norms", "tokens of more than ten times the usual norm"),
}
_REMEDIES = {
    "bos": "`data: {special_tokens: exclude}`, unless the SAE was trained on BOS",
    "first": "`data: {prepend_bos: true}`, if the training did: without BOS, models treat the "
    "first token as one",
    "special": "`data: {special_tokens: exclude}`, or a list of ids, unless the SAE was trained on "
    "them",
    "large": "explained variance is about these few tokens: if the training left them out, name "
    "their ids in `data: {special_tokens: […]}`",
}


def patched_tokens(examination: Examination) -> Iterator[Suspicion]:
    """Kinds of tokens that are patched and that the SAE cannot reconstruct."""
    for group in examination.groups:
        if _stands_out(group):
            name, what = _NAMES[group.name]
            yield Suspicion(
                name,
                f"{what} makes up {group.tokens:.1%} of the scored tokens and {group.error:.0%} of "
                f"the squared error; ‖x−x̂‖²/‖x‖² is {group.relative:.2f} there and "
                f"{group.ordinary:.2f} elsewhere",
                _REMEDIES[group.name],
            )


def _stands_out(group: Group) -> bool:
    worse = group.relative > _WORSE * group.ordinary
    more = group.error > _MORE_ERROR * group.tokens
    most = group.error > _MOST_ERROR
    if group.name == "large":  # of many models, and hard for every SAE
        return worse and most
    # What a spec includes on purpose stands out by its size alone: it hides all others.
    return more and (worse or (most and group.name in ("bos", "special")))
