"""Tests of `sae_guard.release.completeness`."""

from __future__ import annotations

import pytest

from sae_guard.checkpoints.reference import NamedBy
from sae_guard.core.report import CaseRef
from sae_guard.release.completeness import incomplete, missing
from sae_guard.release.pairing import Identity

A = CaseRef("s.yaml", "layer 0", "k16")
B = CaseRef("s.yaml", "layer 1", "k16-wide")
V1 = CaseRef("s.yaml", "layer 0", "v1")


def lines(*args: object, **options: object) -> list[str]:
    problems = incomplete(*args, version="v1.0", **options)  # type: ignore[arg-type]
    return [f"{problem.member}: {problem.reason}" for problem in problems]


def test_the_same_members_are_complete() -> None:
    assert lines({A: A, B: B}, [A, B]) == []
    assert lines({A: V1}, [V1]) == []


def test_a_missing_member_is_named() -> None:
    (line,) = lines({A: A}, [A, B])
    assert line.startswith("s.yaml::layer 1 [k16-wide]: is in v1.0 and not in this run")
    assert lines({A: A}, [A, B], removed=[B]) == []


def test_an_unexpected_member_is_named() -> None:
    (line,) = lines({A: A, B: None}, [A])
    assert line.startswith("s.yaml::layer 1 [k16-wide]: has no earlier version in v1.0")
    assert lines({A: A, B: None}, [A], added=["k16-wide"]) == []


def identity(member: str, named_by: NamedBy | None = "manifest", spec: str = "s::d") -> Identity:
    return Identity(spec, member, named_by)


def test_an_earlier_member_that_is_there_under_its_name_is_not_missing() -> None:
    earlier = [identity("a"), identity("b"), identity("a", spec="s::other")]
    assert list(missing(earlier, earlier)) == []
    assert list(missing(earlier, [identity("a", "path"), identity("c")])) == [1, 2]
    assert list(missing([], earlier)) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (["path"], ["path"], []),
        ([None], ["path"], []),
        (["path"], ["manifest"], [0]),
        (["hub"], ["path"], [0]),
        (["path", "path"], ["path"], [0, 1]),
        (["path"], ["path", "path"], [0]),
    ],
)
def test_two_single_saes_are_of_one_member_if_their_names_say_nothing_else(
    old: list[NamedBy | None], new: list[NamedBy | None], expected: list[int]
) -> None:
    earlier = [identity(f"v1-{index}", rule) for index, rule in enumerate(old)]
    present = [identity(f"v2-{index}", rule) for index, rule in enumerate(new)]
    assert list(missing(earlier, present)) == expected
