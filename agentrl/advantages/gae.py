"""Generalised advantage estimation with a critic: over tokens (B5), over turns, and over both (B6).

V_k is the critic's value of the state *before* policy token k (column `values`), and the value of a turn is that at
its last policy token, e_t. Invariants: observation tokens appear nowhere, so what follows a turn's last token is the
first token of the next turn that has one; a turn is what the record says it is, whatever its reward, and a turn without
policy tokens is none (its reward moves to a neighbour, see `TurnTable.rewards_of_tokens`); `returns` are the critic's
targets and nobody whitens them. The list goes on with `whiten` where the paper whitens.
Sources: arXiv 1506.02438 and 1707.06347, verl `compute_gae_advantage_return`; for turns RAGEN (arXiv 2504.20073) and
VAGEN `compute_bi_level_gae_advantage_return`, `compute_turn_wise_gae_advantage_return`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agentrl.advantages.base import Array, Credit, Stage, Transform, TurnTable
from agentrl.errors import ConfigError, TrainingError
from agentrl.registry import advantages

VALUES = "values"
"""The critic's value of the state before each policy token."""
VALUES_AFTER = "values_after"
"""The critic's value of the state after the last policy token, one number a trajectory."""


def discount(key: str, value: float) -> float:
    """`value`, if a discount can have it."""
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{key} is {value!r}; it must lie between 0 and 1")
    return value


def generalised_advantages(rewards: Array, values: Array, *, gamma: float, lam: float, after: float = 0.0) -> Array:
    """A_k = delta_k + gamma lam A_{k+1}, delta_k = r_k + gamma V_{k+1} - V_k; all of shape (n,).

    `after` is V of what follows the last step: 0 where the episode ended.
    """
    found = np.zeros(len(rewards))
    following, carried = after, 0.0
    for step in reversed(range(len(rewards))):
        carried = float(rewards[step]) + gamma * following - float(values[step]) + gamma * lam * carried
        following = float(values[step])
        found[step] = carried
    return found


@dataclass(frozen=True)
class _Estimate:
    """Of one trajectory, shape (L_i,) each."""

    advantages: Array
    returns: Array


class _WithCritic(Transform):
    """Adds the advantages to the token layer and says what the critic is to predict."""

    stage = Stage.ESTIMATE
    needs = frozenset({VALUES})

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        return [self._credit(credit) for credit in groups]

    def _credit(self, credit: Credit) -> Credit:
        found = [self._estimate(table) for table in credit.tables]
        tokens = tuple(old + new.advantages for old, new in zip(credit.tokens, found, strict=True))
        return replace(credit, tokens=tokens, returns=tuple(new.returns for new in found))

    @abstractmethod
    def _estimate(self, table: TurnTable) -> _Estimate:
        """Advantages and returns of one trajectory."""


@advantages.register("gae")
class GeneralisedAdvantage(_WithCritic):
    """PPO's estimator over policy tokens (B5): a token's advantage is how much better it went on than V_k said.

    gamma and lam count policy tokens: observations are neither discounted nor do they reset anything.
    """

    def __init__(self, *, gamma: float = 1.0, lam: float = 0.95, bootstrap: bool = False) -> None:
        """`bootstrap`: an episode that a limit of turns or context cut ends with V of the state after its last token.

        Off by default: agentrl's environments judge an episode where a limit ends it, so its reward is final and the
        limit is part of the task; on top of that verdict, V would count the future twice. A turn that ran into its own
        token limit cuts no episode, and one with too many malformed calls was ended by a rule: both are terminated.
        """
        self.gamma, self.lam = discount("gamma", gamma), discount("lam", lam)
        self.bootstrap = bootstrap
        self.needs = frozenset({VALUES, VALUES_AFTER}) if bootstrap else frozenset({VALUES})

    def _estimate(self, table: TurnTable) -> _Estimate:
        values = table.column(VALUES)
        after = self._after(table) if self.bootstrap and len(values) else 0.0
        found = generalised_advantages(table.rewards_of_tokens(), values, gamma=self.gamma, lam=self.lam, after=after)
        return _Estimate(found, found + values)

    def _after(self, table: TurnTable) -> float:
        if table.record is None:
            raise TrainingError(f"gae with bootstrap needs the episode's record (task {table.task_id!r})")
        return float(table.column(VALUES_AFTER)) if table.record.stop_reason.cut else 0.0


@advantages.register("turn_gae")
class TurnGeneralisedAdvantage(_WithCritic):
    """A step is a turn: delta_t = r_t + gamma V_{e_{t+1}} - V_{e_t}; every token of turn t gets A_t (B6, 2a).

    r_t sums the rewards of the turn and of its tokens. The critic learns at the turns' last tokens only. Whiten with
    `{name: whiten, unit: turn}`.
    """

    def __init__(self, *, gamma: float = 1.0, lam: float = 1.0) -> None:
        """`gamma` discounts a turn (1.0: Turn-PPO)."""
        self.gamma, self.lam = discount("gamma", gamma), discount("lam", lam)

    def _estimate(self, table: TurnTable) -> _Estimate:
        turns = _turns(table, self.gamma, self.lam)
        returns = np.full(table.num_tokens, np.nan)
        returns[turns.ends] = turns.returns
        return _Estimate(np.repeat(turns.advantages, turns.lengths), returns)


@advantages.register("bilevel_gae")
class BilevelGeneralisedAdvantage(_WithCritic):
    """Turns first, then the tokens of each turn towards the turn's return (VAGEN; B6, 2b).

    Inside turn t the only reward is ret_{e_t} = A_t + V_{e_t}, at e_t, where the recursion ends: the advantage at e_t
    is A_t, and no value crosses the end of a turn. With one turn whose reward is at its end it is `gae`. Rewards of
    tokens (a KL penalty) count as the turn's. The critic learns at every policy token.
    """

    def __init__(self, *, gamma_turn: float = 0.95, gamma_token: float = 1.0, lam: float = 1.0) -> None:
        """`lam` acts at both levels."""
        self.gamma_turn = discount("gamma_turn", gamma_turn)
        self.gamma_token, self.lam = discount("gamma_token", gamma_token), discount("lam", lam)

    def _estimate(self, table: TurnTable) -> _Estimate:
        values = table.column(VALUES)
        turns = _turns(table, self.gamma_turn, self.lam)
        found = np.zeros(table.num_tokens)
        for end, length, target in zip(turns.ends, turns.lengths, turns.returns, strict=True):
            own = slice(end + 1 - length, end + 1)
            rewards = np.zeros(length)
            rewards[-1] = target
            found[own] = generalised_advantages(rewards, values[own], gamma=self.gamma_token, lam=self.lam)
        return _Estimate(found, found + values)


@dataclass(frozen=True)
class _Turns:
    """The turns of a trajectory that have policy tokens, shape (turns,) each."""

    ends: NDArray[np.int64]
    lengths: NDArray[np.int64]
    advantages: Array
    returns: Array


def _turns(table: TurnTable, gamma: float, lam: float) -> _Turns:
    acting = table.lengths > 0
    ends = table.ends[acting]
    values = table.column(VALUES)[ends]
    rewards: Array = np.bincount(table.turn_of_token, table.rewards_of_tokens(), table.num_turns).astype(np.float64)
    found = generalised_advantages(rewards[acting], values, gamma=gamma, lam=lam)
    return _Turns(ends, table.lengths[acting], found, found + values)
