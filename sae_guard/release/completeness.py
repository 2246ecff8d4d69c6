"""Whether a version has the members that are expected of it: none missing, none unexpected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sae_guard.core.report import CaseRef, MemberProblem
from sae_guard.release.pairing import Identity


def incomplete(
    present: Mapping[CaseRef, CaseRef | None],
    earlier: Iterable[CaseRef],
    *,
    version: str,
    added: Iterable[str] = (),
    removed: Iterable[CaseRef] = (),
) -> Iterator[MemberProblem]:
    """Yield each member that is missing or unexpected; with none the version is complete.

    Args:
        present: Member of this version → the earlier one that it is compared with, if any.
        earlier: Members of the earlier version.
        version: Name of the earlier version.
        added: Names that manifest or spec say are part of this version.
        removed: Earlier members that manifest or spec say are gone.
    """
    paired = {old for old in present.values() if old is not None}
    gone, expected = set(removed), set(added)
    for old in earlier:
        if old not in paired and old not in gone:
            yield MemberProblem(
                old.title,
                f"is in {version} and not in this run; gate it too, or list {old.member!r} as "
                "removed, in the manifest or the spec",
            )
    for ref, paired_with in present.items():
        if paired_with is None and ref.member not in expected:
            yield MemberProblem(
                ref.title,
                f"has no earlier version in {version}; if it is new, list {ref.member!r} in the "
                "manifest, or as added in the spec",
            )


def missing(earlier: Sequence[Identity], present: Sequence[Identity]) -> Iterator[int]:
    """Yield the index of each earlier member of which a version has none of this spec and name.

    The only member of a spec is not missing where the version has one other, and both are single
    SAEs whose folders may be named as their versions.
    """
    for index, old in enumerate(earlier):
        of_spec = [new for new in present if new.spec == old.spec]
        if any(new.member == old.member for new in of_spec):
            continue
        is_alone = len(of_spec) == sum(other.spec == old.spec for other in earlier) == 1
        if not (is_alone and old.may_be_version and of_spec[0].may_be_version):
            yield index
