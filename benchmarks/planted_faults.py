"""Faults planted into good SAEs × what the gate and the diagnosis say: two Markdown tables.

    python benchmarks/planted_faults.py
    python benchmarks/planted_faults.py --spec SPEC --sae GOOD [--sae GOOD …] [--other SAE]

Of each SAE (by default, the demo's two good ones) every fault of `tests/helpers/planted_faults.py`
that it can have is made, loaded, measured on the spec's tokens, judged by its thresholds and
diagnosed. The first table counts which diagnosis each fault got; a sound row has all its SAEs in
the column of its own name, or in the first, where nothing is suspected. The second shows the gate's
verdicts. Exits 1 where a fault got another name than its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from sae_guard.api import load_sae  # noqa: E402
from sae_guard.corpus import build_corpus  # noqa: E402
from sae_guard.demo import SAES  # noqa: E402
from sae_guard.model import load_model  # noqa: E402
from sae_guard.specs import load_specs  # noqa: E402
from tests.helpers.planted_faults import FAULTS, Fault, Good, Outcome, outcome  # noqa: E402

NOTHING = "–"


def goods(args: argparse.Namespace) -> Iterator[tuple[str, Good]]:
    """The good SAEs by what to call them."""
    spec = load_specs(args.spec)[args.document]
    base = spec.file.parent
    model = load_model(
        spec.model.path_or_name(base),
        dtype=spec.model.dtype,
        processing=spec.model.processing,
        revision=spec.model.revision,
    )
    data = spec.data
    if args.sequences:
        data = data.model_copy(update={"sequences": args.sequences})
    corpus = build_corpus(data, model.tokenizer, base)
    paths = args.sae or [SAES / "v1", SAES / "v2"]
    for at, path in enumerate(paths):
        # Beside several, the next is one from other random numbers.
        other = args.other or (paths[at - 1] if len(paths) > 1 else None)
        known = load_sae(other, spec.sae) if other else None
        sae = load_sae(path, spec.sae)
        yield Path(path).name, Good(sae, model, corpus, spec.hook, spec.thresholds, other=known)


def matrix(found: dict[str, dict[str, Outcome]]) -> Iterator[str]:
    """Fault × diagnosis, in numbers of SAEs."""
    counts = {
        fault: Counter(name for each in outcomes.values() for name in each.names or (NOTHING,))
        for fault, outcomes in found.items()
    }
    seen = {name for count in counts.values() for name in count}
    columns = [NOTHING, *sorted(seen - {NOTHING})]
    yield "| fault | " + " | ".join(columns) + " |"
    yield "|---|" + "---|" * len(columns)
    for fault, count in counts.items():
        yield f"| {fault} | " + " | ".join(str(count[name] or "") for name in columns) + " |"


def verdicts(found: dict[str, dict[str, Outcome]], names: list[str]) -> Iterator[str]:
    """Fault × SAE: the gate's verdict, three values and the bounds that are crossed."""
    yield (
        "| fault | " + " | ".join(f"{name}: gate | KL | EV | L0 | crossed" for name in names) + " |"
    )
    yield "|---|" + "---|" * (5 * len(names))
    for fault, outcomes in found.items():
        cells = [cell for name in names for cell in _cells(outcomes.get(name))]
        yield f"| {fault} | " + " | ".join(cells) + " |"


def _cells(each: Outcome | None) -> list[str]:
    if each is None:
        return ["", "", "", "", ""]
    values = each.values or {}
    shown = [
        f"{values[name]:.3f}" if name in values else ""
        for name in ("kl", "explained_variance", "l0")
    ]
    return [each.gate, *shown, ", ".join(each.crossed)]


def main() -> int:
    """Parse the command line, plant and print; how many faults were not named, at most 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spec", type=Path, default=ROOT / "thresholds" / "demo.yaml")
    parser.add_argument("--document", type=int, default=0, help="of the spec file")
    parser.add_argument("--sae", action="append", help="a good SAE; repeatable")
    parser.add_argument("--other", help="one of the same size from another initialisation")
    parser.add_argument("--sequences", type=int, help="windows (default: as the spec says)")
    parser.add_argument("--thorough", action="store_true", help="as --sae-diagnose")
    parser.add_argument("--evidence", action="store_true", help="print what is said, too")
    args = parser.parse_args()
    found: dict[str, dict[str, Outcome]] = {fault.name: {} for fault in FAULTS}
    names, wrong = [], 0
    for name, good in goods(args):
        names.append(name)
        for fault in FAULTS:
            with tempfile.TemporaryDirectory() as folder:
                each = outcome(good, fault, Path(folder), thorough=args.thorough)
            if each is not None:
                found[fault.name][name] = each
                wrong += not _right(fault, each)
                _tell(name, fault, each, evidence=args.evidence)
    found = {fault: outcomes for fault, outcomes in found.items() if outcomes}
    _say(*matrix(found), "", *verdicts(found, names), to=sys.stdout)
    return min(wrong, 1)


def _right(fault: Fault, each: Outcome) -> bool:
    return each.names == ((fault.expected_name,) if fault.expected_name else ())


def _tell(name: str, fault: Fault, each: Outcome, *, evidence: bool) -> None:
    said = ", ".join(each.names) or NOTHING
    _say(
        f"{name}, {fault.name}: {said}" + ("" if _right(fault, each) else "  <- WRONG"),
        to=sys.stderr,
    )
    if evidence and each.names:
        _say(str(each.diagnosis), to=sys.stderr)


def _say(*lines: str, to: TextIO) -> None:
    print("\n".join(lines), file=to, flush=True)


if __name__ == "__main__":
    sys.exit(main())
