"""Tests of `sae_guard.release.completeness`."""

from __future__ import annotations

from sae_guard.core.report import CaseRef
from sae_guard.release.completeness import incomplete

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
    assert lines({A: A}, [A, B], removed=["k16-wide"]) == []


def test_an_unexpected_member_is_named() -> None:
    (line,) = lines({A: A, B: None}, [A])
    assert line.startswith("s.yaml::layer 1 [k16-wide]: has no earlier version in v1.0")
    assert lines({A: A, B: None}, [A], added=["k16-wide"]) == []
