"""The tool `run_tests`: an attempt on the public tests, in a sandbox of its own for every call.

Invariant: it knows the public tests alone; the hidden ones are neither in it nor in what it sends.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from agentrl.components import Spec
from agentrl.sandbox import get_sandbox
from agentrl.task import Episode
from agentrl.tool import Tool, ToolResult

from .generators import called
from .grader import MEMORY, SECONDS, TOTAL_SECONDS, Budget, Case, Grade, grade, whole_program
from .wire import encode, show

OPENING_SECONDS = 30.0
"""What a call has beyond the sandbox's wall limit before it is ended: it may have to wait for a sandbox."""


class RunTests(Tool):
    """Runs code on the public tests: how many pass, and the first that fails."""

    name = "run_tests"

    def __init__(
        self,
        *,
        sandbox: Spec = "fork",
        seconds: float = SECONDS,
        total: float = TOTAL_SECONDS,
        memory: int = MEMORY,
        brief: bool = False,
    ) -> None:
        """Raises `ConfigError`.

        Args:
            sandbox: backend that attempts run in.
            seconds: of the processor, for one test.
            total: of the clock, for all tests of an attempt.
            memory: bytes.
            brief: answer by the first failing test alone, or "passed".
        """
        get_sandbox(sandbox)
        self._spec = sandbox
        self._budget = Budget(seconds, total, memory)
        self._brief = brief
        self._episode: Episode | None = None
        self.best = 0.0
        """Largest share of the public tests that an attempt of this episode has passed."""
        self.timeout = self._budget.limits.wall + OPENING_SECONDS

    async def open(self, episode: Episode) -> None:
        self._episode, self.best = episode, 0.0

    async def snapshot(self) -> float:
        return self.best

    async def restore(self, state: Any) -> None:
        self.best = state

    async def call(self, code: Annotated[str, Field(description="the whole program")]) -> ToolResult:
        if self._episode is None:
            raise RuntimeError("the tool serves an episode: open it first")
        data = self._episode.task.data
        name, tests = data["entry_point"], data["public"]
        source = whole_program(data.get("prompt", ""), name, code)
        graded = await grade(get_sandbox(self._spec), source, name, tests, self._budget)
        self.best = max(self.best, graded.share)
        return ToolResult(self._told(name, tests, graded), data=graded)

    def _told(self, name: str, tests: list[Case], graded: Grade) -> str:
        if graded.error is not None:
            return f"Error: {graded.error}"
        if not tests:
            return "the code was loaded; there are no public tests"
        passed = sum(result.passed for result in graded.results)
        count = "passed" if self._brief else f"passed {passed} of {len(tests)}"
        if passed == len(tests):
            return count
        case, result = next(pair for pair in zip(tests, graded.results, strict=True) if not pair[1].passed)
        line = f"{called(name, case)}: expected {show(encode(case.expected))}, got {result.shown}"
        return line if self._brief else f"{count}\n{line}"
