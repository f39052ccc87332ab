"""ARPO's hierarchical outcome score, from what is recorded of an episode (T8.5, 56).

Invariant: the score replaces every reward of the episode and stands on its last turn; the verdict's metrics stay.
Source: dongguanting/ARPO `verl/utils/reward_score/deep_research.py`. What counts as bad format is inferred: the
repository checks paired tags and a box in the text, which here is the environment's and the renderer's to judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agentrl.advantages.base import Credit, Stage, Transform, TurnTable
from agentrl.errors import ConfigError, TrainingError
from agentrl.registry import advantages
from agentrl.trajectory import StopReason, Trajectory


@advantages.register("arpo_reward")
class ARPOReward(Transform):
    """-1 for bad format; 0 for a wrong answer; the metric (F1) for a right one, +0.1 if each of the tools was used.

    Bad format: a call that could not be parsed, a last turn cut at the token limit, or an episode that a limit ended
    before an answer. A tool counts as used by a call that it executed. Metrics: `bad_format`, `all_tools`: shares.
    """

    stage = Stage.REWARD

    def __init__(
        self,
        *,
        metric: str = "f1",
        tools: Sequence[str] = ("search", "python"),
        bonus: float = 0.1,
        bad_format: float = -1.0,
    ) -> None:
        """`metric`: name of the verdict's metric, 0 to 1. `tools`: those that earn the bonus together; may be none."""
        if isinstance(tools, str) or len(set(tools)) != len(tools):
            raise ConfigError(f"tools is {tools!r}; give a list of different names")
        self.metric, self.tools, self.bonus, self.bad_format = metric, tuple(tools), bonus, bad_format

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        records = [_record(table) for credit in groups for table in credit.tables]
        self.metrics = {
            "bad_format": sum(map(_is_malformed, records)) / max(1, len(records)),
            "all_tools": sum(map(self._used_all, records)) / max(1, len(records)),
        }
        return [replace(credit, tables=tuple(map(self._scored, credit.tables))) for credit in groups]

    def _scored(self, table: TurnTable) -> TurnTable:
        rewards = np.zeros(table.num_turns)
        rewards[-1:] = self.score(_record(table))
        return replace(table, rewards=rewards)

    def score(self, record: Trajectory) -> float:
        """R of an episode; raises `TrainingError` where the environment does not report the metric."""
        if self.metric not in record.metrics:
            raise TrainingError(
                f"arpo_reward reads the metric {self.metric!r}, which the environment does not report "
                f"(task {record.task_id!r}: {', '.join(sorted(record.metrics)) or 'none'})"
            )
        if _is_malformed(record):
            return self.bad_format
        worth = record.metrics[self.metric]
        return worth + self.bonus if worth > 0 and self._used_all(record) else worth

    def _used_all(self, record: Trajectory) -> bool:
        used = {call.name for turn in record.turns for call in turn.tool_calls if call.error is None}
        return bool(self.tools) and used.issuperset(self.tools)


def _record(table: TurnTable) -> Trajectory:
    if table.record is None:
        raise TrainingError(f"task {table.task_id!r}: arpo_reward reads the record of an episode; this table has none")
    return table.record


def _is_malformed(record: Trajectory) -> bool:
    answered = record.stop_reason is StopReason.TERMINATED and bool(record.turns)
    return not answered or record.turns[-1].truncated or any(turn.parse_error for turn in record.turns)
