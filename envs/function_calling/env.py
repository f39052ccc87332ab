"""Function calling, `agentrl/FunctionCalling-v0`: which functions to call, with which arguments, for what a user asks.

Every task offers functions of its own. Nothing is executed: the policy's first message is the answer, its calls are
compared with those that count. Files of the leaderboard's form are read by path; without one there is a small set of
our own. Invariant: a message is right by its calls alone, whatever else it says.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import zip_longest
from pathlib import Path
from typing import Any

from gymnasium.error import ResetNeeded

from agentrl.env import Action, AsyncEnv, Observation, Step, as_message
from agentrl.errors import ConfigError, EnvError
from agentrl.messages import Message, Role, ToolCall, assistant, system, tool_result
from agentrl.registry import nearest
from agentrl.task import ListedTasks, Task, TaskSet, Verdict
from agentrl.tool_env import with_calls
from agentrl.trajectory import StopReason, ToolCallRecord

from .files import LEVELS, Problem, read_problems
from .functions import Function
from .gold import gold_calls
from .match import Call, calls_match

BUNDLED = Path(__file__).parent / "tasks"
BUNDLED_TRAIN_PART = 0.5
RECORDED = "Recorded; nothing was executed."
"""What the environment answers to a call."""
ABSTAINING = "None of the functions can do that."
"""What the oracle says where no call is right."""


@dataclass(frozen=True)
class _Snapshot:
    task: Task | None
    """None if the episode has ended."""
    random_state: Any


class FunctionCallingEnv(AsyncEnv):
    """Call the right functions with the right arguments, or none where none fits; one message an episode."""

    def __init__(
        self,
        *,
        path: str | Path | Sequence[str] | None = None,
        categories: Sequence[str] | None = None,
        train_part: float | None = None,
        system_prompt: str = "",
        split: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Raises `ConfigError`.

        Args:
            path: a folder or files of the leaderboard's form, with the answers in `possible_answer` beside them; by
                default a small set of our own.
            categories: those to take, such as `simple` or `live_multiple`; by default all that can be judged.
            train_part: the part of the tasks, by a hash of the question, that is the split `train`; by default none of
                a file's, which are a benchmark, and half of our own.
            system_prompt: stands before the task's own; empty for none.
            split: what `reset` draws a task from when none is named; by default the first that has tasks.
            render_mode: there is none.
        """
        if train_part is None:
            train_part = BUNDLED_TRAIN_PART if path is None else 0.0
        if not 0 <= train_part <= 1:
            raise ConfigError(f"train_part={train_part!r} must be 0 to 1")
        self._system_prompt = system_prompt
        source = BUNDLED if path is None else path
        problems = read_problems(str(source) if isinstance(source, Path) else source, categories)
        divided: dict[str, list[Problem]] = {name: [] for name in self.splits}
        for problem in _taking_turns(problems):
            divided["train" if _position(problem) < train_part else "test"].append(problem)
        self._tasks = {name: ListedTasks(name, [self._task(name, one) for one in own]) for name, own in divided.items()}
        super().__init__(split=split or ("train" if divided["train"] else "test"), render_mode=render_mode)
        self._running: Task | None = None

    # -- tasks -----------------------------------------------------------------------------------------------------

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split; the categories take turns, so that the first tasks are of all of them."""
        self.check_split(split)
        return self._tasks[split]

    def gold(self, task: Task) -> dict[str, Any] | None:
        """The possible answers under `calls`; an empty `answer` where no call is right; None where any call is."""
        problem: Problem = task.data["problem"]
        if problem.kind == "relevance":
            return None
        return {"calls": list(problem.answers)} if problem.answers else {"answer": ""}

    def fingerprint(self, task: Task) -> dict[str, Any]:
        """The functions as they are shown and typed, and the answers."""
        problem: Problem = task.data["problem"]
        typed = [
            [function.name, function.tool, {key: str(parameter) for key, parameter in function.parameters.items()}]
            for function in problem.functions
        ]
        return {"category": problem.category, "functions": typed, "answers": problem.answers}

    # -- episodes ----------------------------------------------------------------------------------------------------

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        self._running = task = self.choose_task(seed, options)
        problem: Problem = task.data["problem"]
        record: dict[str, Any] = {"id": task.id, "split": task.split, "level": task.level, "category": problem.category}
        if (gold := self.gold(task)) is not None:
            record["gold"] = gold
        tools = [function.tool for function in problem.functions]
        return task.messages, {"task": record, "state_key": _state_key(task.id), "tools": tools}

    async def astep(self, action: Action) -> Step:
        task, message = self._current(), with_calls(as_message(action))
        self._running = None
        problem: Problem = task.data["problem"]
        read = [_read(problem.functions, call) for call in message.tool_calls]
        records = [record for _, record in read]
        verdict = replace(_verdict(problem, [call for call, _ in read]), answer=_written(read))
        observation = tuple(
            tool_result(record.result, call.id, call.name)
            for call, record in zip(message.tool_calls, records, strict=True)
        )
        info = {
            "tool_calls": records,
            "parse_error": any(record.error == "parse" for record in records),
            "metrics": verdict.metrics,
            "state_key": _state_key(task.id, *(f"{record.name} {record.arguments}" for record in records)),
            "stop_reason": str(StopReason.TERMINATED),
            "answer": verdict.answer,
        }
        return Step(observation, verdict.reward, True, False, info)

    async def afinish(self, reason: StopReason) -> Verdict:
        """Nothing was said: wrong, also where no call is right."""
        self._current()
        self._running = None
        return Verdict(0.0, {"correct": 0.0})

    def oracle_action(self) -> Message:
        """The calls that are right, or a refusal."""
        problem: Problem = self._current().data["problem"]
        calls = [
            ToolCall(id=f"call_{index}", name=name, arguments=json.dumps(given, ensure_ascii=False))
            for index, (name, given) in enumerate(gold_calls(problem))
        ]
        return assistant(tool_calls=tuple(calls)) if calls else assistant(ABSTAINING)

    # -- branching -----------------------------------------------------------------------------------------------------

    async def asnapshot(self) -> Any:
        return _Snapshot(self._running, copy.deepcopy(self.np_random.bit_generator.state))

    async def arestore(self, state: Any) -> None:
        if not isinstance(state, _Snapshot):
            raise EnvError(f"not a snapshot of {type(self).__name__}: {type(state).__name__}")
        self._running = state.task
        self.np_random.bit_generator.state = copy.deepcopy(state.random_state)

    # -- within --------------------------------------------------------------------------------------------------------

    def _current(self) -> Task:
        if self._running is None:
            raise ResetNeeded("no episode is under way: call reset first")
        return self._running

    def _task(self, split: str, problem: Problem) -> Task:
        messages = problem.messages
        if self._system_prompt:
            own = messages[0].text if messages[0].role is Role.SYSTEM else ""
            prompt = f"{self._system_prompt}\n\n{own}".strip()
            messages = (system(prompt), *(messages[1:] if own else messages))
        return Task(f"{split}:{problem.name}", split, messages, {"problem": problem}, LEVELS[problem.kind])


def _verdict(problem: Problem, calls: Sequence[Call | None]) -> Verdict:
    """`calls` has None for a call that cannot be read: a call all the same, but never a right one."""
    sound = [call for call in calls if call is not None]
    if problem.kind == "irrelevance":
        correct = functions = not calls
    elif problem.kind == "relevance":
        correct = functions = bool(sound)
    else:
        offered = {function.name: function.offered for function in problem.functions}
        expected = sorted(offered[name] for answer in problem.answers for name in answer)
        functions = len(sound) == len(calls) and sorted(name for name, _ in sound) == expected
        correct = functions and calls_match(problem.functions, problem.answers, sound)
    metrics = {
        "correct": float(correct),
        "correct_functions": float(functions),
        "tool_calls": float(len(calls)),
        "well_formed_calls": float(len(sound)),
    }
    return Verdict(float(correct), metrics)


def _read(functions: Sequence[Function], call: ToolCall) -> tuple[Call | None, ToolCallRecord]:
    """The call for the judge, None if it cannot be read; and its record, with what is wrong without the answer."""

    def record(error: str | None, text: str) -> ToolCallRecord:
        return ToolCallRecord(call.name, call.arguments, text, error)

    if call.error is not None:
        return None, record("parse", f"Error: the tool call could not be parsed: {call.error}")
    try:
        given = json.loads(call.arguments.strip() or "{}")
    except (ValueError, RecursionError):
        return None, record("parse", "Error: the arguments are not JSON")
    if not isinstance(given, dict):
        return None, record("invalid_arguments", "Error: the arguments are no JSON object")
    read = (call.name, given)
    function = next((function for function in functions if function.offered == call.name), None)
    if function is None:
        advice = nearest(call.name[:64], [function.offered for function in functions])
        return read, record("unknown_tool", f"Error: there is no tool {call.name[:64]!r}; {advice}")
    missing = [key for key in function.required if key not in given]
    unknown = [key for key in given if key not in function.parameters]
    if missing or unknown:
        said = f"{missing[0]!r} is missing" if missing else f"{unknown[0][:64]!r} is unknown"
        return read, record("invalid_arguments", f"Error: invalid arguments: {said}")
    return read, record(None, RECORDED)


def _written(read: Sequence[tuple[Call | None, ToolCallRecord]]) -> str:
    """The calls as one text, by which equal answers can be told: arguments in one order and spacing."""
    return ", ".join(f"{record.name}({_arguments(call, record)})" for call, record in read) or "no call"


def _arguments(call: Call | None, record: ToolCallRecord) -> str:
    if call is None:
        return record.arguments
    try:
        text = json.dumps(call[1], sort_keys=True, ensure_ascii=False)
    except RecursionError:  # it was read at the very limit
        return record.arguments
    return text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair cannot be stored


def _taking_turns(problems: Sequence[Problem]) -> list[Problem]:
    """One problem of each category, then the next of each, until there are no more."""
    by_category: dict[str, list[Problem]] = {}
    for problem in problems:
        by_category.setdefault(problem.category, []).append(problem)
    return [problem for row in zip_longest(*by_category.values()) for problem in row if problem is not None]


def _position(problem: Problem) -> float:
    """A number from 0 to 1 that depends on the question alone."""
    text = json.dumps([message.to_wire() for message in problem.messages])
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "little") / 2**32


def _state_key(*parts: str) -> str:
    return blake2b("\x00".join(parts).encode("utf-8", "replace"), digest_size=8).hexdigest()
