"""`RunReport`: what a run of the gate found, as every shell, renderer and record has it.

It is made of one `CaseReport` for each case. A process that measured a part of a case gives a
report of that part; `merged` puts the parts together. `report_json` writes and reads reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from typing import Literal, TypeVar

from sae_guard.core.diagnosis import Diagnosis
from sae_guard.core.measurement import Provenance
from sae_guard.core.pareto import Pareto, ParetoVerdict
from sae_guard.core.statistics import Estimate
from sae_guard.core.targets import Target
from sae_guard.core.threshold_changes import LoosenedThresholds
from sae_guard.core.verdicts import Status, Verdict
from sae_guard.core.worst_tokens import Worst
from sae_guard.errors import Cause, Contract, InfrastructureError

CONTROL = "control:"
"""What the member of a control starts with."""
PARETO, CONTROLS = "pareto", "controls"
"""Tests of a case beside those of its load contract and of its thresholds."""


@dataclass(frozen=True, order=True)
class CaseRef:
    """The name of what is measured once, the same from version to version."""

    spec_file: str
    """Path of the spec file from the project's root folder."""
    document: str
    """Name of the document in it."""
    member: str
    """Which SAE: its label; ``control:NAME`` for a control."""

    @property
    def spec(self) -> str:
        """``file::document``, as records and messages name a spec."""
        return f"{self.spec_file}::{self.document}"

    @property
    def is_control(self) -> bool:
        """Whether it is an SAE whose numbers are known beforehand."""
        return self.member.startswith(CONTROL)

    def node_id(self, test: Target | str) -> str:
        """Name a test of the case as pytest does."""
        return f"{self.spec}::{self.test_name(test)}"

    def test_name(self, test: Target | str) -> str:
        """Name a test of the case below its spec."""
        return f"{test}[{self.member}]"

    def __str__(self) -> str:
        return f"{self.spec} [{self.member}]"


@dataclass(frozen=True)
class Sample:
    """How much of the token set was measured."""

    n_tokens: int
    """Scored tokens."""
    n_sequences: int
    n_whole: int
    """Sequences of the set."""


@dataclass(frozen=True)
class ContractResult:
    """Whether a part of the load contract holds."""

    contract: Contract
    status: Status
    """``undecided`` where another part keeps it from being checked."""
    cause: Cause | None = None
    message: str = ""

    @property
    def test(self) -> str:
        """Name of its test within the case."""
        return contract_test(self.contract)


@dataclass(frozen=True)
class MetricValue:
    """A value without a verdict."""

    target: Target
    estimate: Estimate | None = None
    undefined: str = ""
    """Why there is no estimate."""


@dataclass(frozen=True)
class ParetoResult:
    """Whether an earlier record is better in two metrics."""

    pareto: Pareto
    status: Status
    comparison: ParetoVerdict | None = None
    cause: Cause | None = None
    message: str = ""


@dataclass(frozen=True)
class ControlsResult:
    """The numbers of the checkpoint beside those of its controls."""

    status: Status
    rows: Mapping[str, Mapping[str, float | None]]
    """Checkpoint or control → metric → value; None where it is undefined."""
    cause: Cause | None = None
    message: str = ""


@dataclass(frozen=True)
class CaseReport:
    """All that is known of one case, or of a part of it."""

    case: CaseRef
    sample: Sample | None = None
    provenance: Provenance | None = None
    contracts: tuple[ContractResult, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    metrics: tuple[MetricValue, ...] = ()
    """All metrics on the whole token set, whether a threshold is on them or not."""
    pareto: ParetoResult | None = None
    controls: ControlsResult | None = None
    diagnosis: Diagnosis | None = None
    """What is suspected of the checkpoint, if anything is, and what was tried."""
    worst: Worst | None = None
    """Tokens and sequences that the SAE changes most."""
    loosened: LoosenedThresholds | None = None
    """Thresholds that are looser than at the last promoted version."""

    @property
    def statuses(self) -> dict[str, Status]:
        """Test → its status, of all tests that are in the report."""
        results: dict[str, Status] = {each.test: each.status for each in self.contracts}
        results |= {str(each.target): each.status for each in self.verdicts}
        results |= {PARETO: self.pareto.status} if self.pareto else {}
        return results | ({CONTROLS: self.controls.status} if self.controls else {})

    @property
    def errors(self) -> dict[str, str]:
        """Test → why it gave no verdict, of those that gave none."""
        results: dict[str, str] = {
            each.test: each.message
            for each in self.contracts
            if each.status in ("error", "undecided")
        }
        results |= {str(v.target): v.message for v in self.verdicts if v.status == "error"}
        for test, result in ((PARETO, self.pareto), (CONTROLS, self.controls)):
            if result is not None and result.status == "error":
                results[test] = result.message
        return results

    @property
    def crossed(self) -> list[str]:
        """Tests that were judged and do not pass."""
        names = [str(each.target) for each in self.verdicts if not each.passes]
        failed = self.pareto is not None and self.pareto.status == "fail"
        names += [PARETO] if failed else []
        return [name for name in names if name not in self.errors]


RunVerdict = Literal["pass", "fail", "error"]
EXIT_CODES: Mapping[RunVerdict, int] = {"pass": 0, "fail": 1, "error": 2}


@dataclass(frozen=True)
class NotJudged:
    """A test that was planned and ended without any result."""

    case: CaseRef
    test: str
    reason: str = ""


@dataclass(frozen=True)
class NotGated:
    """A spec without a checkpoint, or a checkpoint that a spec is not about."""

    spec: str
    """``file::document``."""
    member: str | None
    """None for a spec without any checkpoint."""
    reason: str


@dataclass(frozen=True)
class RecordResult:
    """What became of the record of a case."""

    case: CaseRef | None
    """None where there was no case at all."""
    path: str = ""
    """Where it was written."""
    refused: str = ""
    """Why it was not."""


@dataclass(frozen=True)
class RunReport:
    """What a run of the gate found."""

    sae_guard: str
    """Version of the package that wrote it."""
    verdict: RunVerdict
    exit_code: int
    cases: tuple[CaseReport, ...] = ()
    """In the order of the plan, like all that is in them."""
    not_judged: tuple[NotJudged, ...] = ()
    not_gated: tuple[NotGated, ...] = ()
    records: tuple[RecordResult, ...] = ()
    notes: tuple[str, ...] = ()
    """What else there is to know of the run, such as thresholds that were left out."""
    warnings: tuple[str, ...] = ()


def contract_test(contract: Contract) -> str:
    """Name the test of a part of the load contract within its case."""
    return f"load.{contract}"


def verdict_of(cases: Iterable[CaseReport], not_judged: Iterable[NotJudged] = ()) -> RunVerdict:
    """Judge the run: an error unless everything was judged, and something was."""
    every = list(cases)
    nothing = not any(case.statuses for case in every)
    if nothing or any(not_judged) or any(case.errors for case in every):
        return "error"
    return "fail" if any(case.crossed for case in every) else "pass"


class DisagreementError(InfrastructureError):
    """Two processes report different things of one case."""


def merged(reports: Sequence[CaseReport]) -> CaseReport:
    """Put reports on parts of one case together, whichever process they come from.

    Raises:
        DisagreementError: Two of them say different things of the same part.
    """
    return reduce(_merged, reports)


def _merged(one: CaseReport, other: CaseReport) -> CaseReport:
    if one.case != other.case:
        raise ValueError(f"{one.case} and {other.case} are two cases")
    parts = {
        field.name: _either(
            one.case, field.name, getattr(one, field.name), getattr(other, field.name)
        )
        for field in fields(CaseReport)
        if field.name not in ("case", "contracts", "verdicts")
    }
    contracts = [{part.test: part for part in each.contracts} for each in (one, other)]
    verdicts = [{str(part.target): part for part in each.verdicts} for each in (one, other)]
    return CaseReport(
        one.case,
        contracts=_union(one.case, *contracts),
        verdicts=_union(one.case, *verdicts),
        **parts,
    )


Part = TypeVar("Part")


def _union(case: CaseRef, one: Mapping[str, Part], other: Mapping[str, Part]) -> tuple[Part, ...]:
    every = {**one, **other}
    return tuple(_either(case, name, one.get(name, part), part) for name, part in every.items())


def _either(case: CaseRef, name: str, one: Part, other: Part) -> Part:
    """Give the part that one of the two has. They are compared as text: NaN equals no NaN."""
    if _absent(one) or _absent(other):
        return other if _absent(one) else one
    if repr(one) != repr(other):
        raise DisagreementError(f"{case}: {name} was reported twice, and differently")
    return one


def _absent(part: object) -> bool:
    return part is None or part == ()
