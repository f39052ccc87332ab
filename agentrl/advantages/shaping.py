"""Process and tool-error shaping: small rewards for how an episode went, beside what it was worth (T8).

r'_{i,t} = r_{i,t} + k_i (bonuses - penalties) + F_t. Only the potential term F_t leaves the optimal policy unchanged
(Ng 1999); everything else moves it, so bonuses can be gated by success and what shaping adds up to is capped.
Invariants: a term falls on the turn that earned it; without a call there is no bonus for calls; the verdict and its
metrics stay as they are, so accuracy is not what is shaped. Groups whose outcomes are all equal may get a signal.
Source: constants as in the MT-GRPO, Tree-GRPO, RAGEN and SimpleTIR code; their composition is inferred.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform, TurnTable
from agentrl.components import one_of
from agentrl.errors import ConfigError, TrainingError
from agentrl.registry import advantages
from agentrl.trajectory import ToolCallRecord, Turn


@dataclass(frozen=True)
class TurnEvents:
    """What happened in each turn of an episode; arrays of shape (T_i,)."""

    success: Array
    """Share of the turn's calls that succeeded; 0 without calls."""
    error: Array
    """1: a call failed by the policy's fault (its arguments, an exception in its code, a tool that is not there)."""
    parse_error: Array
    repeat: Array
    """1: a call that the episode had made before, to the letter."""
    called: Array
    void: Array
    """1: neither a call nor an answer: nothing written, or cut at the token limit before a call was complete."""
    env_failure: Array
    """1: a call failed by the environment's fault."""


def events_of(table: TurnTable, environment_errors: frozenset[str]) -> TurnEvents:
    """The events of an episode, from its record; raises `TrainingError` for a table without one."""
    if table.record is None:
        raise TrainingError(f"task {table.task_id!r}: shaping reads the record of an episode, and this table has none")
    turns = table.record.turns
    calls = [turn.tool_calls for turn in turns]
    faults = [[call.error for call in each if call.error is not None and call.error != "parse"] for each in calls]
    return TurnEvents(
        success=_numbers(_share(call.error is None for call in each) for each in calls),
        error=_numbers(any(fault not in environment_errors for fault in each) for each in faults),
        parse_error=_numbers(turn.parse_error for turn in turns),
        repeat=_repeats(calls),
        called=_numbers(bool(each) for each in calls),
        void=_numbers(_is_void(turn) for turn in turns),
        env_failure=_numbers(any(fault in environment_errors for fault in each) for each in faults),
    )


def potential_terms(potentials: Array, gamma: float) -> Array:
    """F_t = gamma Phi(s_{t+1}) - Phi(s_t), shape (T,), of Phi where each turn begins; after the last turn Phi is 0.

    Discounted by `gamma` they add up to -Phi(s_1), whatever the policy did.
    """
    return gamma * np.append(potentials, 0.0)[1:] - potentials


@advantages.register("shaping")
class Shaping(Transform):
    """Bonuses and penalties a turn, by what the record says of its calls; stands before the estimators.

    Metrics, of the batch: `shaping` (mean sum of a trajectory's terms, after gate and cap), `capped` (share of
    trajectories that the cap scaled), `env_failures` and `void_turns` (turns).
    """

    stage = Stage.REWARD

    def __init__(
        self,
        *,
        bonus_success: float = 0.0,
        cost_error: float = 0.05,
        cost_parse_error: float = 0.1,
        cost_repeat: float = 0.0,
        cost_call: float = 0.0,
        cost_void: float = 0.0,
        gate: Literal["none", "reward", "correct"] = "reward",
        cap: float | None = 0.3,
        potential: str | None = None,
        gamma: float = 1.0,
        environment_errors: Sequence[str] = ("timeout",),
        drop_void: bool = False,
    ) -> None:
        """Options; all amounts are at least 0.

        `bonus_success` times the share of a turn's calls that succeeded; the costs are of a turn in which it happened.
        `gate` closes the bonuses, never the costs, of a trajectory whose reward is not above 0 (`reward`), or that is
        not correct. `cap`: most that these terms of a trajectory may add up to, either way; one factor scales them all.
        It should be below the smallest difference of outcomes. `potential`: the column with Phi where each turn
        begins, T_i numbers, such as `answer_probability(closing="<answer>")`; `gamma` is that of its term.
        `environment_errors`: kinds of failed calls that are not the policy's fault (`ToolCallRecord.error`): no cost,
        and the turn's tokens carry no loss. `drop_void`: no token of a trajectory with a void turn carries loss
        (SimpleTIR); it stays in every statistic and denominator.
        """
        costs = {
            "bonus_success": bonus_success,
            "cost_error": cost_error,
            "cost_parse_error": cost_parse_error,
            "cost_repeat": cost_repeat,
            "cost_call": cost_call,
            "cost_void": cost_void,
        }
        for key, value in costs.items():
            if not 0.0 <= value < float("inf"):
                raise ConfigError(f"{key} is {value!r}; it must be at least 0")
        if cap is not None and not cap > 0:
            raise ConfigError(f"cap is {cap!r}; it must be above 0, or null for none")
        if not 0.0 <= gamma <= 1.0:
            raise ConfigError(f"gamma is {gamma!r}; it must lie between 0 and 1")
        self.bonus_success, self.cost_error, self.cost_parse_error = bonus_success, cost_error, cost_parse_error
        self.cost_repeat, self.cost_call, self.cost_void = cost_repeat, cost_call, cost_void
        self.gate = one_of("gate", gate, ("none", "reward", "correct"))
        self.cap, self.potential, self.gamma = cap, potential, gamma
        self.environment_errors = frozenset(environment_errors)
        self.drop_void = drop_void
        self.needs = frozenset(() if potential is None else (potential,))

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        totals: list[float] = []
        capped, failures, void = 0, 0.0, 0.0
        shaped = []
        for credit in groups:
            tables = []
            for member, table in enumerate(credit.tables):
                events = events_of(table, self.environment_errors)
                terms = self._terms(table, events)
                factor = self._factor(terms)
                totals.append(factor * float(terms.sum()))
                capped += factor < 1.0
                failures += events.env_failure.sum()
                void += events.void.sum()
                tables.append(replace(table, rewards=table.rewards + factor * terms + self._potential(table)))
                credit = self._mask(credit, member, events)
            shaped.append(replace(credit, tables=tuple(tables)))
        self.metrics = {
            "shaping": float(np.mean(totals)) if totals else 0.0,
            "capped": capped / max(1, len(totals)),
            "env_failures": float(failures),
            "void_turns": float(void),
        }
        return shaped

    def _terms(self, table: TurnTable, events: TurnEvents) -> Array:
        """Bonuses minus penalties of each turn, shape (T_i,), before the cap."""
        bonus = self.bonus_success * events.success if self._open(table) else np.zeros(table.num_turns)
        return (
            bonus
            - self.cost_error * events.error
            - self.cost_parse_error * events.parse_error
            - self.cost_repeat * events.repeat
            - self.cost_call * events.called
            - self.cost_void * events.void
        )

    def _open(self, table: TurnTable) -> bool:
        if self.gate == "correct":
            return table.verdict("shaping with gate=correct")
        return self.gate == "none" or table.total > 0

    def _factor(self, terms: Array) -> float:
        total = abs(float(terms.sum()))
        return 1.0 if self.cap is None or total <= self.cap else self.cap / total

    def _potential(self, table: TurnTable) -> Array:
        if self.potential is None:
            return np.zeros(table.num_turns)
        values = table.column(self.potential).reshape(-1)
        if len(values) != table.num_turns:
            raise TrainingError(
                f"shaping: {self.potential} has {len(values)} numbers for {table.num_turns} turns of task "
                f"{table.task_id!r}; a potential is one number a turn"
            )
        return potential_terms(values, self.gamma)

    def _mask(self, credit: Credit, member: int, events: TurnEvents) -> Credit:
        turns = events.env_failure > 0
        if self.drop_void and events.void.any():
            turns = np.ones_like(turns)
        return credit.with_mask(member, np.repeat(turns, credit.tables[member].lengths)) if turns.any() else credit


def _numbers(flags: Iterable[float]) -> Array:
    return np.array([float(flag) for flag in flags])


def _share(flags: Iterable[bool]) -> float:
    listed = list(flags)
    return sum(listed) / max(1, len(listed))


def _repeats(calls: Sequence[Sequence[ToolCallRecord]]) -> Array:
    made: set[tuple[str, str]] = set()
    repeats = []
    for each in calls:
        again = False
        for call in each:
            again |= (call.name, call.arguments) in made
            made.add((call.name, call.arguments))
        repeats.append(again)
    return _numbers(repeats)


def _is_void(turn: Turn) -> bool:
    return not turn.tool_calls and (turn.truncated or not turn.message.text.strip())
