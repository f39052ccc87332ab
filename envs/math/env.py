"""`agentrl/Math-v0`: mathematics from one multiplication to systems, probability and integrals, with tools.

The exercises come from generators of ours (levels 1 to 6, seventeen topics) or from a file. Invariants: task i of a
split is a function of (options, split, i); no question of one split occurs in the other, whatever the options and
seeds; the answer is judged as mathematics (`agentrl.rewards.equivalence`), and where the judge itself fails the reward
is 0 and `verifier_failed` 1, so that it can be seen and left out.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from agentrl.errors import ConfigError
from agentrl.generators import Problem, check_sizes, generated_tasks
from agentrl.messages import Message, ToolCall, assistant, system, user
from agentrl.registry import nearest
from agentrl.rewards import extract_answer, numeric_match, parse_number
from agentrl.rewards.equivalence import boxed, equivalent
from agentrl.rewards.formats import AnswerFormat
from agentrl.task import Episode, ListedTasks, Task, TaskSet, Verdict
from agentrl.tool_env import ToolEnv
from agentrl.trajectory import ToolCallRecord

from . import files
from .exercise import Exercise
from .generators import LEVELS, TOPICS

__all__ = ["MathEnv"]

_COMPUTED = re.compile(r"[\w.)]\s*(?:[-+*/%]|\*\*)\s*[\w(.]|\w\(")
"""An operation or a function: a bare number computes nothing."""


class MathEnv(ToolEnv):
    """Mathematics with a calculator and Python. Reward 1 for an answer equal to the gold one, else 0.

    Metrics: `correct`; `correct_tool_use` (right, and a call computed the last step of the solution); `answered` (there
    was an answer in the format asked for); `tool_calls` and `failed_calls`, counted; `right_steps`: the part of the
    solution's steps that calls computed; `verifier_failed`: the judge did not come to an end, which counts as wrong.
    """

    tools: ClassVar[Sequence[str]] = ("calculator", "python")

    def __init__(
        self,
        *,
        levels: tuple[int, ...] | None = None,
        topics: tuple[str, ...] | None = None,
        source: str | Mapping[str, str] | None = None,
        num_tasks: int = 100_000,
        num_test_tasks: int = 1_000,
        seed: int = 0,
        answer_format: AnswerFormat = AnswerFormat.ANY,
        system_prompt: str | None = None,
        right_step_reward: float = 0.0,
        tools: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        """Raises `ConfigError`.

        Args:
            levels: difficulties, 1 to 6, which generated tasks take in turn, or which of a file's levels to keep; by
                default all that the topics have.
            topics: kinds of exercises; by default all.
            source: a file of exercises (GSM8K, MATH or AIME style, `.jsonl`, `.json`, `.csv`, `.parquet`, or
                `hf://datasets/owner/name/file`) instead of the generators, of which every tenth question by its hash is
                for `test`; or a file for each split.
            num_tasks: size of the split `train` of generated tasks.
            num_test_tasks: size of the split `test` of generated tasks.
            seed: of the generated tasks.
            answer_format: how the answer is given.
            system_prompt: empty for none; by default one that names tools and format.
            right_step_reward: for each step of the solution, when a call gives its result for the first time.
            tools: `calculator`, `python`, both, or empty for none.
            **options: of `ToolEnv`.
        """
        self._format = AnswerFormat(answer_format)
        offered = list(self.tools if tools is None else tools)
        if self._format is AnswerFormat.SUBMIT and "submit" not in offered:
            offered.append("submit")
        super().__init__(tools=offered, **options)
        check_sizes(num_tasks=num_tasks, num_test_tasks=num_test_tasks)
        self._sizes = {"train": num_tasks, "test": num_test_tasks}
        self._seed = seed
        self._right_step_reward = right_step_reward
        prompt = self._default_prompt(offered) if system_prompt is None else system_prompt
        self._system = (system(prompt),) if prompt else ()
        self._listed: dict[str, ListedTasks] = {}
        if source is not None:
            self._listed = self._from_files(source, levels, topics)
        else:
            self._topics = _checked_topics(topics)
            self._levels = _checked_levels(levels, self._topics)

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def tasks(self, split: str) -> TaskSet:
        self.check_split(split)
        if self._listed:
            return self._listed[split]
        return generated_tasks(
            "math",
            split,
            self._sizes[split],
            levels=self._levels,
            seed=self._seed,
            draw=self._draw,
            opening=lambda problem: (*self._system, user(problem.question)),
        )

    def gold(self, task: Task) -> dict[str, Any]:
        """The answer, and the steps to it: `tool`, `text` (expression or program) and `result`."""
        return {"answer": task.data["answer"], "steps": task.data["steps"]}

    def oracle_action(self) -> Message:
        """The next step's call, with the tool that is on offer, or the answer once every step is done."""
        episode = self.episode
        steps = episode.task.data["steps"]
        done = _steps_done(episode)
        tried = sum(1 for record in episode.calls if record.name in ("calculator", "python"))
        # a step that no tool here can compute is left to the head; so is one that its tool refuses (a limit)
        for index in range(done, len(steps)):
            call = self._call_for(steps[index]) if tried < 2 * len(steps) else None
            if call is not None:
                return assistant(tool_calls=(call,))
        return self._format.write(episode.task.data["answer"])

    def _call_for(self, step: Mapping[str, str]) -> ToolCall | None:
        if step["tool"] == "calculator" and "calculator" in self._tools:
            return _call("calculator", "expression", step["text"])
        if "python" in self._tools:
            exact = f"from sympy import *\nprint(sympify({step['text']!r}, rational=True))"
            return _call("python", "code", step["text"] if step["tool"] == "python" else exact)
        return None

    # -- rewards -------------------------------------------------------------------------------------------------------

    def turn_reward(self, episode: Episode, records: Sequence[ToolCallRecord]) -> float:
        done = _steps_done(episode)
        new = done - episode.state.get("steps_done", 0)
        episode.state["steps_done"] = done
        return new * self._right_step_reward

    async def judge(self, episode: Episode) -> Verdict:
        text = episode.answer
        whole = self._format is AnswerFormat.ANY
        given = extract_answer(text, whole=True) if whole else self._format.read(episode)
        if self._format in (AnswerFormat.ANY, AnswerFormat.BOXED) and len(boxed(text)) > 1:
            given = text  # several boxes: all must be right
        finding = await equivalent(given or "", episode.task.data["answer"])
        steps, done = len(episode.task.data["steps"]), _steps_done(episode)
        metrics = {
            "correct": float(finding.equal),
            "correct_tool_use": float(finding.equal and 0 < steps == done),
            "answered": float(given is not None),
            "tool_calls": float(len(episode.calls)),
            "failed_calls": float(sum(record.error is not None for record in episode.calls)),
            "right_steps": done / steps if steps else 0.0,
            "verifier_failed": float(finding.failed),
        }
        return Verdict(float(finding.equal), metrics, answer=given or "")

    # -- within --------------------------------------------------------------------------------------------------------

    def _default_prompt(self, offered: Sequence[str]) -> str:
        named = [name for name in offered if name != "submit"]
        use = f" Use the tool{'s' * (len(named) > 1)} {' and '.join(named)} for the computations." if named else ""
        return f"Solve the problem.{use} {self._format.instruction}"

    def _draw(self, rng: random.Random, level: int) -> Problem:
        topic = rng.choice([topic for topic in self._topics if level in TOPICS[topic]])
        drawn: Exercise = rng.choice(TOPICS[topic][level])(rng)
        steps = [{"tool": step.tool, "text": step.text, "result": step.result} for step in drawn.steps]
        return Problem(drawn.question, {"topic": topic, "answer": drawn.answer, "steps": steps})

    def _from_files(
        self, source: str | Mapping[str, str], levels: tuple[int, ...] | None, topics: tuple[str, ...] | None
    ) -> dict[str, ListedTasks]:
        rows = files.read(source, self.splits)
        every = [row for split in rows.values() for row in split]
        for what, wanted, present in (
            ("levels", levels, {row.level for row in every}),
            ("topics", topics, {row.topic for row in every}),
        ):
            for value in wanted or ():
                if value not in present:
                    raise ConfigError(
                        f"{what}: {value!r} is not in the file; {nearest(str(value), sorted(map(str, present)))}"
                    )
        listed = {}
        for split, members in rows.items():
            kept = [
                row for row in members if (not levels or row.level in levels) and (not topics or row.topic in topics)
            ]
            listed[split] = ListedTasks(split, [self._file_task(split, index, row) for index, row in enumerate(kept)])
        return listed

    def _file_task(self, split: str, index: int, row: files.Row) -> Task:
        data = {"topic": row.topic, "answer": row.answer, "steps": []}
        return Task(f"{split}:{index}", split, (*self._system, user(row.question)), data, row.level)


def _checked_topics(topics: tuple[str, ...] | None) -> tuple[str, ...]:
    for topic in topics or ():
        if topic not in TOPICS:
            raise ConfigError(f"topics: {topic!r} is unknown; {nearest(topic, sorted(TOPICS))}")
    if topics == ():
        raise ConfigError(f"topics=(): one or more of {', '.join(sorted(TOPICS))}")
    return tuple(sorted(TOPICS)) if topics is None else tuple(topics)


def _checked_levels(levels: tuple[int, ...] | None, topics: Sequence[str]) -> tuple[int, ...]:
    present = sorted({level for topic in topics for level in TOPICS[topic]})
    if levels is None:
        return tuple(present)
    if not levels or not all(level in LEVELS for level in levels):
        raise ConfigError(f"levels={levels}: one or more of {LEVELS[0]} to {LEVELS[-1]}")
    for level in levels:
        if level not in present:
            raise ConfigError(f"levels={levels}: the topics {', '.join(topics)} have the levels {present}")
    return tuple(levels)


def _call(name: str, argument: str, text: str) -> ToolCall:
    return ToolCall(id="call_0", name=name, arguments=json.dumps({argument: text}))


def _steps_done(episode: Episode) -> int:
    """How far along the solution calls have come: the last step whose result a call computed, in order of the calls.

    A call that gives a later result at once has done the steps before it, too.
    """
    steps = episode.task.data["steps"]
    done = 0
    for record in episode.calls:
        if record.error is None and _COMPUTED.search(record.arguments):
            found = [index for index in range(done, len(steps)) if _gave(record.result, steps[index]["result"])]
            done = max(found) + 1 if found else done
    return done


def _gave(output: str, result: str) -> bool:
    """Whether a tool's output is this result: its last line, without the decimal that a calculator adds."""
    lines = [line for line in output.splitlines() if line.strip()]
    if not lines:
        return False
    said = lines[-1].split(" (", 1)[0].replace(" ", "")
    return said == result.replace(" ", "") or (parse_number(result) is not None and numeric_match(said, result))
