"""PSR, NSR, W-REINFORCE: the losses of the specification (27a), drift over many updates (27b), pitfalls."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agentrl import advantages
from agentrl.advantages import NSR, PSR, Array, Transform, WReinforce, attribute, check_order, credited_batch
from agentrl.advantages.base import tables_of
from agentrl.errors import ConfigError, TrainingError
from agentrl.learner.batch import TokenTable, flatten
from agentrl.objectives import ClippedRatio, TokenBatch, reduce, reduction_weights
from agentrl.trajectory import Trajectory
from tests.advantages.bandits import arm_table, effective_number, train
from tests.advantages.hand_made import credit_of, turn

LENGTHS = (2, 4, 3, 1)
RATIOS = (1.5, 1.0, 0.5, 1.0)
VERDICTS = (1, 1, 0, 0)


def member(index: int) -> Trajectory:
    own = turn(tokens=LENGTHS[index], reward=float(VERDICTS[index]))
    return Trajectory("task", member=index, turns=[own], metrics={"correct": float(VERDICTS[index])})


def loss_of(transform: Transform) -> tuple[float, int]:
    """The clip loss of 27a, and over how many tokens."""
    members = [member(index) for index in range(4)]
    batch = credited_batch(attribute([transform], [tables_of(members)]))
    tokens = TokenTable.of(flatten(batch.trajectories, batch.advantages, batch.columns))
    ratios = np.repeat(
        [RATIOS[kept.member] for kept in batch.trajectories], [LENGTHS[k.member] for k in batch.trajectories]
    )
    everything = torch.ones_like(tokens.turn_ids, dtype=torch.bool)
    weights = reduction_weights("token_mean", tokens.sequence_ids, tokens.turn_ids, everything)
    policy_tokens = TokenBatch(
        logprobs=tokens.behaviour + torch.tensor(np.log(ratios)),
        behaviour=tokens.behaviour,
        advantages=tokens.advantages,
        mask=everything,
        sequence_ids=tokens.sequence_ids,
        turn_ids=tokens.turn_ids,
        weights=weights,
    )
    return float(reduce(ClippedRatio()(policy_tokens).loss, policy_tokens)), len(ratios)


@pytest.mark.parametrize(
    ("transform", "loss", "tokens"), [(PSR(), -1.066667, 6), (NSR(), 0.85, 4), (WReinforce(), 0.276, 10)]
)
def test_27a(transform: Transform, loss: float, tokens: int) -> None:
    """The denominator is that of the members that stay."""
    found = loss_of(transform)
    assert found == (pytest.approx(loss, abs=1e-6), tokens)


def test_advantages_and_members_that_leave() -> None:
    group = [arm_table(bool(verdict)) for verdict in VERDICTS]
    psr, nsr, weighted = PSR(), NSR(), WReinforce(positive=0.3)
    credits = [credit_of(transform, group) for transform in (psr, nsr, weighted)]
    assert [credit.trajectory.tolist() for credit in credits] == [[1, 1, 0, 0], [0, 0, -1, -1], [0.3, 0.3, -1, -1]]
    assert [set(credit.dropped) for credit in credits] == [{2, 3}, {0, 1}, set()]
    assert psr.metrics == {"psr_kept": 0.5} and weighted.metrics == {"w_reinforce_kept": 1.0}
    assert credit_of(WReinforce(positive=0.0), group).dropped == frozenset()


def test_equal_groups_are_used_in_full_and_groups_of_one_too() -> None:
    wrong, right = [arm_table(False)] * 3, [arm_table(True)] * 3
    assert credit_of(NSR(), wrong).trajectory.tolist() == [-1, -1, -1]
    assert credit_of(PSR(), right).trajectory.tolist() == [1, 1, 1]
    assert credit_of(NSR(), right).dropped == {0, 1, 2}
    assert credit_of(WReinforce(), [arm_table(False)]).trajectory.tolist() == [-1]
    for name in ("psr", "nsr", "w_reinforce"):
        check_order(advantages.build([name]), group_size=1)


def test_a_batch_that_is_dropped_whole_is_empty() -> None:
    batch = credited_batch(attribute([NSR()], [tables_of([member(0), member(1)])]))
    assert batch.trajectories == []


def test_the_verdict_decides_not_the_reward() -> None:
    bonus = turn(reward=0.2)
    shaped = Trajectory("task", turns=[bonus], metrics={"correct": 0.0})
    assert credit_of(NSR(), tables_of([shaped])).trajectory.tolist() == [-1]
    silent = Trajectory("task-7", turns=[turn(reward=1.0)])
    with pytest.raises(TrainingError, match=r"psr needs a verdict.*task-7"):
        credit_of(PSR(), tables_of([silent]))


@pytest.mark.parametrize("name", ["psr", "nsr", "w_reinforce"])
def test_a_z_score_behind_it_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="undoes"):
        check_order(advantages.build([name, "grpo"]), group_size=8)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"positive is -0\.1"):
        WReinforce(positive=-0.1)


ARMS = [arm_table(arm < 5) for arm in range(10)]


def drift(transform: Transform) -> tuple[Array, Array]:
    """Effective number of correct arms and success of five runs that begin with five equal correct arms (27b)."""
    start = np.tile([0.0] * 5 + [-6.0] * 5, (5, 1))
    policy = train([transform], start, lambda run, arm: ARMS[arm], group=8, steps=1500, step_size=0.1)
    return effective_number(policy, slice(5)), policy[:, :5].sum(axis=1)


def test_negative_reinforcement_does_not_drift_27b() -> None:
    """NSR moves correct arms alike, to the last bit; GRPO drifts by 1e-3, PSR by 0.8."""
    (nsr, solved), (psr, psr_solved) = drift(NSR()), drift(PSR())
    assert nsr.min() > 5 - 1e-9
    assert nsr.mean() > psr.mean() + 0.1
    assert psr.mean() < 4.8
    assert min(solved.min(), psr_solved.min()) >= 0.997


def test_weighted_reinforce_drifts_little_27b() -> None:
    found, solved = drift(WReinforce())
    assert 4.97 < found.mean() < 4.9985  # plain GRPO stays above, PSR far below
    assert solved.min() >= 0.997
