"""What a submission is worth: it runs in a fresh sandbox on hidden inputs, and its answers are compared here.

Invariant: a sandbox that a submission runs in is given the submission and the arguments of the calls, and nothing else:
no expected value, no reference solution, no code that gives a verdict. Whatever comes out of it is taken as a claim of
what the function returned, in plain data, and a claim scores only by being equal to a value that was never there.

A benchmark's own `check(candidate)` is trusted but executable, so it meets a submission's answers in a third place: one
sandbox records the calls that the check makes of the reference solution, another runs the submission on their
arguments, a third runs the check on a stand-in that repeats the submission's answers by value.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from agentrl.errors import ConfigError, EnvError
from agentrl.sandbox import Execution, Limits, Outcome, Sandbox, run_apart

from . import runner, wire

MAX_SOURCE = 64 << 10
"""Characters of a submission."""
ANSWER_BYTES = 4 << 20
"""Bytes of all answers together that are read."""
SECONDS, TOTAL_SECONDS, MEMORY = 2.0, 10.0, 512 << 20
"""What a submission may use by default: see `Budget`."""
MAX_DEPTH = 200
"""Levels of a value's JSON; a tuple is two."""
STARTUP_SECONDS = 5.0
"""What a sandbox may take beside the tests: to start, and to answer after the last one."""
_REMEMBERED, _LARGEST_REMEMBERED = 2048, 16 << 10
"""Submissions whose outcomes are remembered for each sandbox, and the characters that one may have."""
_remembered: WeakKeyDictionary[Sandbox, dict[str, list[dict[str, Any]]]] = WeakKeyDictionary()
_recorded: WeakKeyDictionary[Sandbox, dict[str, Recording]] = WeakKeyDictionary()
"""By program: as many as the files in use have rows."""
_LATE = ("took longer", "not finished", "not run", "MemoryError")
"""Errors that may be due to how busy the machine was."""
_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_DIED = {
    Outcome.TIMEOUT: "the tests did not finish within {wall:g} s",
    Outcome.MEMORY: "the memory limit was reached",
    Outcome.KILLED: "the interpreter was ended",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One test."""

    args: tuple[Any, ...]
    expected: Any
    """Never leaves this process."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one test gave."""

    passed: bool
    shown: str
    """What the call returned as Python prints it, or one line of error."""
    failed: bool = False
    """Whether there was an error instead of a value."""


@dataclass(frozen=True, slots=True)
class Grade:
    """What a submission gave on a list of tests."""

    results: tuple[Result, ...]
    error: str | None = None
    """Why no test could be run; None if they were."""

    @property
    def share(self) -> float:
        """Passed tests by all; 0 where there are none."""
        return sum(result.passed for result in self.results) / max(len(self.results), 1)

    @property
    def all_passed(self) -> bool:
        return self.error is None and all(result.passed for result in self.results)


@dataclass(frozen=True, slots=True)
class Budget:
    """Time and memory of a submission. Raises `ConfigError`."""

    seconds: float = SECONDS
    """Of the processor, for one call and for loading the submission: a busy machine changes no verdict."""
    total: float = TOTAL_SECONDS
    """Of the clock, for all calls together; the tests after that fail."""
    memory: int = MEMORY
    """Bytes."""

    def __post_init__(self) -> None:
        for key in ("seconds", "total", "memory"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ConfigError(f"{key}={getattr(self, key)!r} must be a positive number")

    @property
    def limits(self) -> Limits:
        """Of the sandbox, which ends from outside what the runner within could not."""
        wall = self.total + self.seconds + STARTUP_SECONDS
        return Limits(wall=wall, cpu=wall, memory=self.memory, output=ANSWER_BYTES)


@dataclass(frozen=True, slots=True)
class Recording:
    """The calls that a benchmark's check makes, with what the reference solution answers."""

    calls: tuple[str, ...]
    outcomes: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a final submission is worth."""

    correct: bool
    """Every hidden test passes."""
    hidden: float
    """Share of the hidden tests that pass; a benchmark's check is one test."""
    public: float
    """Share of the public tests; 0 where there are none."""


def extract_code(text: str) -> str:
    """The code of a message: its last fenced block (one that is never closed counts), else the whole message."""
    blocks = _FENCE.findall(text)
    return blocks[-1] if blocks else text


def whole_program(prompt: str, entry_point: str, code: str) -> str:
    """The submission as one program: the prompt's imports and helpers stand before it, or it completes the prompt."""
    if not prompt or not code.strip():
        return code
    defined = re.search(rf"^(async )?def {re.escape(entry_point)}\b|^{re.escape(entry_point)}\s*=", code, re.MULTILINE)
    return f"{prompt}\n    pass\n\n{code}" if defined else f"{prompt}{code}"


async def grade(sandbox: Sandbox, source: str, entry_point: str, cases: Sequence[Case], budget: Budget) -> Grade:
    """Run the submission on the arguments of `cases`, in a sandbox of its own, and compare.

    Raises `SandboxError` if no sandbox can be had; whatever the submission does is a failed test.
    """
    outcomes = await answers(sandbox, source, entry_point, [_call(case) for case in cases], budget)
    if isinstance(outcomes, str):
        failed = Result(False, outcomes, True)
        return Grade((failed,) * len(cases), outcomes)
    return Grade(tuple(_result(case.expected, outcome) for case, outcome in zip(cases, outcomes, strict=True)))


async def answers(
    sandbox: Sandbox, source: str, entry_point: str, calls: Sequence[str], budget: Budget
) -> list[dict[str, Any]] | str:
    """Each call's outcome as the sandbox claims it, `{"value": ...}` or `{"error": line}`; or why there is none.

    The same submission on the same calls is not run again for a while: a group of a policy's attempts at one task holds
    many that are equal. What took too long or broke a limit is not remembered: that may have been the machine's doing.
    """
    if not source.strip():
        return "there is no code"
    if len(source) > MAX_SOURCE:
        return f"the code has more than {MAX_SOURCE} characters"
    remembered = _remembered.setdefault(sandbox, {})
    key = json.dumps([entry_point, budget.seconds, budget.total, budget.memory, source, *calls])
    if (before := remembered.get(key)) is not None:
        return before
    execution = await _run(sandbox, "main", budget, source=source, entry_point=entry_point, calls=list(calls))
    if execution.outcome in _DIED:
        return _DIED[execution.outcome].format(wall=budget.limits.wall)
    outcomes = _claimed(execution, len(calls))
    small = len(execution.value or "") + len(key) <= _LARGEST_REMEMBERED
    if small and isinstance(outcomes, list) and not any(map(_is_late, outcomes)):
        remembered[key] = outcomes
        if len(remembered) > _REMEMBERED:
            remembered.pop(next(iter(remembered)), None)  # the oldest
    return outcomes


async def judge_by_cases(sandbox: Sandbox, source: str, data: Mapping[str, Any], budget: Budget) -> Judgement:
    """Judge by the tests in a task's `data`, public and hidden ones in the same sandbox."""
    public, hidden = data["public"], data["hidden"]
    graded = await grade(sandbox, source, data["entry_point"], [*public, *hidden], budget)
    last = Grade(graded.results[len(public) :], graded.error)
    return Judgement(last.all_passed, last.share, Grade(graded.results[: len(public)]).share)


async def judge_by_check(sandbox: Sandbox, code: str, data: Mapping[str, Any], budget: Budget) -> Judgement:
    """Judge by the check program in a task's `data`; raises `EnvError` where that is at fault."""
    recording = await record(sandbox, data["check"], data["entry_point"], budget)
    public: Sequence[Case] = data["public"]
    source = whole_program(data["prompt"], data["entry_point"], code)
    calls = [*map(_call, public), *recording.calls]
    outcomes = await answers(sandbox, source, data["entry_point"], calls, budget)
    if isinstance(outcomes, str):
        return Judgement(False, 0.0, 0.0)
    shown = tuple(_result(case.expected, outcome) for case, outcome in zip(public, outcomes, strict=False))
    correct = await accepted(sandbox, data["check"], recording, outcomes[len(public) :], budget)
    return Judgement(correct, float(correct), Grade(shown).share)


async def record(sandbox: Sandbox, program: str, entry_point: str, budget: Budget) -> Recording:
    """Run `check(candidate)` of a trusted program on its own function `entry_point`; the same one is run once.

    Raises `EnvError` where the check refuses its own solution or passes it what is no plain data.
    """
    recorded = _recorded.setdefault(sandbox, {})
    if (before := recorded.get(program)) is not None:
        return before
    execution = await _run(sandbox, "record", budget, source=program, entry_point=entry_point)
    answer = _parsed(execution)
    error = answer.get("verdict", {}).get("error") if answer else execution.stderr.strip() or str(execution.outcome)
    if error:
        raise EnvError(f"the check of {entry_point!r} does not accept its own solution: {error}")
    recorded[program] = Recording(tuple(answer["calls"]), tuple(answer["outcomes"]))
    return recorded[program]


async def accepted(
    sandbox: Sandbox, program: str, recording: Recording, outcomes: Sequence[Mapping[str, Any]], budget: Budget
) -> bool:
    """Whether the trusted program's check accepts these answers to the recorded calls."""
    if [_exact(outcome) for outcome in outcomes] == [_exact(outcome) for outcome in recording.outcomes]:
        return True  # the very answers that it accepted when they were recorded
    return await replayed(sandbox, program, recording, outcomes, budget)


async def replayed(
    sandbox: Sandbox, program: str, recording: Recording, outcomes: Sequence[Mapping[str, Any]], budget: Budget
) -> bool:
    """As `accepted`, by running the check in any case."""
    execution = await _run(
        sandbox, "replay", budget, source=program, calls=list(recording.calls), outcomes=list(outcomes)
    )
    return "value" in _parsed(execution).get("verdict", {})


# -- within ------------------------------------------------------------------------------------------------------------


@cache
def _runner() -> str:
    return inspect.getsource(runner)


async def _run(sandbox: Sandbox, function: str, budget: Budget, **request: Any) -> Execution:
    payload = json.dumps({"seconds": budget.seconds, "total": budget.total, **request})
    return await run_apart(sandbox, f"{_runner()}\n\n{function}({payload!r})", limits=budget.limits)


def _parsed(execution: Execution) -> dict[str, Any]:
    """The object that the sandbox answered with; empty where it did not answer with one."""
    try:
        answer = json.loads(execution.value or "")
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _claimed(execution: Execution, count: int) -> list[dict[str, Any]] | str:
    """The outcomes that a submission's sandbox answered with, in a form that the rest can rely on, or an error."""
    answer = _parsed(execution)
    if isinstance(answer.get("error"), str):
        return str(answer["error"])
    outcomes = answer.get("outcomes")
    if not isinstance(outcomes, list) or len(outcomes) != count or not all(map(_is_outcome, outcomes)):
        return "the tests were not run to their end"
    return [{"error": "returned a value nested too deeply"} if _is_deep(outcome) else outcome for outcome in outcomes]


def _is_outcome(outcome: Any) -> bool:
    if not isinstance(outcome, dict) or len(outcome) != 1:
        return False
    return "value" in outcome or isinstance(outcome.get("error"), str)


def _is_late(outcome: Mapping[str, Any]) -> bool:
    return "error" in outcome and outcome["error"].startswith(_LATE)


def _is_deep(value: Any) -> bool:
    """Whether JSON is nested beyond `MAX_DEPTH`; looks without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for part in level if isinstance(part, dict | list) for item in _items(part)]
        if not level:
            return False
    return True


def _items(part: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return part.values() if isinstance(part, dict) else part


def _call(case: Case) -> str:
    return json.dumps(wire.encode([list(case.args), {}]))


def _result(expected: Any, outcome: Mapping[str, Any]) -> Result:
    if "error" in outcome:
        return Result(False, str(outcome["error"])[: wire.SHOWN], True)
    return Result(wire.matches(expected, outcome["value"]), wire.show(outcome["value"]))


def _exact(outcome: Mapping[str, Any]) -> str:
    try:
        return wire.canonical(outcome["value"]) if "value" in outcome else f"error {outcome['error']}"
    except (RecursionError, TypeError, ValueError):
        return "malformed"
