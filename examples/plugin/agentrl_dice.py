"""`dice/Odds-v0`: in how many ways do so many dice show so many points? With a tool that counts.

The whole of an environment: tools, tasks, a judge; a gold answer and an oracle make it checkable and demonstrable.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import agentrl
from agentrl.env import Task, TaskSet
from agentrl.generators import Problem, generated_tasks
from agentrl.messages import Message, ToolCall, assistant, user
from agentrl.rewards import AnswerFormat, numeric_match
from agentrl.tool_env import Episode, ToolEnv, Verdict

MAX_DICE = 8


@agentrl.tool(inline=True)
def dice(count: int) -> dict[int, int]:
    """In how many ways do `count` dice show each sum? At most eight dice."""
    if not 1 <= count <= MAX_DICE:
        raise ValueError(f"count must be 1 to {MAX_DICE}")
    ways = Counter({0: 1})
    for _ in range(count):
        more: Counter[int] = Counter()
        for total, number in ways.items():
            for face in range(1, 7):
                more[total + face] += number
        ways = more
    return dict(ways)


class OddsEnv(ToolEnv):
    """Counting throws of dice. Reward 1 for the right number, else 0."""

    tools: ClassVar[Sequence[Any]] = (dice,)

    def __init__(self, *, levels: tuple[int, ...] = (1, 2), num_tasks: int = 500, **options: Any) -> None:
        """`levels`: 1 is two or three dice, 2 four to eight."""
        super().__init__(**options)
        self._levels, self._size = levels, num_tasks

    def tasks(self, split: str) -> TaskSet:
        self.check_split(split)
        return generated_tasks(
            "dice", split, self._size, levels=self._levels, seed=0, draw=draw, opening=lambda p: (user(p.question),)
        )

    def gold(self, task: Task) -> dict[str, Any]:
        return {"answer": task.data["answer"]}

    def oracle_action(self) -> Message:
        if self.episode.tools and not self.episode.turns:
            arguments = json.dumps({"count": self.episode.task.data["count"]})
            return assistant(tool_calls=(ToolCall(id="call_0", name="dice", arguments=arguments),))
        return AnswerFormat.ANY.write(str(self.episode.task.data["answer"]))

    def judge(self, episode: Episode) -> Verdict:
        given = AnswerFormat.ANY.read(episode)
        correct = float(given is not None and numeric_match(given, episode.task.data["answer"]))
        return Verdict(correct, {"correct": correct, "tool_calls": float(len(episode.calls))})


def draw(rng: random.Random, level: int) -> Problem:
    count = rng.randint(2, 3) if level == 1 else rng.randint(4, MAX_DICE)
    total = rng.randint(count, 6 * count)
    question = f"In how many ways can {count} different dice show {total} points in all?"
    return Problem(question, {"count": count, "answer": dice(count)[total]})
