"""Spec files are loaded with every key, or refused with the line at fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.checkpoints.options import SaeOptions
from sae_guard.core.pareto import Pareto
from sae_guard.core.targets import Slice, Target
from sae_guard.core.thresholds import Threshold
from sae_guard.errors import SpecError
from sae_guard.specs import load_specs
from tests.helpers.spec_texts import GOOD, WHOLE, write


def test_every_key_of_a_spec_is_loaded(tmp_path: Path) -> None:
    first, second = load_specs(write(tmp_path, WHOLE), display="thresholds/spec.yaml")
    assert (first.name, first.hook) == ("layer 8", "blocks.8.hook_resid_pre")
    assert first.model.model_dump() == {
        "name": "../models/tiny",
        "dtype": "bfloat16",
        "processing": "hooked",
        "revision": "main",
        "aliases": ("tiny", "tiny-2"),
        "device_map": (("model", 0), ("lm_head", "cuda:1")),
    }
    assert first.model.placement == {"model": 0, "lm_head": "cuda:1"}
    assert second.model.placement is None
    hash(first)
    assert first.data.dataset is not None
    assert first.data.dataset.split == "train[:1%]"
    assert (first.data.column, first.data.special_tokens) == ("body", (0, 2))
    assert first.data.source_field == "meta.set"
    assert first.data.expect_clean_ce == (3.0, 3.6)
    assert first.checkpoint == "releases/v2"
    assert first.sae == SaeOptions(architecture="topk", k=32, pre_bias=True, normalize="layer_norm")
    assert first.thresholds == (
        Threshold("kl", max=0.1, warn_max=0.08, file="thresholds/spec.yaml", line=24),
        Threshold("reconstruction_score", min=0.95, file="thresholds/spec.yaml", line=25),
        Threshold("l0", max=60, min=20, warn_max=50, file="thresholds/spec.yaml", line=26),
        Threshold("ce_increase", max=0.5, file="thresholds/spec.yaml", line=27),
        Threshold(
            "ce_increase.p99.9", max=9, confidence=0.99, on_undecided="warn",
            file="thresholds/spec.yaml", line=28,
        ),
        Threshold("ce_increase.worst_sequence", max=2, file="thresholds/spec.yaml", line=30),
        Threshold("cosine.p1", min=0.5, file="thresholds/spec.yaml", line=31),
        Threshold(
            Target("kl", "p50", Slice("position", 0, 8)), max=1,
            file="thresholds/spec.yaml", line=35,
        ),
        Threshold(
            Target("reconstruction_score", slice=Slice("entropy", 2.5)), min=0.9,
            file="thresholds/spec.yaml", line=36,
        ),
        Threshold(
            Target("explained_variance", slice=Slice("source", glob="arxiv*")), min=0.7,
            file="thresholds/spec.yaml", line=37,
        ),
        Threshold(
            Target("kl", slice=Slice("source", glob="arxiv*")), max=1,
            file="thresholds/spec.yaml", line=37,
        ),
    )  # fmt: skip
    assert second.name == "blocks.0.hook_mlp_out"
    assert (second.data.modules, second.data.context) == (("argparse", "csv"), 128)
    assert second.line == 39
    assert second.checkpoint is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "spec.yaml:1: the file is empty"),
        ("# only a comment\n", "spec.yaml:1: the file is empty"),
        ("- a\n", "spec.yaml:1: the document holds ['a'], expected a mapping"),
        (GOOD + "---\n", "the document holds nothing, expected a mapping"),
        (GOOD + "---\n" + GOOD, "'blocks.8.hook_resid_pre' is taken by the document on line 1"),
    ],
)  # fmt: skip
def test_files_without_a_mapping_or_with_equal_names_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load_specs(write(tmp_path, text))
    assert message in str(caught.value)


def test_an_unreadable_file_is_a_spec_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"gone\.yaml:1: unreadable"):
        load_specs(tmp_path / "gone.yaml")


@given(data=st.binary(max_size=150))
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_bytes(data)
    with pytest.raises(SpecError, match="spec"):
        load_specs(path)


lines = st.lists(st.sampled_from(GOOD.splitlines()), max_size=8)
cuts = st.integers(0, len(GOOD))


@given(cut=cuts, again=cuts, swapped=lines)
def test_damaged_specs_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, cut: int, again: int, swapped: list[str]
) -> None:
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(GOOD[:cut] + GOOD[again:] + "\n".join(swapped), encoding="utf-8")
    try:
        specs = load_specs(path)
    except SpecError:
        return
    assert all(spec.thresholds for spec in specs)


VERSIONS = GOOD.replace(
    "  kl: {max: 0.1}",
    """\
  kl: {max: 0.1, max_increase: 2%}
  pareto: {x: l0, y: kl}
baseline: v1.2
strict_env: true""",
)


def test_the_keys_that_compare_with_earlier_versions_are_loaded(tmp_path: Path) -> None:
    (spec,) = load_specs(write(tmp_path, VERSIONS), display="spec.yaml")
    on_value, on_change = spec.thresholds
    assert (on_value.max, on_value.change) == (0.1, "")
    assert (on_change.max, on_change.change, on_change.line) == (0.02, "share", 5)
    assert spec.pareto == Pareto("l0", "kl", "spec.yaml", 6)
    assert (spec.baseline, spec.strict_env) == ("v1.2", True)
    (plain,) = load_specs(write(tmp_path, GOOD))
    assert (plain.pareto, plain.baseline, plain.strict_env) == (None, None, False)


@pytest.mark.parametrize(
    ("pareto", "message"),
    [
        ("{x: l0}", "6: `thresholds.pareto.y` is missing"),
        ("{x: l0, y: kl, z: 1}", "6: unknown key 'z' in `thresholds.pareto`; allowed: x, y"),
        ("{x: l0, y: kll}", "6: `thresholds.pareto`: y is 'kll'; did you mean kl?"),
        ("{x: l0, y: l0}", "6: `thresholds.pareto`: x and y are both l0"),
        ("3", "6: `thresholds.pareto` is 3, allowed: a mapping"),
        ("", "6: `thresholds.pareto` is empty: give it a value, or leave it out"),
    ],
)
def test_a_malformed_pareto_threshold_is_refused(tmp_path: Path, pareto: str, message: str) -> None:
    text = VERSIONS.replace("{x: l0, y: kl}", pareto)
    with pytest.raises(SpecError) as refused:
        load_specs(write(tmp_path, text), display="spec.yaml")
    assert str(refused.value).startswith(f"spec.yaml:{message}")


def test_a_pareto_threshold_stands_among_other_thresholds(tmp_path: Path) -> None:
    for text, message in (
        (GOOD.replace("kl: {max: 0.1}", "pareto: {x: l0, y: kl}"), "with pareto alone"),
        (GOOD + "thresholds.pareto: {x: l0, y: kl}\n", "`pareto` stands below `thresholds`"),
    ):
        with pytest.raises(SpecError, match=message):
            load_specs(write(tmp_path, text))


@pytest.mark.parametrize(
    ("bounds", "key"),
    [
        ("{max: 0.1, max_increase: }", "kl.max_increase"),
        ("{max: 0.1, confidence: null}", "kl.confidence"),
        ("{max: 0.1, warn: ~}", "kl.warn"),
        ("{max: 0.1, warn: {max: }}", "kl.warn.max"),
        ("{max: 0.1, p99: {max: , max_increase: 1%}}", "kl.p99.max"),
    ],
)
def test_an_empty_bound_is_an_error(tmp_path: Path, bounds: str, key: str) -> None:
    text = GOOD.replace("kl: {max: 0.1}", f"kl: {bounds}")
    with pytest.raises(SpecError) as refused:
        load_specs(write(tmp_path, text), display="spec.yaml")
    assert f"`thresholds.{key}` is empty: give it a value, or leave it out" in str(refused.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("kl.change", "no statistic 'change'; allowed: mean, p50"),
        ("kl.p99.change", "no statistic 'p99.change'"),
        ("kl@position=0..8", "unknown metric 'kl@position=0'"),
        ("kl@source=a*", "unknown metric 'kl@source=a*'"),
        ("kl@colour=red", "unknown metric 'kl@colour=red'"),
    ],
)
def test_a_key_that_is_written_like_a_node_id_is_refused(
    tmp_path: Path, key: str, message: str
) -> None:
    for text in (
        GOOD.replace("kl: {max: 0.1}", f"{key}: {{max: 0.1}}"),
        f"{GOOD}slices: [{{position: ..8, thresholds: {{{key}: {{max: 1}}}}}}]\n",
    ):
        with pytest.raises(SpecError) as refused:
            load_specs(write(tmp_path, text), display="spec.yaml")
        assert message in str(refused.value)


def test_a_pareto_threshold_in_a_slice_is_refused(tmp_path: Path) -> None:
    slices = "slices: [{position: ..8, thresholds: {kl: {max: 1}, pareto: {x: l0, y: kl}}}]\n"
    with pytest.raises(SpecError, match=r"`slices\.0` has pareto among its thresholds"):
        load_specs(write(tmp_path, GOOD + slices))
