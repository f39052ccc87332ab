"""`agentrl/Arithmetic-v0`: questions whose answer takes one to four calls of the calculator.

A question of level n has n operations, and a call computes one, so that it takes n calls. Invariants: task i of a split
is a function of (options, split, i); no question of one split occurs in the other, whatever the options and seeds.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from agentrl.env import Task, TaskSet
from agentrl.errors import ConfigError
from agentrl.generators import Problem, check_sizes, generated_tasks
from agentrl.messages import Message, ToolCall, assistant, system, user
from agentrl.registry import nearest
from agentrl.rewards import extract_answer, numeric_match
from agentrl.tool_env import Episode, ToolEnv, Verdict
from agentrl.trajectory import ToolCallRecord

SYSTEM_PROMPT = "Use the calculator tool, then answer with the number."
SYSTEM_PROMPT_ALONE = "Answer with the number."
MAX_LEVEL = 4
MAX_DIGITS = 12
_VERBS = {"+": "Add", "-": "Subtract", "*": "Multiply by", "/": "Divide by"}
_OPERATION = re.compile(r"[\d.)]\s*[-+*/%]")

Operation = Literal["+", "-", "*", "/"]


class ArithmeticEnv(ToolEnv):
    """Arithmetic with a calculator. Reward 1 for the right number in the final message, else 0.

    Metrics: `correct`; `tool_calls`, `well_formed_calls` (the calculator could compute them) and `right_calls`
    (they gave the next intermediate result), counted; `correct_tool_use`: right, with every step by a right call.
    """

    tools: ClassVar[Sequence[str]] = ("calculator",)

    def __init__(
        self,
        *,
        levels: tuple[int, ...] = (1,),
        digits: int | tuple[int, ...] = 2,
        operations: tuple[Operation, ...] = ("+", "-", "*"),
        num_tasks: int = 100_000,
        num_test_tasks: int = 1_000,
        seed: int = 0,
        system_prompt: str | None = None,
        max_operations: int | None = 1,
        well_formed_reward: float = 0.0,
        right_call_reward: float = 0.0,
        tools: Sequence[str] | None = None,
        tool_options: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        """Raises `ConfigError`.

        Args:
            levels: numbers of operations, 1 to 4; tasks take them in turn.
            digits: of the operands; one number for all levels, or one for each.
            operations: which of `+ - * /`; divisions come out exactly, and factors after the first step have one digit.
            num_tasks: size of the split `train`.
            num_test_tasks: size of the split `test`.
            seed: of the tasks.
            system_prompt: instead of the usual one; empty for none.
            max_operations: that one call may contain; None is no limit, which makes every level one call.
            well_formed_reward: for a turn whose calls could all be computed, in the first n turns of level n.
            right_call_reward: for each step of the solution, when a call gives its result for the first time.
            tools: as in `ToolEnv`; `()` for mental arithmetic.
            tool_options: as in `ToolEnv`.
            **options: of `ToolEnv`.
        """
        offered = self.tools if tools is None else tools
        own = {"calculator": {"max_operations": max_operations, "functions": False}} if "calculator" in offered else {}
        super().__init__(tools=tools, tool_options={**own, **(tool_options or {})}, **options)
        if system_prompt is None:
            system_prompt = SYSTEM_PROMPT if offered else SYSTEM_PROMPT_ALONE
        self._levels = tuple(levels)
        self._digits = (digits,) * len(self._levels) if isinstance(digits, int) else tuple(digits)
        self._operations = tuple(operations)
        self._sizes = {"train": num_tasks, "test": num_test_tasks}
        self._seed = seed
        self._system = (system(system_prompt),) if system_prompt else ()
        self._well_formed_reward = well_formed_reward
        self._right_call_reward = right_call_reward
        self._check()

    def tasks(self, split: str) -> TaskSet:
        self.check_split(split)
        size, levels = self._sizes[split], self._levels
        draw, opening = self._draw, self._opening
        return generated_tasks("arithmetic", split, size, levels=levels, seed=self._seed, draw=draw, opening=opening)

    def gold(self, task: Task) -> dict[str, Any]:
        """The expressions of the solution in order, and the number."""
        return {"expressions": [expression for expression, _ in task.data["steps"]], "answer": task.data["answer"]}

    def oracle_action(self) -> Message:
        """The next step's call, or the answer once every step is done or where there is nothing to call."""
        episode = self.episode
        steps = episode.task.data["steps"]
        done = _right_calls(episode) if episode.tools else len(steps)
        if done == len(steps):
            return assistant(f"The answer is {episode.task.data['answer']}.")
        arguments = json.dumps({"expression": steps[done][0]})
        return assistant(tool_calls=(ToolCall(id="call_0", name="calculator", arguments=arguments),))

    def turn_reward(self, episode: Episode, records: Sequence[ToolCallRecord]) -> float:
        reward = 0.0
        if episode.turns <= episode.task.level and all(record.error is None for record in records):
            reward += self._well_formed_reward
        right = _right_calls(episode)
        new = right - episode.state.get("right_calls", 0)
        episode.state["right_calls"] = right
        return reward + new * self._right_call_reward

    def judge(self, episode: Episode) -> Verdict:
        given = extract_answer(episode.answer)
        correct = given is not None and numeric_match(given, episode.task.data["answer"])
        right = _right_calls(episode)
        metrics = {
            "correct": float(correct),
            "correct_tool_use": float(correct and right == episode.task.level),
            "tool_calls": float(len(episode.calls)),
            "right_calls": float(right),
            "well_formed_calls": float(sum(record.error is None for record in episode.calls)),
        }
        return Verdict(float(correct), metrics, answer=given or "")

    def _check(self) -> None:
        if not self._levels or not all(1 <= level <= MAX_LEVEL for level in self._levels):
            raise ConfigError(f"levels={self._levels}: one or more of 1 to {MAX_LEVEL}")
        if len(set(self._levels)) != len(self._levels):
            raise ConfigError(f"levels={self._levels}: each level once")
        if len(self._digits) != len(self._levels) or not all(1 <= count <= MAX_DIGITS for count in self._digits):
            raise ConfigError(f"digits={self._digits}: one of 1 to {MAX_DIGITS} for each of levels={self._levels}")
        for operation in self._operations:
            if operation not in _VERBS:
                raise ConfigError(f"operations: {operation!r} is unknown; {nearest(operation, list(_VERBS))}")
        if not self._operations or (set(self._operations) == {"/"} and max(self._levels) > 1):
            raise ConfigError(f"operations={self._operations}: above level 1 there must be another beside '/'")
        check_sizes(num_tasks=self._sizes["train"], num_test_tasks=self._sizes["test"])

    def _draw(self, rng: random.Random, level: int) -> Problem:
        question, steps = _question(rng, level, self._digits[self._levels.index(level)], self._operations)
        return Problem(question, {"steps": steps, "answer": steps[-1][1]})

    def _opening(self, problem: Problem) -> tuple[Message, ...]:
        return (*self._system, user(problem.question))


def _question(rng: random.Random, level: int, digits: int, operations: Sequence[str]) -> tuple[str, list[list[Any]]]:
    """The question and the steps of its solution: [expression, result] each."""
    start = _operand(rng, digits)
    value, steps, told = start, [], [f"Start with {start}."]
    for number in range(level):
        operation = rng.choice(operations)
        if level == 1 and operation == "/":
            operand = max(2, _operand(rng, digits))
            value *= operand
        else:
            operation, operand = _step(rng, value, digits, operation, operations, first=number == 0)
        expression = f"{value} {operation} {operand}"
        value = _apply(value, operation, operand)
        steps.append([expression, value])
        told.append(f"{_VERBS[operation]} {operand}.")
    question = f"What is {steps[0][0]}?" if level == 1 else " ".join([*told, "What is the result?"])
    return question, steps


def _step(
    rng: random.Random, value: int, digits: int, operation: str, operations: Sequence[str], first: bool
) -> tuple[str, int]:
    """An operation and its operand; where no one-digit number divides the value, another operation."""
    if operation == "/":
        divisors = [divisor for divisor in range(2, 10) if value % divisor == 0]
        if divisors:
            return operation, rng.choice(divisors)
        operation = rng.choice([other for other in operations if other != "/"])
    return operation, rng.randint(2, 9) if operation == "*" and not first else _operand(rng, digits)


def _operand(rng: random.Random, digits: int) -> int:
    return rng.randint(10 ** (digits - 1), 10**digits - 1)


def _apply(left: int, operation: str, right: int) -> int:
    if operation == "/":
        return left // right
    return {"+": left + right, "-": left - right, "*": left * right}[operation]


def _right_calls(episode: Episode) -> int:
    """Steps of the solution that calls have computed, in order; a bare number computes nothing."""
    steps = episode.task.data["steps"]
    done = 0
    for record in episode.calls:
        if done == len(steps):
            break
        if record.error is None and _OPERATION.search(record.arguments):
            done += numeric_match(record.result, steps[done][1])
    return done
