"""Records for tests: any measurement, and cases, verdicts and records made of ordinary ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from sae_guard.checkpoints.reference import Checkpoint, NamedBy
from sae_guard.core.measurement import (
    TOKEN_COLUMNS,
    Around,
    Excerpts,
    Measurement,
    Provenance,
    TokenKL,
    TokenTable,
)
from sae_guard.core.metrics import COLUMNS, METRICS, ON_REQUEST
from sae_guard.core.report import CaseReport
from sae_guard.core.verdicts import Verdict, judge
from sae_guard.gate.case_tests import measured, metric_values
from sae_guard.gate.cases import Case
from sae_guard.gate.recording import RunInfo, build
from sae_guard.history import History, Promotion, Record, Recorded
from sae_guard.history.record import SCHEMA_VERSION, GitRow
from sae_guard.specs import load_specs

SPEC = """\
name: tiny
model: gpt2
hook: blocks.1.hook_resid_post
data: {text: text.txt, prepend_bos: true, sequences: 8}
thresholds:
  kl: {max: 0.1}
  l0: {min: 1, max: 40, warn: {max: 20}}
"""

_FLOATS = st.floats(width=64)  # NaN, infinities and −0 too
_TEXT = st.text(st.characters(codec=None), max_size=5)  # lone surrogates too
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(_TEXT, children, max_size=3),
    max_leaves=5,
)  # fmt: skip


@st.composite
def any_measurements(draw: st.DrawFn) -> Measurement:
    """Measurements of which nothing is ordinary, with values of single tokens or without."""
    sequences = np.array(sorted(draw(st.sets(st.integers(0, 2**62), max_size=5))), dtype=np.int64)
    n = len(sequences)
    requested = draw(st.sets(st.sampled_from(sorted(ON_REQUEST))))
    places = st.tuples(st.integers(0, 9), st.integers(0, 9))
    return Measurement(
        sequences,
        {
            name: draw(npst.arrays(np.float64, n, elements=_FLOATS))
            for name in (*COLUMNS, *sorted(requested))
        },
        draw(npst.arrays(np.int64, draw(st.integers(0, 5)))),
        Provenance(
            **{part: draw(st.dictionaries(_TEXT, _JSON, max_size=2)) for part in _PARTS},
            hook=draw(_TEXT),
            mean_sha256=draw(_TEXT),
            formula_versions={"kl": draw(st.integers(1, 3))},
            versions={"torch": draw(_TEXT)},
            device=draw(_TEXT),
            hook_out=draw(st.none() | _TEXT),
            paths={"head": draw(_TEXT)},
        ),
        tokens=draw(st.none() | token_tables(n)),
        sources=draw(st.just(()) | st.tuples(*[_TEXT] * n)),
        excerpts=Excerpts(
            draw(st.dictionaries(places, st.builds(Around, _TEXT, _TEXT, _TEXT), max_size=2)),
            draw(st.dictionaries(st.integers(0, 9), _TEXT, max_size=2)),
        ),
    )


_PARTS = ("model", "checkpoint", "corpus")


@st.composite
def token_tables(draw: st.DrawFn, n: int) -> TokenTable:
    """Draw the tokens of ``n`` sequences of up to 4 positions, any of them scored."""
    shape = (n, draw(st.integers(0, 4)))
    values = npst.arrays(np.float32, shape, elements=st.floats(width=32))
    return TokenTable(
        draw(npst.arrays(np.bool_, shape)), {name: draw(values) for name in TOKEN_COLUMNS}
    )


def bits(measurement: Measurement) -> dict[str, Any]:
    """All that is kept, so that what is equal has the same bits."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "sequences": measurement.sequences,
        "firings": measurement.firings,
    }
    arrays.update({f"sum.{name}": column for name, column in measurement.sums.items()})
    return {
        **{name: (str(array.dtype), array.tobytes()) for name, array in arrays.items()},
        "provenance": measurement.provenance,
        "paths": measurement.provenance.paths,
        "sources": measurement.sources,
        "excerpts": measurement.excerpts,
    }


def token_bits(tokens: TokenKL | None) -> list[tuple[str, bytes]]:
    """The same of what is kept of single tokens."""
    columns = () if tokens is None else (tokens.sequences, tokens.positions, tokens.kl)
    return [(str(column.dtype), column.tobytes()) for column in columns]


def tokenwise(measurement: Measurement, seed: int = 0, *, times: float = 1.0) -> Measurement:
    """The same with the values of 100 tokens a sequence, which give its KL."""
    rng = np.random.default_rng(seed)
    shape = (measurement.n_sequences, 100)
    columns = {name: rng.uniform(0, 1, shape).astype(np.float32) for name in TOKEN_COLUMNS}
    columns["kl"] *= np.float32(times)
    sums = {**measurement.sums, "kl": columns["kl"].sum(axis=1, dtype=np.float64)}
    table = TokenTable(np.ones(shape, dtype=np.bool_), columns)
    return replace(measurement, sums=sums, tokens=table)


def ordinary(kl: float = 0.05, *, n: int = 8, of: int = 8) -> Measurement:
    """``n`` sequences of 100 tokens out of ``of``; every mean is 8 but that of KL."""
    more = np.arange(n, dtype=np.float64)
    sums = {name: np.full(n, 800.0) + more for name in COLUMNS}
    sums |= {"n_tokens": np.full(n, 100.0), "kl": np.full(n, 100.0 * kl) + more / 1000}
    sums["ce_zero"] = np.full(n, 1600.0)
    provenance = Provenance(
        model={"name": "gpt2", "dtype": "float32"},
        checkpoint={"path": "v1", "files": {"sae.safetensors": "1" * 64}},
        corpus={"n_sequences": of, "sha256": "2" * 64},
        hook="blocks.1.hook_resid_post",
        mean_sha256="3" * 64,
        formula_versions={name: metric.version for name, metric in METRICS.items()},
        versions={"torch": "2.13.0"},
        device="cpu",
    )
    return Measurement(np.arange(n), sums, np.arange(5, dtype=np.int64), provenance)


def with_tokens(measurement: Measurement) -> Measurement:
    """With values of single tokens too: 100 scored ones in each sequence."""
    n, generator = measurement.n_sequences, np.random.default_rng(0)
    scored = np.ones((n, 100), dtype=np.bool_)
    columns = {name: generator.random((n, 100)).astype(np.float32) * 4 for name in TOKEN_COLUMNS}
    return replace(measurement, tokens=TokenTable(scored, columns), sources=("text.txt",) * n)


def a_case(
    folder: Path, member: str = "v1", text: str = SPEC, display: str = "thresholds/tiny.yaml"
) -> Case:
    """Make a checkpoint at the spec that is written to this folder, and displayed so."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "tiny.yaml").write_text(text, encoding="utf-8")
    (spec,) = load_specs(folder / "tiny.yaml", display=display)
    return Case(spec, member, Checkpoint(folder / member), spec.thresholds)


RUN_INFO = RunInfo("v1", "0" * 32, "someone", {"python": "3.11.7"}, None)


def report_of(
    case: Case, measurement: Measurement, verdicts: Iterable[Verdict] | None = None
) -> CaseReport:
    """Report what was measured of a case, with these verdicts or those on its thresholds."""
    if verdicts is None:
        verdicts = (judge(measurement, threshold) for threshold in case.thresholds)
    return CaseReport(
        case.ref,
        **measured(measurement),
        verdicts=tuple(verdicts),
        metrics=metric_values(measurement),
    )


def built(
    case: Case,
    measurement: Measurement,
    verdicts: Iterable[Verdict] | None = None,
    run_info: RunInfo = RUN_INFO,
) -> tuple[Record, dict[str, bytes]]:
    """Build a record with the files beside it; verdicts as in `report_of`."""
    return build(case, measurement, report_of(case, measurement, verdicts), run_info)


def record_one(
    history: History,
    folder: Path,
    measurement: Measurement,
    name: str = "v1",
    git: GitRow | None = None,
    **case: str,
) -> Recorded:
    """Make and keep a record, of a run of its own."""
    run_info = replace(RUN_INFO, name=name, run=uuid4().hex, git=git)
    return history.add(*built(a_case(folder, **case), measurement, run_info=run_info))


def record_member(
    history: History,
    folder: Path,
    member: str,
    name: str = "v1",
    *,
    weights: str | None = None,
    named_by: NamedBy | None = "manifest",
    kl: float = 0.05,
    text: str = SPEC,
    run: str = "",
) -> Recorded:
    """Make and keep a record of a member of a release, of weights and a run of its own or these."""
    measurement = ordinary(kl)
    sae_hash = sha256((weights or f"{name} {member}").encode()).hexdigest()
    checkpoint = {"path": member, "files": {"sae.safetensors": sae_hash}}
    provenance = replace(measurement.provenance, checkpoint=checkpoint)
    run_info = replace(RUN_INFO, name=name, run=run or uuid4().hex)
    case = a_case(folder, member, text)
    record, files = built(case, replace(measurement, provenance=provenance), run_info=run_info)
    row = record.checkpoint.model_copy(update={"named_by": named_by})
    return history.add(record.model_copy(update={"checkpoint": row}), files)


def promotion(
    recorded: Recorded, label: str, days: int = 0, *, others: Iterable[Recorded] = (), **more: Any
) -> Promotion:
    """Promote a record, or several, to a label, so many days after the first of all."""
    return Promotion(
        schema_version=SCHEMA_VERSION, label=label, by="someone", **{"reason": "good", **more},
        records=tuple(each.promoted for each in (recorded, *others)),
        created=datetime(2026, 11, 25, tzinfo=UTC) + timedelta(days=days),
    )  # fmt: skip


def retraction(recorded: Recorded, label: str, days: int = 0) -> Promotion:
    """Retract a label that stands for a record."""
    return promotion(recorded, label, days, action="retract", reason="it is broken")
