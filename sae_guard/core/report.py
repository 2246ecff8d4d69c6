"""`RunReport`: the result of a run of the gate, which every shell, renderer and record reads.

It holds one `CaseReport` for each case. A process that measured part of a case reports that part,
and `merged` combines the parts. `report_json` writes and reads reports.
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
"""Prefix of the member of a control."""
PARETO, CONTROLS = "pareto", "controls"
"""Names of the tests of a case besides those of its load contract and its thresholds."""


@dataclass(frozen=True, order=True)
class CaseRef:
    """The name of one case: an SAE under a spec. It stays the same from version to version."""

    spec_file: str
    """Path of the spec file from the project's root folder."""
    document: str
    """Name of the document in it."""
    member: str
    """Label of the SAE; ``control:NAME`` for a control, an SAE whose numbers are known."""

    @property
    def title(self) -> str:
        """``file::document [member]``, as messages name a case."""
        return f"{self.spec} [{self.member}]"

    @property
    def spec(self) -> str:
        """``file::document``, as records and messages name a spec."""
        return f"{self.spec_file}::{self.document}"

    @property
    def is_control(self) -> bool:
        """True for a control, an SAE whose numbers are known in advance."""
        return self.member.startswith(CONTROL)

    def node_id(self, test: Target | str) -> str:
        """Return the node id of a test of the case, as pytest writes it."""
        return f"{self.spec}::{self.test_name(test)}"

    def test_name(self, test: Target | str) -> str:
        """Return the name of a test of the case within its spec."""
        return f"{test}[{self.member}]"

    def __str__(self) -> str:
        return f"{self.spec} [{self.member}]"


@dataclass(frozen=True)
class Sample:
    """The size of the measured part of the token set."""

    n_tokens: int
    """Number of scored tokens measured."""
    n_sequences: int
    """Number of sequences measured."""
    n_whole: int
    """Number of sequences in the whole set."""


@dataclass(frozen=True)
class ContractResult:
    """The result of one part of the load contract."""

    contract: Contract
    status: Status
    """Status; ``undecided`` where the failure of another part prevents the check."""
    cause: Cause | None = None
    message: str = ""

    @property
    def test(self) -> str:
        """Name of the test within the case."""
        return contract_test(self.contract)


@dataclass(frozen=True)
class MetricValue:
    """The value of a target without a verdict."""

    target: Target
    estimate: Estimate | None = None
    undefined: str = ""
    """The reason why there is no estimate."""


@dataclass(frozen=True)
class ParetoResult:
    """The result of a Pareto threshold: whether an earlier record is better in two metrics."""

    pareto: Pareto
    status: Status
    comparison: ParetoVerdict | None = None
    cause: Cause | None = None
    message: str = ""


@dataclass(frozen=True)
class ControlsResult:
    """The numbers of the checkpoint and those of its controls."""

    status: Status
    rows: Mapping[str, Mapping[str, float | None]]
    """Checkpoint or control → metric → value; None where it is undefined."""
    cause: Cause | None = None
    message: str = ""


@dataclass(frozen=True)
class CaseReport:
    """The results of one case, or of a part of it."""

    case: CaseRef
    sample: Sample | None = None
    provenance: Provenance | None = None
    contracts: tuple[ContractResult, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    metrics: tuple[MetricValue, ...] = ()
    """All metrics on the whole token set, with or without a threshold."""
    pareto: ParetoResult | None = None
    controls: ControlsResult | None = None
    diagnosis: Diagnosis | None = None
    """Probable causes of a failure, and the variants that were tried."""
    worst: Worst | None = None
    """Tokens and sequences that the SAE changes most."""
    loosened: LoosenedThresholds | None = None
    """Thresholds that are looser than at the last promoted version."""

    @property
    def _results(self) -> dict[str, ContractResult | Verdict | ParetoResult | ControlsResult]:
        """Test → result, for every test in the report."""
        others = {PARETO: self.pareto, CONTROLS: self.controls}
        return {
            **{result.test: result for result in self.contracts},
            **{str(verdict.target): verdict for verdict in self.verdicts},
            **{test: result for test, result in others.items() if result is not None},
        }

    @property
    def statuses(self) -> dict[str, Status]:
        """Test → status, for every test in the report."""
        return {test: result.status for test, result in self._results.items()}

    @property
    def errors(self) -> dict[str, str]:
        """Test → reason, for every test that gave no verdict because of an error.

        Parts of the load contract that were not checked are among them, undecided thresholds not.
        """
        return {
            test: result.message
            for test, result in self._results.items()
            if result.status == "error"
            or (result.status == "undecided" and isinstance(result, ContractResult))
        }

    @property
    def crossed(self) -> list[str]:
        """Names of the tests that were judged and do not pass."""
        names = [str(verdict.target) for verdict in self.verdicts if not verdict.passes]
        failed = self.pareto is not None and self.pareto.status == "fail"
        names += [PARETO] if failed else []
        return [name for name in names if name not in self.errors]


RunVerdict = Literal["pass", "fail", "error"]
EXIT_CODES: Mapping[RunVerdict, int] = {"pass": 0, "fail": 1, "error": 2}


@dataclass(frozen=True)
class NotJudged:
    """A test that was planned but ended without a result."""

    case: CaseRef
    test: str
    reason: str = ""


@dataclass(frozen=True)
class MemberProblem:
    """A member that is missing or unexpected in a release, or has the weights of another one."""

    member: str
    """``file::document [member]``; the name alone where no spec gates it."""
    reason: str
    """Reason why the release is not complete, and the remedy."""


@dataclass(frozen=True)
class NotGated:
    """A spec without a checkpoint, or a checkpoint that a spec does not gate."""

    spec: str
    """``file::document``."""
    member: str | None
    """None for a spec without any checkpoint."""
    reason: str


@dataclass(frozen=True)
class RecordResult:
    """The record of a case, or the reason why it was not written."""

    case: CaseRef | None
    """Case of the record; None where the run had no case."""
    path: str = ""
    """Path of the record; empty where none was written."""
    refused: str = ""
    """The reason why no record was written; empty where one was."""


@dataclass(frozen=True)
class RunReport:
    """The result of a run of the gate."""

    sae_guard: str
    """Version of the package that wrote the report."""
    verdict: RunVerdict
    exit_code: int
    cases: tuple[CaseReport, ...] = ()
    """Reports of the cases; these and their parts are in the order of the plan."""
    not_judged: tuple[NotJudged, ...] = ()
    not_gated: tuple[NotGated, ...] = ()
    records: tuple[RecordResult, ...] = ()
    notes: tuple[str, ...] = ()
    """Remarks on the run, such as thresholds that were left out."""
    warnings: tuple[str, ...] = ()
    incomplete: tuple[MemberProblem, ...] = ()
    """Members that are missing, unexpected, or have the weights of another one."""


def contract_test(contract: Contract) -> str:
    """Return the name of the test of one part of the load contract."""
    return f"load.{contract}"


def verdict_of(
    cases: Iterable[CaseReport], problems: Iterable[NotJudged | MemberProblem] = ()
) -> RunVerdict:
    """Return the verdict of a run.

    It is ``error`` where no test gave a status, a test was not judged or gave no verdict, or a
    member is missing or unexpected; else
    ``fail`` where a test does not pass.
    """
    reports = list(cases)
    empty = not any(case.statuses for case in reports)
    if empty or any(problems) or any(case.errors for case in reports):
        return "error"
    return "fail" if any(case.crossed for case in reports) else "pass"


class DisagreementError(InfrastructureError):
    """Two processes report different results for the same part of a case."""


def merged(reports: Sequence[CaseReport]) -> CaseReport:
    """Combine reports on parts of one case, from any number of processes.

    Raises:
        DisagreementError: Two reports differ in a part that both have.
        ValueError: The reports are on different cases.
    """
    return reduce(_merged, reports)


def _merged(one: CaseReport, other: CaseReport) -> CaseReport:
    if one.case != other.case:
        raise ValueError(f"{one.case} and {other.case} are different cases and cannot be merged")
    parts = {
        field.name: _either(
            one.case, field.name, getattr(one, field.name), getattr(other, field.name)
        )
        for field in fields(CaseReport)
        if field.name not in ("case", "contracts", "verdicts")
    }
    contracts = [{part.test: part for part in report.contracts} for report in (one, other)]
    verdicts = [{str(part.target): part for part in report.verdicts} for report in (one, other)]
    return CaseReport(
        one.case,
        contracts=_union(one.case, *contracts),
        verdicts=_union(one.case, *verdicts),
        **parts,
    )


Part = TypeVar("Part")


def _union(case: CaseRef, one: Mapping[str, Part], other: Mapping[str, Part]) -> tuple[Part, ...]:
    both = {**one, **other}
    return tuple(_either(case, name, one.get(name, part), part) for name, part in both.items())


def _either(case: CaseRef, name: str, one: Part, other: Part) -> Part:
    """Return the part that at least one report has; where both have it, they have to agree.

    They are compared as text, as NaN ≠ NaN.
    """
    if _absent(one) or _absent(other):
        return other if _absent(one) else one
    if repr(one) != repr(other):
        raise DisagreementError(f"{case}: {name} was reported twice, and differently")
    return one


def _absent(part: object) -> bool:
    return part is None or part == ()
