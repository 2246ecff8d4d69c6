"""Pair the cases of a plan with their earlier selves, and list members that are missing or new."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from sae_guard.checkpoints.reference import weights_among
from sae_guard.core.report import CaseRef, CaseReport, MemberProblem
from sae_guard.errors import SaeGuardError, SetupError
from sae_guard.gate.baselines import Baselines
from sae_guard.gate.cases import Case
from sae_guard.gate.planning import Plan
from sae_guard.history.record import NO_VERSION, Recorded
from sae_guard.release.completeness import incomplete
from sae_guard.specs import Spec


def follow(
    plan: Plan, specs: Sequence[Spec], baselines: Baselines, version: str | None, *, part: bool
) -> Plan:
    """Return the plan in which new members have no thresholds on changes, with its problems.

    Args:
        plan: Plan of the run.
        specs: Specs of the run.
        baselines: Recorded versions.
        version: Version that the user names; it takes precedence over ``baseline`` in the specs.
        part: True if the user names the specs, so that other specs of the version are not expected.
    """
    cases, problems = list(plan.cases), list[MemberProblem]()
    for reference in _references(plan, specs, version):
        try:
            records = baselines.release(reference)
        except SaeGuardError as error:
            problems.append(MemberProblem(f"baseline {reference}", str(error)))
            continue
        names = {spec.title for spec in specs if (version or spec.baseline) == reference}
        expected = [r for r in records if r.spec in names or (version is not None and not part)]
        present: dict[CaseRef, CaseRef | None] = {}
        for i, case in enumerate(cases):
            if case.checkpoint is None or case.ref.spec not in names:
                continue
            try:
                pair = baselines.earlier(case, reference)
            except SetupError as error:
                problems.append(MemberProblem(case.ref.title, str(error)))
                present[case.ref] = None
                continue
            present[case.ref] = None if pair is None else pair.old.ref
            if pair is None:
                problems += _not_new(case, reference, records)
                cases[i] = _new(case, reference)
        problems += incomplete(
            present,
            [recorded.ref for recorded in expected],
            version=reference,
            added={n for s in specs for n in s.members.added} | _listed(cases),
            removed=_removed(specs, cases, expected),
        )
    problems += _without_bounds(cases)
    problems += _unplanned(cases)
    return replace(plan, cases=tuple(cases), problems=tuple(dict.fromkeys(problems)))


def equal_weights(
    cases: Iterable[Case], reports: Iterable[CaseReport], *, one_version: bool
) -> Iterator[MemberProblem]:
    """Yield each member whose weights are those of another one of its spec.

    Args:
        cases: Cases of the run.
        reports: Their reports, which hold the hashes of the files.
        one_version: True if all checkpoints are of one version. Otherwise checkpoints that are
            named by their path alone may be versions of one SAE.
    """
    by_ref = {report.case: report for report in reports}
    first: dict[object, Case] = {}
    for case in cases:
        report = by_ref.get(case.ref)
        if case.checkpoint is None or report is None or report.provenance is None:
            continue
        files = report.provenance.checkpoint.get("files", {})
        if not files:
            continue
        weights = weights_among(files)
        other = first.setdefault(
            (case.ref.spec, frozenset(weights.values()), case.checkpoint.name), case
        )
        must_differ = one_version or "path" not in {case.named_by, other.named_by}
        if other is not case and must_differ:
            yield MemberProblem(
                case.ref.title, f"has the weights of {other.member}; allowed: one name for an SAE"
            )


def _references(plan: Plan, specs: Sequence[Spec], version: str | None) -> list[str]:
    """Return the versions that are baselines of a spec that gates something."""
    if version == NO_VERSION:
        return []
    gating = {case.ref.spec for case in plan.cases}
    named = (version or spec.baseline for spec in specs if spec.title in gating)
    return list(dict.fromkeys(filter(None, named)))


def _new(case: Case, version: str) -> Case:
    absolute = tuple(t for t in case.thresholds if not t.change)
    return replace(case, thresholds=absolute, pareto=None, new_since=version)


def _listed(cases: Iterable[Case]) -> set[str]:
    return {name for case in cases if case.manifest for name in case.manifest.members}


def _removed(
    specs: Sequence[Spec], cases: Iterable[Case], expected: Iterable[Recorded]
) -> set[CaseRef]:
    """Return the earlier members that are gone on purpose.

    A spec speaks of its own members only, a manifest of all of the release.
    """
    of_specs = {(spec.title, name) for spec in specs for name in spec.members.removed}
    of_manifests = {name for case in cases if case.manifest for name in case.manifest.removed}
    return {
        recorded.ref
        for recorded in expected
        if recorded.member in of_manifests or (recorded.spec, recorded.member) in of_specs
    }


def _not_new(case: Case, version: str, records: Iterable[Recorded]) -> Iterator[MemberProblem]:
    """Yield why a member without an earlier self is not simply new."""
    if case.earlier_name != case.member:
        yield MemberProblem(
            case.ref.title,
            f"was {case.earlier_name!r} before, as its manifest says, but {version} has none of "
            "that name by this spec",
        )
    # A renamed or copied spec would otherwise leave out all bounds on changes.
    others = [
        recorded.spec
        for recorded in records
        if recorded.member == case.earlier_name
        and recorded.record.hook == case.spec.hook
        and recorded.spec != case.ref.spec
    ]
    if others and case.member not in case.spec.members.added:
        yield MemberProblem(
            case.ref.title,
            f"is in {version} by {', '.join(sorted(others))}, and not by this spec; gate it by "
            "that spec, or list it as added in this one",
        )


def _without_bounds(cases: Iterable[Case]) -> Iterator[MemberProblem]:
    for case in cases:
        if case.new_since and not case.thresholds:
            yield MemberProblem(
                case.ref.title,
                f"is new since {case.new_since} and has no bound in force: all are on changes; add "
                "one that needs no earlier version",
            )


def _unplanned(cases: Sequence[Case]) -> Iterator[MemberProblem]:
    """Yield each member of the manifests that no spec of the run gates."""
    gated = {case.member for case in cases}
    manifests = {case.manifest.file: case.manifest for case in cases if case.manifest}
    versions = sorted({manifest.version for manifest in manifests.values()})
    if len(versions) > 1:
        files = ", ".join(map(str, manifests))
        yield MemberProblem("the release", f"has the versions {', '.join(versions)} ({files})")
    for file, manifest in manifests.items():
        for name in manifest.members:
            if name not in gated:
                yield MemberProblem(name, f"is in {file}, and this run does not gate it")
