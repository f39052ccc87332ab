"""`agentrl/Search-v0`: questions over a generated world of articles, or over any corpus and question file.

A question of level n needs n facts, each in the article that the fact before it names. Invariants: task i of a split is
a function of (options, split, i); no entity that questions of one split begin with begins one of the other; the corpus
is written when the first episode needs it, not when the environment is made.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from agentrl.bridge import in_thread
from agentrl.env import Observation, Task, TaskSet
from agentrl.errors import ConfigError
from agentrl.generators import Problem, check_sizes, generated_tasks
from agentrl.messages import Message, ToolCall, assistant, system, user
from agentrl.rewards.formats import AnswerFormat
from agentrl.tool_env import Episode, ToolEnv, Verdict
from agentrl.trajectory import ToolCallRecord

from .articles import Style, corpus_file, write_corpus
from .files import question_tasks
from .judge import exact_match, f1_score, read_answer
from .questions import MAX_HOPS, draw
from .world import MAX_DOCUMENTS, MIN_DOCUMENTS, shared_world

SYSTEM_PROMPT = (
    "Answer the question from the articles. Search for a name and what you want to know of it; the answer may take "
    "several searches, each for what the one before has found. Answer with the name or the number alone."
)
CLOSED_BOOK_PROMPT = "Answer the question with the name or the number alone."
_SHORT_TOOL = {"k": 1, "snippet": 24}
"""One fact a result: a whole episode of one hop has about 200 characters."""
_READING = ("search", "read_page")
"""The tools that need a corpus."""
_NUMBER = re.compile(r"^\d+\. ")


class SearchEnv(ToolEnv):
    """Questions of one to four hops over articles. Reward 1 for the right answer (or its F1), else 0.

    Metrics: `correct` (exact match as in SQuAD) and `f1`; `tool_calls` and `hops_found` (facts of the way to the answer
    that results have shown, in order), counted; `correct_tool_use`: right, with every hop found.
    """

    tools: ClassVar[Sequence[str]] = ("search",)

    def __init__(
        self,
        *,
        levels: tuple[int, ...] | None = None,
        documents: int = 1000,
        style: Style = "full",
        world_seed: int = 0,
        corpus: str | Path | None = None,
        questions: str | Path | None = None,
        test_questions: str | Path | None = None,
        num_tasks: int = 100_000,
        num_test_tasks: int = 1_000,
        seed: int = 0,
        system_prompt: str | None = None,
        answer_format: AnswerFormat = AnswerFormat.ANY,
        reward: Literal["exact", "f1"] = "exact",
        hop_reward: float = 0.0,
        tools: Sequence[str] | None = None,
        tool_options: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        """Raises `ConfigError`.

        Args:
            levels: hops of generated questions, 1 to 4; tasks take them in turn; (1,) by default.
            documents: of the generated world, 100 to 1,000,000.
            style: of the generated articles: `full`, or `short` for policies that read characters, which also sets the
                tool to one result of 24 characters and has no system prompt.
            world_seed: of the generated world.
            corpus: file of one's own articles, see the tool `search`; with `questions`.
            questions: file of one's own questions, see `files.py`; with `corpus`, or a `url` for the tool `search`.
            test_questions: file of the split `test`; else `questions` is divided.
            num_tasks: size of the split `train` of generated questions.
            num_test_tasks: size of the split `test` of generated questions.
            seed: of the generated questions.
            system_prompt: empty for none; by default one that fits the tools.
            answer_format: how the answer is to be written.
            reward: `exact` match, or the words' `f1`.
            hop_reward: for each fact of the way that a result shows for the first time, in order.
            tools: as in `ToolEnv`; `("search", "read_page")` lets the policy read whole articles, too.
            tool_options: as in `ToolEnv`.
            **options: of `ToolEnv`.
        """
        self._style, self._documents, self._world_seed = style, documents, world_seed
        self._levels = (1,) if levels is None else tuple(levels)
        self._answer_format = AnswerFormat(answer_format)
        offered = tuple(self.tools if tools is None else tools)
        if self._answer_format is AnswerFormat.SUBMIT and "submit" not in offered:
            offered = (*offered, "submit")
        given = self._options_of_tools(offered, corpus, tool_options or {})
        self._check(levels, corpus, questions, test_questions, offered, given)
        super().__init__(tools=offered, tool_options=given, **options)
        check_sizes(num_tasks=num_tasks, num_test_tasks=num_test_tasks)
        self._sizes = {"train": num_tasks, "test": num_test_tasks}
        self._seed = seed
        self._reward, self._hop_reward = reward, hop_reward
        self._system = self._system_message(system_prompt)
        self._from_file = question_tasks(questions, test_questions, self._opening) if questions is not None else None
        self._corpus_ready = not self._reading_world or self._from_file is not None

    # -- tasks -----------------------------------------------------------------------------------------------------

    def tasks(self, split: str) -> TaskSet:
        self.check_split(split)
        if self._from_file is not None:
            return self._from_file[split]

        def draw_one(rng: random.Random, level: int) -> Problem:
            return draw(shared_world(self._documents, self._world_seed), self._style, rng, level)

        return generated_tasks(
            f"search.{self._documents}.{self._world_seed}",
            split,
            self._sizes[split],
            levels=self._levels,
            seed=self._seed,
            draw=draw_one,
            opening=self._opening,
            key=lambda problem: str(problem.data["subject"]),
        )

    def gold(self, task: Task) -> dict[str, Any]:
        """The answer, and for generated questions each hop as [query, article's title, fact]."""
        return {"answer": task.data["answers"][0], "hops": [hop[:3] for hop in task.data["hops"]]}

    # -- episodes ----------------------------------------------------------------------------------------------------

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        if not self._corpus_ready:
            await in_thread(partial(write_corpus, self._documents, self._world_seed, self._style))
            self._corpus_ready = True
        return await super().areset(seed=seed, options=options)

    def episode_tool_options(self, task: Task) -> dict[str, dict[str, Any]]:
        if self._from_file is not None:
            return {}
        corpus = corpus_file(self._documents, self._world_seed, self._style)
        return {name: {"corpus": corpus} for name in self._reading_world}

    def oracle_action(self) -> Message:
        """A search for the next hop, another if its result did not show the fact, and the answer after the last hop."""
        episode = self.episode
        hops, found = episode.task.data["hops"], hops_found(episode)
        made = {(record.name, record.arguments) for record in episode.calls}
        if found < len(hops):
            for name, arguments in _attempts(*hops[found][:2]):
                if name in episode.tools and (name, arguments) not in made:
                    return assistant(tool_calls=(ToolCall(id="call_0", name=name, arguments=arguments),))
        return self._answer_format.write(episode.task.data["answers"][0])

    def turn_reward(self, episode: Episode, records: Sequence[ToolCallRecord]) -> float:
        found = hops_found(episode)
        new = found - episode.state.get("hops_found", 0)
        episode.state["hops_found"] = found
        return new * self._hop_reward

    def judge(self, episode: Episode) -> Verdict:
        data = episode.task.data
        given = read_answer(self._answer_format, episode)
        correct, f1 = exact_match(given, data["answers"]), f1_score(given, data["answers"])
        found = hops_found(episode)
        metrics = {
            "correct": float(correct),
            "correct_tool_use": float(correct and found == len(data["hops"]) and bool(episode.calls)),
            "f1": f1,
            "tool_calls": float(len(episode.calls)),
            "hops_found": float(found),
        }
        return Verdict(f1 if self._reward == "f1" else float(correct), metrics, answer=given)

    # -- within ------------------------------------------------------------------------------------------------------

    def _options_of_tools(
        self, offered: tuple[str, ...], corpus: str | Path | None, tool_options: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """What the tools are made with; a corpus or server that the user names for a tool stands above all others."""
        given = {name: dict(chosen) for name, chosen in tool_options.items()}
        reading = [name for name in _READING if name in offered]
        self._reading_world = tuple(name for name in reading if not given.get(name, {}).keys() & {"corpus", "url"})
        if corpus is not None:
            for name in self._reading_world:
                given[name] = {"corpus": corpus, **given.get(name, {})}
        if self._style == "short" and "search" in offered:
            given["search"] = {**_SHORT_TOOL, **given.get("search", {})}
        return given

    def _opening(self, problem: Problem) -> tuple[Message, ...]:
        return (*self._system, user(problem.question))

    def _system_message(self, prompt: str | None) -> tuple[Message, ...]:
        if prompt is None:
            reading = any(name in self._tools for name in _READING)
            prompt = "" if self._style == "short" else SYSTEM_PROMPT if reading else CLOSED_BOOK_PROMPT
            prompt = f"{prompt} {self._answer_format.instruction}".strip() if prompt else ""
        return (system(prompt),) if prompt else ()

    def _check(
        self,
        levels: tuple[int, ...] | None,
        corpus: str | Path | None,
        questions: str | Path | None,
        test_questions: str | Path | None,
        offered: tuple[str, ...],
        given: Mapping[str, Mapping[str, Any]],
    ) -> None:
        if not self._levels or not all(1 <= level <= MAX_HOPS for level in self._levels):
            raise ConfigError(f"levels={self._levels}: one or more of 1 to {MAX_HOPS}")
        if not MIN_DOCUMENTS <= self._documents <= MAX_DOCUMENTS:
            raise ConfigError(f"documents={self._documents!r} must be {MIN_DOCUMENTS} to {MAX_DOCUMENTS}")
        if questions is None:
            for key, value in {"corpus": corpus, "test_questions": test_questions}.items():
                if value is not None:
                    raise ConfigError(f"{key}={str(value)!r} needs questions=FILE: the generated ones are not about it")
            return
        if levels is not None:
            raise ConfigError(f"levels={self._levels} are of generated questions; a file of questions has none")
        if "search" in offered and not given.get("search", {}).keys() & {"corpus", "url"}:
            raise ConfigError(f"questions={str(questions)!r} needs corpus=FILE, or a url for the tool 'search'")


def hops_found(episode: Episode) -> int:
    """Facts of the way that results have shown, in order: a result with the article's title and the value shows one."""
    hops = episode.task.data["hops"]
    found = 0
    for record in episode.calls:
        while record.error is None and found < len(hops) and _shows(record, hops[found]):
            found += 1
    return found


def _shows(record: ToolCallRecord, hop: Sequence[str]) -> bool:
    _, title, _, value = hop
    if record.name == "search":  # an article a line
        lines = [_NUMBER.sub("", line) for line in record.result.split("\n")]
        return any(line.startswith(f"{title}: ") and _stands_in(value, line) for line in lines)
    return record.result.startswith(f"{title} (page ") and _stands_in(value, record.result)


def _stands_in(name: str, text: str) -> bool:
    return name in text and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def _attempts(query: str, title: str) -> list[tuple[str, str]]:
    calls = [
        ("search", {"query": query}),
        ("read_page", {"title": title}),
        ("search", {"query": query, "k": 20}),
        ("search", {"query": title, "k": 20}),
    ]
    return [(name, json.dumps(arguments)) for name, arguments in calls]
