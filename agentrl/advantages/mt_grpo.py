"""MT-GRPO: turn rewards and outcomes are normalised apart, and a turn's own reward counts where it was earned (T2).

The split: the reward of the last turn is the outcome r^O, those of all turns before it are intermediate, r^T. (The
verdict of an episode that a limit cuts short falls on its last turn, and so does what that turn earned by itself.)
Invariant: all intermediate rewards equal (as where the environment gives none) leave the z-score of the outcome, which
is plain GRPO wherever no episode ends without a result.
Bias: the z-scores include the member itself and, in later turns, only the peers that are alive, so the expected
gradient is not the true one; leave-one-out without a std (`turn_loo`) is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform, TurnTable
from agentrl.advantages.statistics import GroupStatistic, PeerRule
from agentrl.advantages.turn_returns import discounted_returns
from agentrl.components import one_of
from agentrl.errors import ConfigError
from agentrl.registry import advantages


@advantages.register("mt_grpo")
class MTGRPO(Transform):
    """A^O + alpha A^T in turns that the environment answered, A^O in the answer; A^C where no result was received.

    A^T, A^O and A^C are z-scores over the group of intermediate reward, outcome and their sum. A trajectory without any
    result (one turn, no tool call) takes part in A^T with 0 and is itself credited with A^C in all its tokens.

    `form="turns"` has a z-score for each turn, over the members alive at it (T_j >= t; the answer's intermediate reward
    is 0), and A_{i,t} = A^O_i + alpha sum_{t <= s < T_i} gamma^(s-t) A^T_{i,s}. `form="two_turn"` is the repository's:
    one z-score of the sum of a trajectory's intermediate rewards, for its turns up to the first tool result. With at
    most two turns both are the same. Metrics: `turn_reward`, the mean intermediate reward of a trajectory;
    `without_result`, the share of trajectories that no result came back to.

    Source: arXiv 2505.11821 and SiliangZeng/Multi-Turn-RL-Agent `mt_grpo_env_trainer.py` (ddof 1, eps 1e-4); the form
    for more turns is inferred.
    """

    stage = Stage.ESTIMATE
    min_group_size = 2
    scales = True

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        gamma: float = 0.0,
        form: Literal["turns", "two_turn"] = "turns",
        eps: float = 1e-4,
    ) -> None:
        """`alpha`: weight of turn rewards; `gamma`: of later turns' in earlier ones (0: a turn's own alone)."""
        if not 0.0 <= gamma <= 1.0:
            raise ConfigError(f"gamma is {gamma!r}; it must lie between 0 and 1")
        self.form = one_of("form", form, ("turns", "two_turn"))
        if gamma and form == "two_turn":
            raise ConfigError(f"gamma={gamma!r} has no meaning with form='two_turn': there is one intermediate reward")
        self.alpha, self.gamma = alpha, gamma
        self.statistic = GroupStatistic(leave_one_out=False, scale=True, eps=eps)

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        tables = [table for credit in groups for table in credit.tables]
        self.metrics = {
            "turn_reward": float(np.mean([_intermediate(table).sum() for table in tables])) if tables else 0.0,
            "without_result": sum(not _answered(table) for table in tables) / max(1, len(tables)),
        }
        return [self._estimate(credit) for credit in groups]

    def _estimate(self, credit: Credit) -> Credit:
        tables = credit.tables
        answered = np.array([_answered(table) for table in tables], dtype=np.bool_)
        outcome = np.array([table.turn_rewards[-1] if table.num_turns else 0.0 for table in tables])
        outcomes = self.statistic.over_trajectories(outcome)
        combined = self.statistic.over_trajectories(credit.rewards)
        turns = self._per_turn(tables) if self.form == "turns" else self._first_result(tables)
        return replace(
            credit,
            trajectory=credit.trajectory + np.where(answered, outcomes, combined),
            turns=tuple(
                old + self.alpha * new if result else old
                for old, new, result in zip(credit.turns, turns, answered, strict=True)
            ),
        )

    def _per_turn(self, tables: tuple[TurnTable, ...]) -> list[Array]:
        """Sum over s >= t of gamma^(s-t) A^T_{i,s}, G arrays of shape (T_i,)."""
        scores = self.statistic.over_turns([_intermediate(table) for table in tables], PeerRule.ALIVE)
        for score in scores:
            score[-1:] = 0.0  # the answer has no turn reward, whatever its peers earned at that turn
        return [discounted_returns(score, self.gamma) for score in scores]

    def _first_result(self, tables: tuple[TurnTable, ...]) -> list[Array]:
        """A^T_i in the turns up to the first one that the environment answered."""
        scores = self.statistic.over_trajectories(np.array([_intermediate(table).sum() for table in tables]))
        turns = [np.zeros(table.num_turns) for table in tables]
        for score, own, table in zip(scores, turns, tables, strict=True):
            calls = np.flatnonzero(table.tool_called)
            own[: calls[0] + 1 if len(calls) else 1] = score
        return turns


def _intermediate(table: TurnTable) -> Array:
    """r^T of each turn, shape (T_i,): 0 in the last one."""
    rewards = np.array(table.turn_rewards, dtype=np.float64)
    rewards[-1:] = 0.0
    return rewards


def _answered(table: TurnTable) -> bool:
    """Whether a result came back: there was a tool call, or a turn after the first."""
    return table.num_turns > 1 or any(table.tool_called)
