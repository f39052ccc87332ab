"""How often 95 % intervals of an evaluation hold the truth, simulated: shares, their differences, pass@k.

    python benchmarks/interval_coverage.py                                   # the tables of docs/statistics.md
    python benchmarks/interval_coverage.py --evaluations 10000 --json        # closer numbers, for programs
    python benchmarks/interval_coverage.py --tasks 30 --samples 1 8 --shares 0.7 0.75

Two models answer the same tasks. A sample is right where a normal number stays below a threshold; tasks make 40 % of
its variance, and the two models' numbers are correlated by 0.8 between tasks and by 0.3 between samples of one. The
truth is known, so that each evaluation's interval either holds it or does not; one without bounds does not.

Columns: `clustered` is the interval of an accuracy (or of pass@k) in a report, `Wilson` takes all samples as
independent; `Newcombe` is the interval of a difference in a report and `±` half of its mean width in points, `t` the
clustered t interval of the differences; `bootstrap` draws tasks again and takes percentiles.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import isfinite, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from agentrl.evaluation.clusters import clustered_mean, clustered_share, clustered_share_difference
from agentrl.evaluation.intervals import Interval, bootstrap_means, wilson
from agentrl.evaluation.pass_at_k import pass_at_k, pass_curve, task_values
from agentrl.evaluation.samples import TaskCounts, TaskKey

BETWEEN_TASKS = 0.4
"""Part of the variance that a task's samples have in common."""
TASK_CORRELATION, SAMPLE_CORRELATION = 0.8, 0.3
"""Between the two models."""
RESAMPLES = 1000
DRAWS, TRIES = 16, 4
"""Samples of a task, and k, of the second table."""
SHARES = [(0.5, 0.6), (0.9, 0.95), (0.98, 0.99)]
HEADS = {"other": "p'", "wilson": "Wilson", "newcombe": "Newcombe", "half_width": "±"}
FORMS = {"p": "g", "other": "g", "tasks": "d", "samples": "d", "k": "d", "truth": ".4f"}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ShareRow:
    """Coverage, per cent, of an accuracy and of a difference in one design."""

    p: float
    other: float
    tasks: int
    samples: int
    clustered: float
    wilson: float
    newcombe: float
    half_width: float
    """Of Newcombe's interval, points."""
    t: float


@dataclass(frozen=True)
class PassRow:
    """Coverage, per cent, of pass@k in one design."""

    p: float
    k: int
    samples: int
    truth: float
    tasks: int
    clustered: float
    bootstrap: float


class Tally:
    """How many intervals hold the truth."""

    def __init__(self) -> None:
        self.held: dict[str, list[bool]] = {}

    def add(self, name: str, found: Interval, truth: float) -> None:
        bounded = isfinite(found.low) and isfinite(found.high)
        self.held.setdefault(name, []).append(bounded and found.low <= truth <= found.high)

    def percent(self, name: str) -> float:
        return 100 * float(np.mean(self.held[name]))


def verdicts(rng: np.random.Generator, tasks: int, samples: int, shares: tuple[float, float]) -> list[Array]:
    """Right (1.0) and wrong (0.0) of two models, shape (tasks, samples) each."""
    task, sample = rng.normal(size=(2, tasks, 1)), rng.normal(size=(2, tasks, samples))
    for numbers, correlation in ((task, TASK_CORRELATION), (sample, SAMPLE_CORRELATION)):
        numbers[1] = correlation * numbers[0] + sqrt(1 - correlation**2) * numbers[1]
    latent = sqrt(BETWEEN_TASKS) * task + sqrt(1 - BETWEEN_TASKS) * sample
    return [(side < NormalDist().inv_cdf(p)).astype(float) for side, p in zip(latent, shares, strict=True)]


def true_pass_at_k(share: float, k: int) -> float:
    """1 - E (1 - rate)^k over tasks, by quadrature: a task's rate follows from its part of the normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(101)
    threshold, normal = NormalDist().inv_cdf(share), NormalDist()
    own = sqrt(1 - BETWEEN_TASKS)
    rates = [normal.cdf((threshold - sqrt(BETWEEN_TASKS) * float(node)) / own) for node in nodes]
    missed = sum(float(weight) * (1 - rate) ** k for weight, rate in zip(weights, rates, strict=True))
    return 1 - missed / float(weights.sum())


def share_row(
    rng: np.random.Generator, shares: tuple[float, float], tasks: int, samples: int, evaluations: int
) -> ShareRow:
    """Simulate one design of the first table."""
    labels = np.repeat(np.arange(tasks), samples).tolist()
    tally, width, (p, other) = Tally(), 0.0, shares
    for _ in range(evaluations):
        a, b = (side.ravel().tolist() for side in verdicts(rng, tasks, samples, shares))
        difference = clustered_share_difference(a, b, labels)
        width += difference.high - difference.low
        tally.add("clustered", clustered_share(a, labels).interval, p)
        tally.add("wilson", wilson(sum(a), len(a)), p)
        tally.add("newcombe", difference, other - p)
        moved = [after - before for before, after in zip(a, b, strict=True)]
        tally.add("t", clustered_mean(moved, labels).interval, other - p)
    covered = {name: tally.percent(name) for name in tally.held}
    return ShareRow(p, other, tasks, samples, half_width=50 * width / evaluations, **covered)


def pass_row(rng: np.random.Generator, share: float, tasks: int, evaluations: int) -> PassRow:
    """Simulate one design of the second table."""
    tally, truth = Tally(), true_pass_at_k(share, TRIES)
    for index in range(evaluations):
        right = verdicts(rng, tasks, DRAWS, (share, share))[0].sum(axis=1).astype(int).tolist()
        counts = [TaskCounts(TaskKey("e", str(task)), DRAWS, c) for task, c in enumerate(right)]
        point = pass_curve(counts, [TRIES]).at(TRIES)
        values = task_values(counts, [TRIES], pass_at_k)
        (drawn,) = bootstrap_means(values, resamples=RESAMPLES, seed=index)
        tally.add("clustered", Interval(point.value, point.low, point.high), truth)
        tally.add("bootstrap", drawn, truth)
    covered = {name: tally.percent(name) for name in tally.held}
    return PassRow(share, TRIES, DRAWS, truth, tasks, **covered)


def simulate(pairs: Sequence[tuple[float, float]], options: argparse.Namespace) -> tuple[list[ShareRow], list[PassRow]]:
    """All designs; each draws from a seed of its own, whichever others there are."""
    shares = list(product(pairs, options.tasks, options.samples))
    passes = list(product([pair[0] for pair in pairs], options.tasks))
    of_shares, of_pass = list[ShareRow](), list[PassRow]()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("designs", total=len(shares) + len(passes))
        for pair, tasks, samples in shares:
            rng = np.random.default_rng([options.seed, tasks, samples, *(round(1e6 * share) for share in pair)])
            of_shares.append(share_row(rng, pair, tasks, samples, options.evaluations))
            progress.advance(bar)
        for share, tasks in passes:
            rng = np.random.default_rng([options.seed, tasks, round(1e6 * share)])
            of_pass.append(pass_row(rng, share, tasks, options.evaluations))
            progress.advance(bar)
    return of_shares, of_pass


def table(title: str, rows: Sequence[ShareRow | PassRow]) -> Table:
    """Rows under their fields' names."""
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in asdict(rows[0]):
        shown.add_column(HEADS.get(name, name), justify="right")
    for row in rows:
        shown.add_row(*(f"{value:{FORMS.get(name, '.1f')}}" for name, value in asdict(row).items()))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=2000, help="simulated in each design (default 2000)")
    parser.add_argument("--tasks", type=int, nargs="+", default=[16, 50, 200])
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4], help="of each task, in the first table")
    parser.add_argument("--shares", type=float, nargs=2, metavar=("P", "P'"), help="of both models; default: three")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if options.evaluations < 1 or min(options.tasks) < 2 or min(options.samples) < 1:
        parser.error("--evaluations and --samples must be at least 1, --tasks at least 2")
    if options.shares and not all(0 < share < 1 for share in options.shares):
        parser.error("--shares must lie between 0 and 1")
    shares, passes = simulate([tuple(options.shares)] if options.shares else SHARES, options)
    if options.json:
        print(json.dumps({"shares": [asdict(row) for row in shares], "pass_at_k": [asdict(row) for row in passes]}))
        return
    console = Console()
    error = 100 * sqrt(0.95 * 0.05 / options.evaluations)
    console.print(table(f"Accuracy and difference: coverage of 95 % intervals, % (+- {error:.1f})", shares))
    console.print()
    console.print(table(f"pass@{TRIES} of {DRAWS} samples a task: coverage, %", passes))


if __name__ == "__main__":
    main()
