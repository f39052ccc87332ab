"""Gradients that do not depend on how a batch is cut, ordered or spread over processes, for losses of every unit.

The reductions' denominators and the columns are those of the whole step, so each part of a step can be computed
anywhere, and the sum of the parts' gradients is the gradient of the whole.
"""

from __future__ import annotations

from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from numpy.typing import NDArray

from agentrl.config import OptimiserConfig
from agentrl.learner import Learner, Policy
from agentrl.learner.batch import flatten
from agentrl.learner.minibatch import with_defaults
from agentrl.learner.tally import Tally
from agentrl.objectives import build_objective, build_regulariser
from agentrl.trajectory import Row, Trajectory
from tests.learner.tiny_models import make_batch, make_model

CASES: dict[str, dict[str, Any]] = {
    "clip": {"objective": "clip", "regularisers": [{"name": "kl", "beta": 0.1}, {"name": "entropy"}]},
    "turn": {"objective": {"name": "clip", "level": "turn"}, "reduction": "turn_mean"},
    "sequence": {"objective": {"name": "clip", "level": "sequence"}, "reduction": "seq_mean_token_mean"},
    "group": {"objective": "pacs", "reduction": "seq_mean_token_mean"},
    "whole_minibatch": {"objective": {"name": "lp_reg", "fraction": 0.3}},
}


def batch() -> tuple[list[Trajectory], list[NDArray[np.float64]]]:
    """Eight trajectories of two groups, both with both verdicts."""
    trajectories, advantages = [], []
    for seed in range(2):
        members, values = make_batch(seed) if seed else make_batch()
        for index, member in enumerate(members[:4]):
            correct = float(index % 2 == 0)
            trajectories.append(replace(member, task_id=f"task-{seed}", member=index, metrics={"correct": correct}))
            advantages.append(values[index])
    return trajectories, advantages


def learner(case: str, micro_batch_tokens: int) -> Learner:
    spec = CASES[case]
    return Learner(
        Policy(make_model(), precision="fp32"),
        objective=build_objective(spec["objective"]),
        regularisers=[build_regulariser(item) for item in spec.get("regularisers", [])],
        reduction=spec.get("reduction", "token_mean"),
        optimiser=OptimiserConfig(micro_batch_tokens=micro_batch_tokens),
    )


def gradient(
    case: str,
    micro_batch_tokens: int,
    data: tuple[list[Trajectory], list[NDArray[np.float64]]],
    rank: int = 0,
    of: int = 1,
) -> dict[str, torch.Tensor]:
    """The sum of the gradients of every `of`-th micro-batch from the `rank`-th on."""
    own = learner(case, micro_batch_tokens)
    (step,) = own._cut(flatten(*data, with_defaults(data[0], None)))
    tally = Tally()
    own._prescore(step, tally, False)
    own._prepare(step)
    for members in step.bins[rank::of]:
        own._accumulate(step, members, tally, False, False, True)
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad
        for name, weight in own.policy.trainable().items()
    }


def difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """Largest difference, relative to the largest entry where that is above 1."""
    largest = max(1.0, *(float(value.abs().max()) for value in left.values()))
    assert sum(float(value.abs().sum()) for value in left.values()) > 0
    return max(float((left[name] - right[name]).abs().max()) for name in left) / largest


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_do_not_matter(case: str) -> None:
    assert difference(gradient(case, 100_000, batch()), gradient(case, 1, batch())) < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_trajectories_does_not_matter(case: str) -> None:
    trajectories, advantages = batch()
    shuffled = [5, 0, 3, 6, 1, 7, 2, 4]
    other = [trajectories[index] for index in shuffled], [advantages[index] for index in shuffled]
    assert difference(gradient(case, 60, batch()), gradient(case, 60, other)) < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_absurd_records_on_observations_change_no_bit(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = gradient(case, 60, batch())
    plain = Trajectory.rows

    def absurd(self: Trajectory) -> list[Row]:
        return [
            replace(row, logprobs=[p if turn else nan for p, turn in zip(row.logprobs, row.turn_ids, strict=True)])
            for row in plain(self)
        ]

    monkeypatch.setattr(Trajectory, "rows", absurd)
    assert difference(before, gradient(case, 60, batch())) == 0


def work(rank: int, case: str, folder: str) -> None:
    """One of two processes: its micro-batches, then the sum over both."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = gradient(case, 60, batch(), rank, 2)
    for value in found.values():
        torch.distributed.all_reduce(value)
    if rank == 0:
        torch.save(found, Path(folder) / "sum.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["clip", "group"])
def test_two_processes_find_the_gradient_of_one(case: str, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (case, str(tmp_path)), nprocs=2)
    summed = torch.load(tmp_path / "sum.pt", weights_only=True)
    assert difference(gradient(case, 60, batch()), summed) < 1e-6
    half = gradient(case, 60, batch(), 0, 2)
    assert difference(summed, half) > 1e-3  # the test can fail: one process alone has another gradient
