"""Which spec gates which checkpoint, and which pairs are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_guard.checkpoints.declare import Declaration
from sae_guard.checkpoints.reference import Checkpoint
from sae_guard.errors import SetupError
from sae_guard.plan import CONTROLS, Candidate, mismatch, plan
from sae_guard.spec import Spec, load_specs

TEXT = """\
name: {name}
model: {{name: {model}, aliases: [other]}}
hook: {hook}
data: {{text: a.txt, prepend_bos: true}}
thresholds: {{kl: {{max: 0.1}}, l0: {{min: 1, max: 9}}}}
"""


def spec(name: str, *, model: str = "gpt2", hook: str = "blocks.1.hook_resid_pre") -> str:
    return TEXT.format(name=name, model=model, hook=hook)


def specs(folder: Path, *texts: str) -> tuple[Spec, ...]:
    path = folder / "s.yaml"
    path.write_text("---\n".join(texts))
    return load_specs(path)


def candidate(model: str | None = None, hook: str | None = None) -> Candidate:
    return Candidate(Checkpoint(Path("/sae/v1")), "v1", Declaration(model, hook))


def test_a_checkpoint_is_gated_by_the_specs_of_its_hook(tmp_path: Path) -> None:
    a, b, c = specs(tmp_path, spec("a"), spec("b", hook="blocks.2.hook_resid_pre"), spec("c"))
    made = plan([a, b, c], [candidate("gpt2", a.hook)])
    assert [case.spec.name for case in made.cases] == ["a", "c"]
    assert made.of(b) == ()
    assert [(idle.spec.name, idle.label) for idle in made.idle] == [("b", "v1")]
    assert "its hook point is blocks.1.hook_resid_pre" in made.idle[0].reason


@pytest.mark.parametrize(
    ("model", "fits"),
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
    tmp_path: Path, model: str | None, fits: bool
) -> None:
    (one,) = specs(tmp_path, spec("a"))
    reason = mismatch(one, Declaration(model, None))
    assert (reason is None) == fits
    assert fits or "aliases" in str(reason)


def test_a_silent_checkpoint_is_gated_when_all_specs_agree(tmp_path: Path) -> None:
    a, b = specs(tmp_path, spec("a"), spec("b"))
    assert [case.spec.name for case in plan([a, b], [candidate()]).cases] == ["a", "b"]


@pytest.mark.parametrize(
    "other", [spec("b", hook="blocks.2.hook_resid_pre"), spec("b", model="pythia")]
)
def test_a_silent_checkpoint_is_refused_when_specs_differ(tmp_path: Path, other: str) -> None:
    with pytest.raises(SetupError, match="does not say which model and hook point") as caught:
        plan(specs(tmp_path, spec("a"), other), [candidate()])
    assert "s.yaml::b" in str(caught.value)
    assert "--sae-spec" in str(caught.value)


def test_a_checkpoint_that_no_spec_gates_is_refused_with_every_reason(tmp_path: Path) -> None:
    loaded = specs(tmp_path, spec("a"), spec("b", model="pythia"))
    with pytest.raises(SetupError) as caught:
        plan(loaded, [candidate("pythia", "blocks.9.hook_z")])
    assert str(caught.value).startswith("no spec gates /sae/v1:")
    assert str(caught.value).count("its hook point is blocks.9.hook_z") == 2
    with pytest.raises(SetupError, match="there is no spec"):
        plan([], [candidate()])


def test_controls_are_added_once_per_gated_spec(tmp_path: Path) -> None:
    a, b = specs(tmp_path, spec("a"), spec("b", hook="blocks.2.hook_resid_pre"))
    made = plan([a, b], [candidate("gpt2", a.hook)] * 2, controls=True)
    labels = [case.label for case in made.of(a)]
    assert labels == ["v1", "v1", *(f"{name} control" for name in CONTROLS)]
    assert made.of(b) == ()
    assert all(case.checkpoint is None for case in made.of(a)[2:])


def test_the_key_tells_what_is_measured_apart(tmp_path: Path) -> None:
    changed = spec("a").replace("max: 0.1", "max: 0.2")
    loaded = specs(
        tmp_path, spec("a"), changed.replace("name: a", "name: b"),
        spec("c").replace("a.txt", "b.txt"), spec("d").replace("hook:", "sae: {k: 3}\nhook:"),
    )  # fmt: skip
    keys = [case.key for case in plan(loaded, [candidate()], controls=True).cases]
    per_spec = 1 + len(CONTROLS)
    assert keys[0] == keys[1]  # other thresholds, same measurement
    assert len(set(keys[0:1] + keys[2:4] + keys[4 : 4 + len(CONTROLS)])) == 3 + len(CONTROLS)
    assert len(keys) == 4 * per_spec
