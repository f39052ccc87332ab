"""The conformance checker: a good environment passes, and each rule finds the environment that breaks it."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from agentrl.conformance import ConformanceError, Finding, Report, check_environment
from agentrl.env import GeneratedTasks, ListedTasks, Task, TaskSet, make
from agentrl.errors import EnvError
from agentrl.messages import Message, ToolCall, assistant, system, user
from agentrl.task import Episode
from agentrl.tool import Tool, tool
from agentrl.tool_env import ToolEnv, Verdict
from agentrl.trajectory import ToolCallRecord


@tool(inline=True)
def double(number: int) -> int:
    """Doubles a number."""
    return 2 * number


class Good(ToolEnv):
    """Double the number that the question names."""

    tools: ClassVar = (double,)

    def tasks(self, split: str) -> TaskSet:
        self.check_split(split)
        return GeneratedTasks(split, 8, lambda index: self.made(split, index))

    def made(self, split: str, index: int) -> Task:
        number = 100 + 10 * index + (split == "test")
        question = user(f"Double {number}.")
        return Task(f"{split}:{index}", split, (question,), {"number": number, "answer": str(2 * number)})

    def gold(self, task: Task) -> Any:
        return task.data["answer"]

    def oracle_action(self) -> Message:
        if not self.episode.turns:
            arguments = f'{{"number": {self.episode.task.data["number"]}}}'
            return assistant(tool_calls=(ToolCall(id="call_0", name="double", arguments=arguments),))
        return assistant(self.episode.task.data["answer"])

    def judge(self, episode: Episode) -> Verdict:
        correct = float(episode.answer == episode.task.data["answer"])
        return Verdict(correct, {"correct": correct})


class WrongGold(Good):
    def judge(self, episode: Episode) -> Verdict:
        return Verdict(0.0, {"correct": 0.0})


class PaysForNothing(Good):
    def judge(self, episode: Episode) -> Verdict:
        return Verdict(1.0, {"correct": 1.0})


class Unstable(Good):
    def made(self, split: str, index: int) -> Task:
        task = super().made(split, index)
        return Task(task.id, split, task.messages, {**task.data, "salt": random.random()})


class SameQuestions(Good):
    def made(self, split: str, index: int) -> Task:
        task = super().made("train", index)
        return Task(f"{split}:{index}", split, task.messages, task.data)


class Unseeded(Good):
    async def areset(self, **kwargs: Any) -> Any:
        kwargs["seed"] = None
        return await super().areset(**kwargs)


class Clock(Good):
    ticks = itertools.count()

    def turn_reward(self, episode: Episode, records: Sequence[ToolCallRecord]) -> float:
        return float(next(self.ticks))


class Leaky(Good):
    def made(self, split: str, index: int) -> Task:
        task = super().made(split, index)
        hint = system(f"(it is {task.data['answer']})")
        return Task(task.id, split, (hint, *task.messages), task.data)


class Fragile(Good):
    def judge(self, episode: Episode) -> Verdict:
        if len(episode.answer) > 1000:
            raise OverflowError("too long")
        return super().judge(episode)


class Forgetful(Good):
    """Counts calls in an attribute that no snapshot holds."""

    calls = 0

    def turn_reward(self, episode: Episode, records: Sequence[ToolCallRecord]) -> float:
        self.calls += 1
        return 0.0

    async def areset(self, **kwargs: Any) -> Any:
        self.calls = 0
        return await super().areset(**kwargs)

    def judge(self, episode: Episode) -> Verdict:
        verdict = super().judge(episode)
        return Verdict(verdict.reward * min(self.calls, 1), verdict.metrics)


class Held(Tool):
    """Holds a descriptor for ever."""

    name = "double"

    async def open(self, episode: Episode) -> None:
        os.open(os.devnull, os.O_RDONLY)

    async def call(self, number: int) -> int:
        return 2 * number

    async def snapshot(self) -> None:
        return None


class Leaking(Good):
    tools: ClassVar = (Held,)


def finding(report: Report, words: str) -> Finding:
    return next(found for found in report.findings if words in found.rule)


@pytest.fixture(autouse=True)
def few_leaks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.conformance.LEAK_EPISODES", 6)


def test_a_good_environment_passes_every_rule() -> None:
    report = check_environment(Good, "Good", tasks=2)
    assert not report.failures, report.failures
    assert all(found.holds for found in report.findings)
    assert report.steps_per_second is not None
    report.raise_for_failures()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (WrongGold, "oracle's episodes score 1"),
        (PaysForNothing, "empty answer"),
        (Unstable, "the same whenever"),
        (SameQuestions, "No question of one split"),
        (Unseeded, "same seed"),
        (Clock, "re-steps"),
        (Leaky, "gold answer"),
        (Fragile, "No text of the agent's raises"),
        (Forgetful, "snapshot"),
        (Leaking, "Close frees"),
    ],
)
def test_a_rule_finds_what_breaks_it(broken: type[ToolEnv], words: str) -> None:
    report = check_environment(broken, "Broken", tasks=2)
    found = finding(report, words)
    assert found.holds is False, report.findings
    assert found.seen and found.advice
    with pytest.raises(ConformanceError, match="Broken: "):
        report.raise_for_failures()


def test_an_environment_that_crashes_is_a_finding_not_a_crash() -> None:
    class Crashes(Good):
        async def areset(self, **kwargs: Any) -> Any:
            raise EnvError("the server is down")

    report = check_environment(Crashes, "Crashes", tasks=1)
    assert any("the server is down" in found.seen for found in report.failures)


def test_what_does_not_apply_is_not_counted_as_held() -> None:
    class Mute(ToolEnv):
        """No tools, no oracle, one split."""

        splits = ("train",)

        def tasks(self, split: str) -> TaskSet:
            self.check_split(split)
            return ListedTasks(split, [Task("train:0", split, (user("?"),))])

        def judge(self, episode: Episode) -> Verdict:
            return Verdict(0.0)

    report = check_environment(Mute, "Mute")
    assert not report.failures, report.failures
    assert finding(report, "oracle's episodes").holds is None
    assert finding(report, "bad tool call").holds is None
    assert report.steps_per_second is None


def test_the_bundled_arithmetic_keeps_the_contract_without_its_tool_too() -> None:
    for options in ({}, {"tools": []}, {"levels": [2, 3], "digits": 1}):
        report = check_environment(lambda: make("agentrl/Arithmetic-v0", **options), tasks=2)  # noqa: B023
        assert not report.failures, (options, report.failures)
