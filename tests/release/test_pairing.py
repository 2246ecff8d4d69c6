"""Tests of `sae_guard.release.pairing`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sae_guard.errors import SetupError
from sae_guard.release.pairing import Identity, Pair, earlier

K16 = Identity("s.yaml::layer 0", "k16", "root")
K32 = replace(K16, member="k32")
V1 = replace(K16, member="v1", named_by="path")
V2 = replace(V1, member="v2")
OLD_V1 = replace(V1, named_by=None)


def pair(
    new: Identity, *olds: Identity, name: str | None = None, alone: bool = True
) -> Pair[Identity] | None:
    return earlier(new, name or new.member, olds, lambda old: old, alone=alone)


def test_a_member_is_compared_with_its_own_earlier_self() -> None:
    assert pair(K32, K16, K32, alone=False) == Pair(K32)


def test_a_damaged_member_is_not_compared_with_its_sibling() -> None:
    assert pair(K32, K16) is None


def test_a_member_of_another_spec_is_another_one() -> None:
    assert pair(K16, replace(K16, spec="s.yaml::layer 1")) is None


def test_a_renamed_member_is_paired_only_if_the_manifest_says_so() -> None:
    assert pair(K32, K16, name="k16") == Pair(K16)


def test_single_saes_named_by_their_version_are_paired_whatever_their_names() -> None:
    assert pair(V2, V1) == Pair(V1, alone=True)
    assert pair(V2, OLD_V1) == Pair(OLD_V1, alone=True)
    assert pair(V2, V1, alone=False) is None
    assert pair(V2, V1, replace(V1, member="v0")) is None
    assert pair(V2, K16) is None
    assert pair(replace(V2, named_by="option"), V1) is None


def test_a_record_of_before_names_is_ambiguous_where_several_could_be_meant() -> None:
    others = [replace(OLD_V1, member=name) for name in ("v0/sae", "v1/sae")]
    with pytest.raises(SetupError, match="v0/sae, v1/sae"):
        pair(V2, *others)
    assert pair(replace(V2, member="v1"), OLD_V1, *others) == Pair(OLD_V1)


def test_two_records_of_one_member_are_ambiguous() -> None:
    with pytest.raises(SetupError, match="2 of them"):
        pair(K16, K16, K16)
