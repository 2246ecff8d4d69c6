"""Which spec gates which checkpoint, and which plans are errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_guard.checkpoints.declare import Declaration
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.checkpoints.reference import Checkpoint
from sae_guard.errors import SetupError
from sae_guard.gate.cases import CONTROLS
from sae_guard.gate.planning import Candidate, mismatch, plan, with_hook
from sae_guard.release.members import Member
from sae_guard.specs import Spec
from tests.helpers.planned import READ, WRITTEN, candidate, spec, specs


def test_a_checkpoint_is_gated_by_the_specs_of_its_hook_point(tmp_path: Path) -> None:
    a, b, c = specs(tmp_path, spec("a"), spec("b", hook="blocks.2.hook_resid_pre"), spec("c"))
    result = plan([a, b, c], [candidate("gpt2", a.hook)])
    assert [case.spec.name for case in result.cases] == ["a", "c"]
    assert result.of(b) == ()
    assert [(idle.spec.name, idle.member) for idle in result.idle] == [("b", "v1")]
    assert "its hook point is blocks.1.hook_resid_pre" in result.idle[0].reason


@pytest.mark.parametrize(
    ("model", "matches"),
    [
        (None, True),
        ("gpt2", True),
        ("openai-community/gpt2", True),
        ("GPT2", True),
        ("other", True),
        ("gpt2-medium", False),
    ],
)
def test_model_names_are_compared_without_their_organisation(
    tmp_path: Path, model: str | None, matches: bool
) -> None:
    (one,) = specs(tmp_path, spec("a"))
    reason = mismatch(one, Declaration(model, None))
    assert (reason is None) == matches
    assert matches or "aliases" in str(reason)


def test_a_checkpoint_without_declaration_is_gated_if_all_specs_agree(tmp_path: Path) -> None:
    a, b = specs(tmp_path, spec("a"), spec("b"))
    assert [case.spec.name for case in plan([a, b], [candidate()]).cases] == ["a", "b"]


@pytest.mark.parametrize(
    "other", [spec("b", hook="blocks.2.hook_resid_pre"), spec("b", model="pythia")]
)
def test_a_checkpoint_without_declaration_is_an_error_if_specs_differ(
    tmp_path: Path, other: str
) -> None:
    with pytest.raises(
        SetupError, match=r"/sae/v1 does not declare its model and hook point"
    ) as caught:
        plan(specs(tmp_path, spec("a"), other), [candidate()])
    assert "s.yaml::b" in str(caught.value)
    assert caught.value.options == ("spec", "hook")


def test_a_checkpoint_that_no_spec_gates_is_an_error_with_all_reasons(tmp_path: Path) -> None:
    loaded = specs(tmp_path, spec("a"), spec("b", model="pythia"))
    with pytest.raises(SetupError) as caught:
        plan(loaded, [candidate("pythia", "blocks.9.hook_z")])
    assert str(caught.value).startswith("no spec gates /sae/v1:")
    assert str(caught.value).count("its hook point is blocks.9.hook_z") == 2
    with pytest.raises(SetupError, match="there is no spec"):
        plan([], [candidate()])


def test_two_checkpoints_of_one_name_in_a_spec_are_an_error(tmp_path: Path) -> None:
    a, b = specs(tmp_path, spec("a"), spec("b", hook="blocks.2.hook_resid_pre"))
    one = Member("sae", "path", Checkpoint(Path("/x/sae")))
    other = Member("sae", "path", Checkpoint(Path("/y/sae")))
    with pytest.raises(SetupError) as caught:
        plan([a], [Candidate(one, Declaration()), Candidate(other, Declaration())])
    assert "/x/sae and /y/sae are both named 'sae' in" in str(caught.value)
    assert caught.value.options == ("root", "member")
    at_hooks = [Candidate(m, Declaration("gpt2", s.hook)) for m, s in ((one, a), (other, b))]
    assert [case.alone for case in plan([a, b], at_hooks).cases] == [True, True]


def test_controls_are_added_once_per_spec_that_gates_a_checkpoint(tmp_path: Path) -> None:
    a, b = specs(tmp_path, spec("a"), spec("b", hook="blocks.2.hook_resid_pre"))
    both = [candidate("gpt2", a.hook, member) for member in ("v1", "v2")]
    result = plan([a, b], both, controls=True)
    members = [case.member for case in result.of(a)]
    assert members == ["v1", "v2", *(f"control:{name}" for name in CONTROLS)]
    assert result.of(b) == ()
    assert all(case.checkpoint is None for case in result.of(a)[2:])


def test_the_key_of_a_case_depends_on_what_is_measured_only(tmp_path: Path) -> None:
    changed = spec("a").replace("max: 0.1", "max: 0.2")
    loaded = specs(
        tmp_path, spec("a"), changed.replace("name: a", "name: b"),
        spec("c").replace("a.txt", "b.txt"), spec("d").replace("hook:", "sae: {k: 3}\nhook:"),
    )  # fmt: skip
    keys = [case.key for case in plan(loaded, [candidate()], controls=True).cases]
    per_spec = 1 + len(CONTROLS)
    a, b, c, d = keys[::per_spec]
    assert a == b  # other thresholds, same measurement
    assert len({a, c, d, *keys[1:per_spec]}) == 3 + len(CONTROLS)
    assert len(keys) == 4 * per_spec


def transcoder_spec(folder: Path) -> Spec:
    """Load a spec of a transcoder."""
    (one,) = specs(folder, spec("t", hook=f"{READ}\nhook_out: {WRITTEN}"))
    return one


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (Declaration(None, READ, WRITTEN), None),
        (Declaration(None, None, WRITTEN), None),
        (Declaration(), None),
        (Declaration(None, READ), f"it replaces what it reads, the spec's hook_out is {WRITTEN}"),
        (Declaration(None, WRITTEN), f"its hook point is {WRITTEN}, the spec's is {READ}"),
        (Declaration(None, READ, READ), f"it replaces {READ}, the spec's hook_out is {WRITTEN}"),
    ],
)
def test_a_transcoder_is_gated_by_the_specs_of_both_its_hook_points(
    tmp_path: Path, declared: Declaration, reason: str | None
) -> None:
    assert mismatch(transcoder_spec(tmp_path), declared) == reason


def test_a_spec_of_saes_gates_no_transcoder(tmp_path: Path) -> None:
    (one,) = specs(tmp_path, spec("a", hook=READ))
    assert (
        mismatch(one, Declaration(None, READ, WRITTEN))
        == f"it replaces {WRITTEN}, the spec's hook_out is none"
    )


def test_specs_that_replace_different_hook_points_do_not_agree(tmp_path: Path) -> None:
    texts = [spec("a", hook=READ), spec("b", hook=f"{READ}\nhook_out: {WRITTEN}")]
    with pytest.raises(SetupError, match="does not declare its model and hook point") as caught:
        plan(specs(tmp_path, *texts), [candidate()])
    assert caught.value.options == ("spec", "hook")


def test_controls_read_what_a_transcoder_replaces(tmp_path: Path) -> None:
    one, *controls = plan([transcoder_spec(tmp_path)], [candidate()], controls=True).cases
    assert (one.hook, one.hook_out) == (READ, WRITTEN)
    assert {(case.hook, case.hook_out) for case in controls} == {(WRITTEN, None)}
    assert len({case.key for case in (one, *controls)}) == 1 + len(CONTROLS)


def test_the_key_of_a_case_depends_on_the_replaced_hook_point(tmp_path: Path) -> None:
    loaded = specs(tmp_path, spec("a", hook=READ), spec("b", hook=f"{READ}\nhook_out: {WRITTEN}"))
    a, b = (plan([one], [candidate()]).cases[0] for one in loaded)
    assert a.key != b.key


@pytest.mark.parametrize(
    ("declared", "hook", "hooks"),
    [
        (Declaration("m"), READ, (READ, None)),
        (Declaration("m"), f"{READ}:{WRITTEN}", (READ, WRITTEN)),
        (Declaration("m", READ), READ, (READ, None)),
        (Declaration("m", READ), f"{READ}:{WRITTEN}", (READ, WRITTEN)),
        (Declaration("m", None, WRITTEN), f"{READ}:{WRITTEN}", (READ, WRITTEN)),
        (Declaration("m", READ, WRITTEN), f"{READ}:{WRITTEN}", (READ, WRITTEN)),
    ],
)
def test_the_hook_option_completes_a_declaration(
    declared: Declaration, hook: str, hooks: tuple[str, str | None]
) -> None:
    assert with_hook(declared, hook, "x") == Declaration("m", *hooks)


@pytest.mark.parametrize(
    ("declared", "hook", "contradiction"),
    [
        (Declaration(None, READ), WRITTEN, READ),
        (Declaration(None, READ, WRITTEN), READ, WRITTEN),
        (Declaration(None, READ, WRITTEN), f"{READ}:{READ}", WRITTEN),
        (Declaration(None, READ), f"{WRITTEN}:{READ}", READ),
    ],
)
def test_the_hook_option_must_not_contradict_the_declaration(
    declared: Declaration, hook: str, contradiction: str
) -> None:
    with pytest.raises(SetupError) as caught:
        with_hook(declared, hook, "hf://x")
    assert f"hf://x declares hook point {contradiction}," in str(caught.value)
    assert str(caught.value).endswith(f" {hook}")
    assert caught.value.options == ("hook",)


def test_a_case_merges_the_options_of_spec_registry_and_command_line(tmp_path: Path) -> None:
    (one,) = specs(tmp_path, spec("a").replace("hook:", "sae: {k: 3}\nhook:"))
    listed = Checkpoint(Path("/sae/v1"), options=SaeOptions(scale=0.5))
    member = Member("v1", "hub", listed)
    options = SaeOptions(architecture="topk")
    (case,) = plan([one], [Candidate(member, Declaration(), options)]).cases
    assert case.sae == SaeOptions(k=3, scale=0.5, architecture="topk")
    for other, source in (
        (SaeOptions(k=4), "`sae` block of s.yaml::a"),
        (SaeOptions(scale=1), "registry"),
    ):
        with pytest.raises(
            SetupError,
            match=f"^/sae/v1: .* by the {source} and .* by the command line; remove one of them$",
        ):
            plan([one], [Candidate(member, Declaration(), other)])
