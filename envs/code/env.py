"""`agentrl/Code-v0`: write a Python function that passes hidden tests; the public ones can be run on the way.

The hidden tests' arguments meet the submission in a fresh sandbox, their expected values stay in this process: see
`grader`. Invariants: task i of a split is a function of (options, split, i), and no function of one split is asked for
in the other; what scores is equality of plain values, and nothing that runs beside the submission knows them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Literal

from agentrl.components import Spec
from agentrl.env import ListedTasks, Task, TaskSet
from agentrl.errors import ConfigError
from agentrl.generators import Problem, check_sizes, generated_tasks
from agentrl.messages import Message, ToolCall, assistant, system, user
from agentrl.sandbox import get_sandbox
from agentrl.tool_env import Episode, ToolEnv, Verdict
from agentrl.trajectory import ToolCallRecord

from .families import FAMILIES, by_example
from .files import read_problems
from .generators import MAX_LEVEL, check_families, draw_problem, key
from .grader import (
    MEMORY,
    SECONDS,
    TOTAL_SECONDS,
    Budget,
    Judgement,
    extract_code,
    judge_by_cases,
    judge_by_check,
)
from .tests_tool import RunTests

SYSTEM_PROMPT = "Write the Python function that is asked for; hidden tests decide."
_WITH_TOOL = "The tool run_tests runs code on the public tests."
_ANSWER = {
    "code": "Answer with the whole program in one ```python block.",
    "submit": "Give the whole program to the tool submit.",
}


class CodeEnv(ToolEnv):
    """A function to write. Reward 1 if all hidden tests pass, else 0.

    Metrics: `correct`; `hidden_passed` and `public_passed`, shares of the tests that the final code passes;
    `tool_calls`.
    """

    tools: ClassVar[Sequence[Any]] = (RunTests,)

    def __init__(
        self,
        *,
        levels: tuple[int, ...] = (1,),
        families: tuple[str, ...] = tuple(FAMILIES),
        num_tasks: int = 100_000,
        num_test_tasks: int = 1_000,
        seed: int = 0,
        source: str | Path | None = None,
        test_fraction: float = 1.0,
        sandbox: Spec = "fork",
        seconds: float = SECONDS,
        total: float = TOTAL_SECONDS,
        memory: int = MEMORY,
        reward: Literal["all", "fraction"] = "all",
        public_pass_reward: float = 0.0,
        public_gain_reward: float = 0.0,
        answer_format: Literal["code", "submit"] = "code",
        system_prompt: str | None = None,
        brief: bool = False,
        split: str | None = None,
        tools: Sequence[str] | None = None,
        tool_options: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        """Raises `ConfigError`, also where the sandbox does not work on this machine.

        Args:
            levels: 1 to 4; tasks take them in turn.
            families: kinds of functions, of `families.FAMILIES` and `by_example`, where the question names a form with
                holes and running the tests tells what they hold.
            num_tasks: size of the split `train`.
            num_test_tasks: size of the split `test`.
            seed: of the tasks.
            source: a file in the form of HumanEval or MBPP (`.jsonl`, `.json`, `.csv`, `.parquet`, also `.gz`) instead
                of generated tasks; `levels`, `families`, sizes and `seed` are then of no use.
            test_fraction: share of a file's tasks, by a hash of their names, that are `test`; the others are `train`.
            sandbox: backend that submissions run in, for grading and in the tools.
            seconds: of the processor that one test may take.
            total: seconds of the clock that all tests of a submission may take; the ones after that fail.
            memory: bytes that a submission may use.
            reward: `all` for 1 or 0, `fraction` for the share of hidden tests that pass (for a file's tasks as `all`).
            public_pass_reward: for the turn in which an attempt first passes all public tests.
            public_gain_reward: for a turn, times the share of public tests that it gains over the best before it. Both
                can be earned by code that knows the public tests only.
            answer_format: `code`: the last fenced block of the final message, else the whole message. `submit`: what
                the tool `submit` is given.
            system_prompt: empty for none; by default one that fits the tools and the answer format.
            brief: short questions in `by_example`, results of `run_tests` of one line, and an oracle that answers with
                bare code: for small policies.
            split: as in `ToolEnv`; by default the first that has tasks.
            tools: as in `ToolEnv`; `run_tests` and registered ones such as `python`.
            tool_options: as in `ToolEnv`.
            **options: of `ToolEnv`.
        """
        self._levels, self._families = tuple(levels), tuple(families)
        self._sizes = {"train": num_tasks, "test": num_test_tasks}
        self._seed, self._brief = seed, brief
        self._sandbox, self._budget = sandbox, Budget(seconds, total, memory)
        self._reward, self._format = reward, answer_format
        self._pass_reward, self._gain_reward = public_pass_reward, public_gain_reward
        self._check(test_fraction)
        offered = [*(["run_tests"] if tools is None else tools)]
        if answer_format == "submit" and "submit" not in offered:
            offered.append("submit")
        own = {"sandbox": sandbox, "seconds": seconds, "total": total, "memory": memory, "brief": brief}
        defaults: dict[str, dict[str, Any]] = {"run_tests": own, "python": {"sandbox": sandbox}}
        given = {name: defaults[name] for name in offered if name in defaults}
        given |= {name: {**given.get(name, {}), **chosen} for name, chosen in (tool_options or {}).items()}
        self._system = self._prompt(system_prompt, offered)
        self._files = None if source is None else self._listed(source, test_fraction)
        if split is None and self._files is not None and not len(self._files["train"]):
            split = "test"
        super().__init__(split=split, tools=offered, tool_options=given, **options)

    # -- tasks -------------------------------------------------------------------------------------------------------

    def tasks(self, split: str) -> TaskSet:
        self.check_split(split)
        if self._files is not None:
            return self._files[split]
        return generated_tasks(
            "code",
            split,
            self._sizes[split],
            levels=self._levels,
            seed=self._seed,
            draw=lambda rng, level: draw_problem(rng, level, self._families, self._brief),
            opening=self._opening,
            key=key,
        )

    def gold(self, task: Task) -> dict[str, Any]:
        """The reference solution, a whole program."""
        return {"code": task.data["solution"]}

    # -- the episode -------------------------------------------------------------------------------------------------

    def turn_reward(self, episode: Episode, records: Sequence[ToolCallRecord]) -> float:
        tool = episode.tools.get("run_tests")
        if not isinstance(tool, RunTests):
            return 0.0
        before = episode.state.get("best_public", 0.0)
        episode.state["best_public"] = tool.best
        passed = tool.best == 1.0 and before < 1.0
        return self._gain_reward * (tool.best - before) + self._pass_reward * passed

    async def judge(self, episode: Episode) -> Verdict:
        data = episode.task.data
        given = (episode.submission or "") if self._format == "submit" else episode.answer
        code = extract_code(given)
        sandbox = get_sandbox(self._sandbox)
        if "check" in data:
            judged = await judge_by_check(sandbox, code, data, self._budget)
        else:
            judged = await judge_by_cases(sandbox, code, data, self._budget)
        return Verdict(self._worth(judged), self._metrics(episode, judged))

    def oracle_action(self) -> Message:
        """An attempt with `run_tests` where it is on offer, then the answer.

        In `by_example` it writes what follows from the tool's results alone, so that a policy can imitate it.
        """
        episode = self.episode
        data = episode.task.data
        records = [record for record in episode.calls if record.name == "run_tests" and record.error is None]
        if "run_tests" not in episode.tools:
            return self._answered(data["solution"])
        if "form" not in data:
            return self._answered(data["solution"]) if records else self._attempt(data["solution"])
        if records and records[-1].result.startswith("passed") and "\n" not in records[-1].result:
            return self._answered(json.loads(records[-1].arguments)["code"])
        code, certain = by_example.next_attempt(data["form"], [record.result for record in records])
        return self._answered(code) if certain else self._attempt(code)

    # -- within ------------------------------------------------------------------------------------------------------

    def _opening(self, problem: Problem) -> tuple[Message, ...]:
        return (*self._system, user(problem.question))

    def _prompt(self, chosen: str | None, offered: Sequence[str]) -> tuple[Message, ...]:
        if chosen is None:
            parts = [SYSTEM_PROMPT, *([_WITH_TOOL] if "run_tests" in offered else []), _ANSWER[self._format]]
            chosen = " ".join(parts)
        return (system(chosen),) if chosen else ()

    def _listed(self, source: str | Path, test_fraction: float) -> dict[str, ListedTasks]:
        tasks: dict[str, list[Task]] = {name: [] for name in self.splits}
        for name, problem in read_problems(source):
            position = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64
            split = "test" if position < test_fraction else "train"
            tasks[split].append(Task(f"{split}:{name}", split, self._opening(problem), problem.data))
        return {split: ListedTasks(split, listed) for split, listed in tasks.items()}

    def _check(self, test_fraction: float) -> None:
        if not self._levels or not all(1 <= level <= MAX_LEVEL for level in self._levels):
            raise ConfigError(f"levels={self._levels}: one or more of 1 to {MAX_LEVEL}")
        check_families(self._families)
        check_sizes(num_tasks=self._sizes["train"], num_test_tasks=self._sizes["test"])
        for name, value, valid in (
            ("reward", self._reward, ("all", "fraction")),
            ("answer_format", self._format, _ANSWER),
        ):
            if value not in valid:
                raise ConfigError(f"{name}={value!r} is unknown; valid: {', '.join(valid)}")
        if not 0.0 <= test_fraction <= 1.0:
            raise ConfigError(f"test_fraction={test_fraction!r} must be from 0 to 1")
        get_sandbox(self._sandbox)

    def _worth(self, judged: Judgement) -> float:
        return judged.hidden if self._reward == "fraction" else float(judged.correct)

    def _metrics(self, episode: Episode, judged: Judgement) -> dict[str, float]:
        return {
            "correct": float(judged.correct),
            "hidden_passed": judged.hidden,
            "public_passed": judged.public,
            "tool_calls": float(len(episode.calls)),
        }

    def _attempt(self, code: str) -> Message:
        return assistant(tool_calls=(ToolCall(id="call_0", name="run_tests", arguments=json.dumps({"code": code})),))

    def _answered(self, code: str) -> Message:
        if self._format == "submit":
            arguments = json.dumps({"answer": code})
            return assistant(tool_calls=(ToolCall(id="call_0", name="submit", arguments=arguments),))
        return assistant(code if self._brief else f"```python\n{code.rstrip()}\n```")
