"""`agentrl/ReasoningGym-v0`: a procedural generator of the package reasoning-gym, by name, with its own scorer.

Items are drawn and answers scored in worker processes (`reasoning_source.py`), so that neither a generator that takes
long nor an answer that makes a scorer hang can hold anything up for ever. A hash of the question decides to which split
an item belongs. Invariants: task i of a split is a function of (options, split, i) and of the package's version; no
question of one split occurs in the other.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, ClassVar

from agentrl.errors import ConfigError, EnvError, WorkerError
from agentrl.generators import Problem, check_sizes, generated_tasks
from agentrl.messages import Message, system, user
from agentrl.rewards.formats import AnswerFormat
from agentrl.task import Episode, GeneratedTasks, Task, TaskSet, Verdict
from agentrl.tool_env import ToolEnv
from agentrl.workers import WorkerFailed, WorkerPool, shared_pool

DRAW_SECONDS = 60.0
"""What drawing one item may take; most take less than a millisecond, the largest puzzles many seconds."""
SCORE_SECONDS = 20.0
_CACHED = 64
"""Tasks kept: the members of a group play the same one."""


class ReasoningGymEnv(ToolEnv):
    """One generator of reasoning-gym. The reward is the generator's own score of the answer, 0 to 1.

    Metrics: `correct` (the full score), `score`, `answered`, `tool_calls`; `unreadable`: the scorer raised on the
    answer, which counts as 0; `verifier_failed`: it died or did not come to an end, which counts as 0, too.
    """

    tools: ClassVar[Sequence[str]] = ()

    def __init__(
        self,
        *,
        name: str = "chain_sum",
        config: Mapping[str, Any] | None = None,
        levels: tuple[int, ...] | None = None,
        num_tasks: int = 100_000,
        num_test_tasks: int = 1_000,
        seed: int = 0,
        answer_format: AnswerFormat = AnswerFormat.TAGS,
        system_prompt: str | None = None,
        tools: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        """Raises `ConfigError`.

        Args:
            name: the generator.
            config: its options, without `seed` and `size`; they stand above those of a level.
            levels: steps of the generator's curriculum, from 1, in all its attributes at once; tasks take them in turn.
                By default the generator's own defaults, as level 1.
            num_tasks: size of the split `train`.
            num_test_tasks: size of the split `test`.
            seed: of the tasks.
            answer_format: how the answer is given. Answers may have several lines: `any`, which looks for numbers, fits
                few generators.
            system_prompt: empty for none; by default one that names the format.
            tools: names of tools to offer; by default none.
            **options: of `ToolEnv`.
        """
        self._format = AnswerFormat(answer_format)
        offered = list(self.tools if tools is None else tools)
        if self._format is AnswerFormat.SUBMIT and "submit" not in offered:
            offered.append("submit")
        super().__init__(tools=offered, **options)
        check_sizes(num_tasks=num_tasks, num_test_tasks=num_test_tasks)
        self._name = name
        self._configs: dict[int, dict[str, Any]] = _ask("configurations", name, dict(config or {}), levels)
        self._seed = seed
        prompt = self._format.instruction if system_prompt is None else system_prompt
        self._system = (system(prompt),) if prompt else ()
        sizes = {"train": num_tasks, "test": num_test_tasks}
        self._tasks = {split: self._cached(split, size) for split, size in sizes.items()}

    def tasks(self, split: str) -> TaskSet:
        self.check_split(split)
        return self._tasks[split]

    def gold(self, task: Task) -> dict[str, Any]:
        """The generator's reference answer."""
        return {"answer": task.data["answer"]}

    def fingerprint(self, task: Task) -> dict[str, Any]:
        """Generator, options and answer; the entry itself is pickled, and not always to the same bytes."""
        return {"name": self._name, "config": self._configs[task.level], "answer": task.data["answer"]}

    def oracle_action(self) -> Message:
        return self._format.write(self.episode.task.data["answer"])

    async def judge(self, episode: Episode) -> Verdict:
        given = self._format.read(episode)
        metrics = {"answered": float(bool(given)), "tool_calls": float(len(episode.calls))}
        score, unreadable, failed = 0.0, False, False
        if given:
            data = episode.task.data
            asked = (f"{_SOURCE}:score", self._name, self._configs[episode.task.level], given, data["entry"])
            try:
                score = await shared_pool().run(*asked, timeout=SCORE_SECONDS)
            except WorkerFailed:
                unreadable = True
            except WorkerError:
                failed = True
        metrics |= {"correct": float(score >= 1.0), "score": score}
        metrics |= {"unreadable": float(unreadable), "verifier_failed": float(failed)}
        return Verdict(score, metrics, answer=given or "")

    def _cached(self, split: str, size: int) -> GeneratedTasks:
        tasks = generated_tasks(
            f"reasoning_gym.{self._name}",
            split,
            size,
            levels=tuple(self._configs),
            seed=self._seed,
            draw=self._draw,
            opening=lambda problem: (*self._system, user(problem.question)),
        )
        return GeneratedTasks(split, size, lru_cache(maxsize=_CACHED)(tasks.__getitem__))

    def _draw(self, rng: random.Random, level: int) -> Problem:
        item = _ask("draw", self._name, self._configs[level], rng.getrandbits(31))
        return Problem(item.question, {"answer": item.answer, "entry": item.entry})


def names() -> list[str]:
    """Every generator that can be an environment."""
    found: list[str] = _ask("names")
    return found


_SOURCE = "agentrl.envs.reasoning_source"


def _ask(function: str, *args: Any) -> Any:
    """What a function of the source gives, for blocking code on any thread, an event loop's included.

    The worker is not one of the shared pool: a blocked event loop could not give those back, and would wait for ever.
    """
    with ThreadPoolExecutor(1) as thread:
        asked = _pool(os.getpid()).run(f"{_SOURCE}:{function}", *args, timeout=DRAW_SECONDS)
        try:
            return thread.submit(asyncio.run, asked).result()
        except WorkerFailed as error:
            if error.kind == "ConfigError":
                raise ConfigError(error.message) from None
            raise EnvError(f"reasoning-gym: {error}") from error
        except WorkerError as error:
            raise EnvError(f"reasoning-gym: {error}") from error


@lru_cache(maxsize=1)
def _pool(_pid: int) -> WorkerPool:
    """One worker a process: a forked child must not use its parent's."""
    pool = WorkerPool(size=1)
    atexit.register(pool.close)
    return pool
