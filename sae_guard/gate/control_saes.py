"""How the SAE of a control is made, of what a workbench measures with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sae_guard.gate.cases import Case
    from sae_guard.gate.session import Workbench
    from sae_guard.sae import SAE


def control_sae(case: Case, bench: Workbench) -> SAE:
    """The control; raises whatever measuring the checkpoint of a baseline does."""
    from sae_guard.gate.cases import PERMUTED, RANDOM
    from sae_guard.sae import controls

    if case.control == PERMUTED:
        return controls.permuted_decoder(bench.sae(case.itself))
    if case.control == RANDOM:
        l0 = bench.measurement(case.itself)["l0"]
        d_sae, seen = bench.sae(case.itself).d_sae, bench.seen(case)
        k = min(max(1, round(l0)), d_sae)
        some = seen.some.to(bench.device)
        return controls.random_directions(some, seen.mean, d_sae=d_sae, k=k)
    if case.control == "mean":
        return controls.mean_sae(bench.seen(case).mean).to(bench.device)
    make = {"identity": controls.identity_sae, "zero": controls.zero_sae}[case.control]
    return make(bench.model(case.spec).width(case.hook)).to(bench.device)
