"""Pair the members of a version with those of an earlier one: each with its own earlier self."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sae_guard.checkpoints.reference import NamedBy
from sae_guard.errors import SetupError

Old = TypeVar("Old")
"""Something that was measured in an earlier version, such as a record."""


@dataclass(frozen=True)
class Identity:
    """Spec, name and rule of a member, by which it is paired with an earlier one."""

    spec: str
    """``file::document``."""
    member: str
    named_by: NamedBy | None
    """Rule that gave the name; None in records from before members had names."""

    @property
    def may_be_version(self) -> bool:
        """True where the name may be that of the version, and so says nothing about the member."""
        return self.named_by in (None, "path")


@dataclass(frozen=True)
class Pair(Generic[Old]):
    """An earlier member, and whether it was paired because there is only one on each side."""

    old: Old
    alone: bool = False


def earlier(
    new: Identity,
    earlier_name: str,
    olds: Sequence[Old],
    identify: Callable[[Old], Identity],
    *,
    alone: bool,
) -> Pair[Old] | None:
    """Return what a member was in an earlier version; None for a new one.

    It is the one of the same spec and name. Two single SAEs whose folders are named
    as their versions are paired whatever their names: their names say nothing else.

    Args:
        new: The member.
        earlier_name: Its name in the earlier version, which a manifest may say is another one.
        olds: All members of the earlier version.
        identify: Returns the identity of one of them.
        alone: True if no other member of the version is of this spec.

    Raises:
        SetupError: Several could be meant.
    """
    # At another hook point it is the same member; a comparison then says what differs, and refuses.
    of_spec = [old for old in olds if identify(old).spec == new.spec]
    same = [old for old in of_spec if identify(old).member == earlier_name]
    if len(same) > 1:
        raise SetupError(f"{len(same)} of them are {new.spec} [{earlier_name}]")
    if same:
        return Pair(same[0])
    if len(of_spec) == 1 and alone and new.named_by == "path":
        old = of_spec[0]
        if identify(old).may_be_version:
            return Pair(old, alone=True)
    if any(identify(old).named_by is None for old in of_spec):
        names = ", ".join(sorted(identify(old).member for old in of_spec))
        raise SetupError(
            f"{new.spec} [{new.member}]: the earlier version was recorded before members had "
            f"names of their own, so which of these it was is unknown: {names}; name the record's "
            "id as the baseline, or record the earlier version again"
        )
    return None
