"""Write specs, and declare checkpoints that they may gate, for plans."""

from __future__ import annotations

from pathlib import Path

from sae_guard.checkpoints.declare import Declaration
from sae_guard.checkpoints.reference import Checkpoint
from sae_guard.gate.planning import Candidate, Plan, plan
from sae_guard.release.members import Member
from sae_guard.specs import Spec, load_specs
from sae_guard.specs.load import parse_specs

READ, WRITTEN = "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"
"""Hook points of a transcoder."""
TEXT = """\
name: {name}
model: {{name: {model}, aliases: [other]}}
hook: {hook}
data: {{text: a.txt, prepend_bos: true}}
thresholds: {{kl: {{max: 0.1}}, l0: {{min: 1, max: 9}}}}
"""


def spec(name: str, *, model: str = "gpt2", hook: str = "blocks.1.hook_resid_pre") -> str:
    """Write the text of a spec."""
    return TEXT.format(name=name, model=model, hook=hook)


def specs(folder: Path, *texts: str) -> tuple[Spec, ...]:
    """Load specs from one file with these texts."""
    path = folder / "s.yaml"
    path.write_text("---\n".join(texts))
    return load_specs(path)


def candidate(model: str | None = None, hook: str | None = None, member: str = "v1") -> Candidate:
    """Make a checkpoint that declares this much."""
    checkpoint = Checkpoint(Path("/sae", member))
    return Candidate(Member(member, "path", checkpoint), Declaration(model, hook))


def plan_of(*texts: str, members: tuple[str, ...] = ("v1",), controls: bool = False) -> Plan:
    """Plan checkpoints at the specs with these texts; no file is read."""
    file = Path("/project/thresholds/s.yaml")
    read = parse_specs("---\n".join(texts).encode(), file, display="thresholds/s.yaml")
    return plan(read, [candidate(member=member) for member in members], controls=controls)
