"""Early verdicts: how often they are wrong, and what they save.

    python benchmarks/early.py simulate [--runs 10000] [--alpha 0.001]
    python benchmarks/early.py real [--shuffles 200] [--sequences 1024] [--smollm2]

`simulate` draws sets of 1,024 sequences, puts the bound a hair (or a margin) from the value of each
set, and looks after every 32 sequences. `real` measures the demo's SAEs whole, and one of
SmolLM2-135M, and takes early verdicts in random orders of the rows; there it checks the coverage of
the printed intervals too, by resampling sequences.

Shares of FLOPs are those of measurements that stop after as many sequences, counted by
`torch.utils.flop_counter`. Exits 1 where an early verdict is wrong more often than α, or an
interval that is to hold 95 % holds less than 93 % or more than 97 %, beyond what chance explains.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from early_real import covered, early_and_whole, flop_share, subjects
from early_tools import Sets, beside, state
from numpy.typing import NDArray

from sae_guard.core.metrics import metric
from sae_guard.core.statistics.sequential import Rule

TOTAL, EVERY = 1024, 32
MARGINS = (0.05, 0.10, 0.25, 0.50)
HAIR = 1e-9
Draw = Callable[[np.random.Generator, int], tuple[NDArray[np.float64], NDArray[np.float64]]]


class Scenario(NamedTuple):
    """Per-sequence sums of one kind."""

    name: str
    metric: str
    """Whose tail guard is taken."""
    draw: Draw
    """Numerators and denominators, shape [sets, sequences]."""
    tail: float | None = None


def lognormal(cv: float, heavy: bool = False) -> Draw:  # noqa: FBT001, FBT002
    """Values of this coefficient of variation; or with 1 % of them ten times as large."""
    sigma = math.sqrt(math.log1p(cv**2))

    def draw(
        generator: np.random.Generator, sets: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = generator.lognormal(-(sigma**2) / 2, sigma, (sets, TOTAL))
        if heavy:
            values[:, : TOTAL // 100] *= 10
            values = generator.permuted(values, axis=1)
        return values, np.ones_like(values)

    return draw


def score(
    generator: np.random.Generator, sets: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Losses of a sequence go together: CE clean 3 ± 0.5, zero 12 ± 1, patched a tenth more."""
    level = generator.standard_normal((sets, TOTAL))
    clean = 3 + 0.5 * level
    zero = 12 + 0.4 * level + generator.standard_normal((sets, TOTAL))
    added = 0.15 * generator.lognormal(-0.15, 0.55, (sets, TOTAL))
    return added, zero - clean


def fvu(
    generator: np.random.Generator, sets: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared errors that follow the deviations."""
    deviation = generator.lognormal(0, 0.3, (sets, TOTAL))
    return 0.2 * deviation * generator.lognormal(0, 0.25, (sets, TOTAL)), deviation


def exceedances(
    generator: np.random.Generator, sets: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tokens of 127 beyond a bound that 1 % exceed, in bursts."""
    rate = generator.gamma(1.0, 0.01, (sets, TOTAL))
    count = generator.binomial(127, np.minimum(rate, 1)).astype(float)
    return count, np.full((sets, TOTAL), 127.0)


SCENARIOS = (
    Scenario("KL, CV 0.3", "kl", lognormal(0.3)),
    Scenario("KL, CV 0.6", "kl", lognormal(0.6)),
    Scenario("KL, CV 0.6, 1 % of sequences ×10", "kl", lognormal(0.6, heavy=True)),
    Scenario("score", "reconstruction_score", score),
    Scenario("L0, CV 0.15", "l0", lognormal(0.15)),
    Scenario("FVU", "fvu", fvu),
    Scenario("p99, in its exceedance rate", "kl", exceedances, tail=12.5),
)


def simulated(
    scenario: Scenario, rule: Rule, away: float, runs: int, *, kept: bool
) -> tuple[float, float]:
    """Of sets whose bound is so far away, the shares of wrong verdicts and of sequences used."""
    generator = np.random.default_rng(0)
    tail = metric(scenario.metric).tail if scenario.tail is None else scenario.tail
    wrong, used = 0, 0.0
    for start in range(0, runs, 1000):
        numerator, denominator = scenario.draw(generator, min(1000, runs - start))
        ratio = numerator.sum(axis=1) / denominator.sum(axis=1)
        bound = ratio * (1 + away) if kept else ratio * (1 - away)
        sets = Sets(numerator, denominator, bound, tail)
        open_, seen = np.arange(len(ratio)), np.full(len(ratio), TOTAL)
        for n in range(64, TOTAL, EVERY):
            crossed, holds = state(sets, open_, n, rule)
            seen[open_[crossed | holds]] = n
            wrong += int((crossed if kept else holds & ~crossed).sum())
            open_ = open_[~(crossed | holds)]
        used += float(seen.sum()) / TOTAL
    return wrong / runs, used / runs


def simulate(args: argparse.Namespace) -> bool:
    """Print error rates at the bound, and shares used beside it."""
    rule = Rule(args.alpha)
    beside(SCENARIOS[1].draw(np.random.default_rng(1), 20), rule)
    columns = ["scenario", "false PASS ÷ α", "false FAIL ÷ α"]
    columns += [f"{margin:.0%}" for margin in MARGINS]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)  # noqa: T201
    fine = True
    allowed = 1 + 3 / math.sqrt(args.runs * args.alpha)
    for scenario in SCENARIOS:
        at = [
            simulated(scenario, rule, HAIR, args.runs, kept=kept)[0] / rule.alpha
            for kept in (False, True)
        ]
        fine &= max(at) <= allowed
        shares = []
        for margin in MARGINS:
            fail, keep = (
                simulated(scenario, rule, margin, 500, kept=kept) for kept in (False, True)
            )
            fine &= fail[0] == keep[0] == 0
            shares.append(f"{fail[1]:.2f} / {keep[1]:.2f}")
        cells = [scenario.name, *(f"{value:.2f}" for value in at), *shares]
        print(f"| {' | '.join(cells)} |", flush=True)  # noqa: T201
    return fine


def real(args: argparse.Namespace) -> bool:
    """Print how often early verdicts on real measurements hold, what they use, and coverage."""
    fine, rule = True, Rule(args.alpha)
    columns = ["subject", "metric", *_pairs(), "wrong", "coverage"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)  # noqa: T201
    for subject in subjects(args.sequences, smollm2=args.smollm2):
        share = flop_share(subject)
        for name in subject.metrics:
            cells, wrong, runs = [], 0, 0
            for margin, kept in _cases():
                found = early_and_whole(
                    subject.measurement, name, margin, rule, args.shuffles, kept=kept
                )
                wrong += found.wrong
                runs += args.shuffles
                cells.append(f"{share(found.median, name):.2f}")
            coverage = covered(subject.measurement, name)
            fine &= wrong <= args.alpha * runs + 3 * math.sqrt(args.alpha * runs)
            # What chance adds to 1,000 resamples; where nothing varies there is no interval.
            fine &= math.isnan(coverage) or 0.93 - 0.014 <= coverage <= 0.97 + 0.014
            cells += [f"{wrong} of {runs}", f"{coverage:.1%}"]
            print(f"| {subject.name} | {name} | {' | '.join(cells)} |", flush=True)  # noqa: T201
    return fine


def _cases() -> Iterator[tuple[float, bool]]:
    for margin in (0.25, 0.10, 0.05, 0.02):
        yield margin, False
        yield margin, True


def _pairs() -> Sequence[str]:
    return [f"{margin:.0%} {'PASS' if kept else 'FAIL'}" for margin, kept in _cases()]


def main() -> None:
    """Run what is asked for; exit 1 where it is not as promised."""
    parser = argparse.ArgumentParser(description="error rates and savings of early verdicts")
    parser.add_argument("what", choices=["simulate", "real"])
    parser.add_argument("--runs", type=int, default=10_000, help="simulated sets per scenario")
    parser.add_argument("--shuffles", type=int, default=200, help="orders of each measurement")
    parser.add_argument("--sequences", type=int, default=1024, help="of each measurement")
    parser.add_argument("--alpha", type=float, default=1e-3)
    parser.add_argument("--smollm2", action="store_true", help="measure SmolLM2-135M too")
    args = parser.parse_args()
    sys.exit(not {"simulate": simulate, "real": real}[args.what](args))


if __name__ == "__main__":
    main()
