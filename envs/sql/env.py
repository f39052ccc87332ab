"""`agentrl/SQL-v0`: questions about a database, answered by a query or by the value, with the tool `sql`.

A task of the environment's own has a database made from a seed; by default every task has one that no other has, so
that nothing but asking it helps. Invariants: task i of a split is a function of (options, split, i); no gold query of
one split occurs in the other and, where each task has its own, no database (in the style `short`, whose queries are
few, databases alone or pairs of both); the verdict comes from a fresh copy of the database that the agent never held,
except where the task is to change it: then the state that the agent left is compared.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Literal

from agentrl.bridge import in_thread
from agentrl.env import ListedTasks, Task, TaskSet
from agentrl.errors import ConfigError
from agentrl.generators import Problem, check_sizes, generated_tasks, split_of
from agentrl.messages import Message, ToolCall, assistant, system, user
from agentrl.registry import nearest
from agentrl.rewards.formats import AnswerFormat
from agentrl.spaces import Observation
from agentrl.tool_env import Episode, ToolEnv, Verdict
from agentrl.trajectory import ToolCallRecord

from .answers import read_query, read_value, same_value
from .domains import DOMAINS
from .files import Source, file_problems, file_schema, file_tables
from .generate import LEAST, MOST, SMALL, Key, database, schema
from .judge import judge_change, judge_query
from .questions import ask

MAX_LEVEL = 4
CHANGE_LEVELS = (3, 4)
_KEPT_TASKS = 256


class SqlEnv(ToolEnv):
    """Questions about a database. Reward 1 for the right result, else 0.

    A query is right if its result is that of the gold query: rows as a multiset, or in order where the question states
    one, columns in the order of the question; integers, texts and NULL exactly, floats within 1e-6 relative. A value is
    right by the same rule. A change is right if every table holds what the gold statement would have made of it.

    Levels: 1 one table; 2 two tables or groups; 3 nested, HAVING, three tables; 4 windows, correlated subqueries, set
    operations. Metrics: `correct`; `correct_tool_use`: right, and a query was executed; `answered`: there was a value,
    or a query that could be executed, or a statement was; `tool_calls` and `executed_calls` (without error), counted.
    """

    tools: ClassVar[Sequence[str]] = ("sql",)

    def __init__(
        self,
        *,
        domains: tuple[str, ...] = tuple(DOMAINS),
        rows: int = 200,
        levels: tuple[int, ...] | None = None,
        answer: Literal["query", "value"] = "query",
        answer_format: AnswerFormat = AnswerFormat.ANY,
        style: Literal["full", "short"] = "full",
        show_schema: bool | None = None,
        writes: float = 0.0,
        num_databases: int | None = None,
        num_tasks: int = 100_000,
        num_test_tasks: int = 1_000,
        seed: int = 0,
        system_prompt: str | None = None,
        executable_query_reward: float = 0.0,
        gold_tables_reward: float = 0.0,
        judge_seconds: float = 5.0,
        source: Source | None = None,
        databases: str | Path | None = None,
        tools: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        """Raises `ConfigError`.

        Args:
            domains: of the generated databases: shop, library, clinic, flights, school.
            rows: of a database's largest table, 10 to 1,000,000.
            levels: 1 to 4; tasks take them in turn. With `source` only rows of these levels are tasks; None is all.
            answer: whether the final message gives one SELECT or the value; `value` asks questions for one value only.
            answer_format: how the final message gives it; `submit` adds the tool of that name.
            style: `short` asks level 1 about one table, with few words and without a system prompt.
            show_schema: whether the system prompt shows the tables; None is yes, except in the style `short`.
            writes: share of the tasks of level 3 and 4 that ask to change the database; at most 5,000 rows.
            num_databases: of each domain; None is one for each task up to 5,000 rows, else one.
            num_tasks: size of the split `train`.
            num_test_tasks: size of the split `test`.
            seed: of the tasks.
            system_prompt: instead of the one that is built; empty for none.
            executable_query_reward: for each of the first n turns of level n whose queries were all executed.
            gold_tables_reward: once, for the first executed query that names every table of the gold query.
            judge_seconds: that the answer, and the gold query of a file, may run.
            source: a file of questions in the form of BIRD or Spider, or one for each split, instead of generated ones.
            databases: the folder of their databases: `<db_id>/<db_id>.sqlite`.
            tools: as in `ToolEnv`.
            **options: of `ToolEnv`.
        """
        self._format = AnswerFormat(answer_format)
        offered = list(self.tools if tools is None else tools)
        if self._format is AnswerFormat.SUBMIT and "submit" not in offered:
            offered.append("submit")
        super().__init__(tools=offered, **options)
        self._domains, self._rows, self._seed = tuple(domains), rows, seed
        self._levels = None if levels is None else tuple(levels)
        self._answer, self._short, self._writes = answer, style == "short", writes
        self._num_databases = 1 if num_databases is None and rows > SMALL else num_databases
        self._sizes = {"train": num_tasks, "test": num_test_tasks}
        self._system_prompt = "" if system_prompt is None and self._short else system_prompt
        self._show_schema = not self._short if show_schema is None else show_schema
        self._executable_query_reward = executable_query_reward
        self._gold_tables_reward = gold_tables_reward
        self._seconds = judge_seconds
        self._check(source, databases)
        self._problems = None if source is None else file_problems(source, databases)
        self._cached_task = lru_cache(maxsize=_KEPT_TASKS)(super().task)

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def tasks(self, split: str) -> TaskSet:
        self.check_split(split)
        if self._problems is not None:
            return self._listed(split)
        return generated_tasks(
            "sql",
            split,
            self._sizes[split],
            levels=self._levels or (1,),
            seed=self._seed,
            draw=partial(self._draw, split),
            opening=lambda problem: self._opening(problem.question, problem.data),
            key=self._problem_key,
        )

    def task(self, task_id: str) -> Task:
        return self._cached_task(task_id)

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        if self._rows > SMALL and self._problems is None and "task" in (options or {}):
            # making a large database and asking it takes seconds, which an event loop does not have
            await in_thread(self.task, (options or {})["task"])
        return await super().areset(seed=seed, options=options)

    def gold(self, task: Task) -> dict[str, Any]:
        """The query, or the statement of a change, and the rows of the result (None where only the judge knows)."""
        return {"query": task.data["query"], "answer": task.data["answer"]}

    def fingerprint(self, task: Task) -> dict[str, Any]:
        """All that is judged by; rows whose order counts for nothing are sorted, as it is the query planner's."""
        rows = task.data["answer"]
        kept = rows if task.data["ordered"] or rows is None else sorted(rows, key=repr)
        return {**task.data, "answer": kept}

    def episode_tool_options(self, task: Task) -> Mapping[str, Mapping[str, Any]]:
        return {"sql": {"database": _database(task), "writable": task.data["change"]}}

    def state_key(self, episode: Episode) -> str:
        key = super().state_key(episode)
        if not episode.task.data["change"]:
            return key
        # what a change did need not show in its result
        arguments = "\x00".join(record.arguments for record in episode.calls)
        return f"{key}-{blake2b(arguments.encode(), digest_size=8).hexdigest()}"

    # -- playing -------------------------------------------------------------------------------------------------------

    def oracle_action(self) -> Message:
        """The gold query as a call if there is the tool and it was not executed yet, else the answer."""
        episode = self.episode
        data = episode.task.data
        if "sql" in episode.tools and not any(_query(call) == data["query"] for call in _executed(episode.calls)):
            arguments = json.dumps({"query": data["query"]})
            return assistant(tool_calls=(ToolCall(id="call_0", name="sql", arguments=arguments),))
        if data["change"]:
            return self._format.write("done")
        if self._answer == "value":
            return self._format.write(str(data["answer"][0][0]))
        return assistant(data["query"]) if self._format is AnswerFormat.ANY else self._format.write(data["query"])

    def turn_reward(self, episode: Episode, records: Sequence[ToolCallRecord]) -> float:
        queries = [record for record in records if record.name == "sql"]
        executed = _executed(queries)
        reward = 0.0
        paid = episode.state.get("paid", 0)
        if queries and len(executed) == len(queries) and paid < episode.task.level:
            episode.state["paid"] = paid + 1
            reward += self._executable_query_reward
        if self._gold_tables_reward and not episode.state.get("tables"):
            wanted = _named(episode.task.data["query"], episode.task)
            if any(wanted <= _named(_query(record), episode.task) for record in executed):
                episode.state["tables"] = True
                reward += self._gold_tables_reward
        return reward

    async def judge(self, episode: Episode) -> Verdict:
        correct, answered = await self._judged(episode)
        queries = [record for record in episode.calls if record.name == "sql"]
        executed = _executed(queries)
        metrics = {
            "correct": float(correct),
            "correct_tool_use": float(correct and bool(executed)),
            "answered": float(answered),
            "tool_calls": float(len(episode.calls)),
            "executed_calls": float(len(executed)),
        }
        return Verdict(float(correct), metrics)

    async def _judged(self, episode: Episode) -> tuple[bool, bool]:
        """(whether the answer is right, whether there was one that could be judged)."""
        data = episode.task.data
        if data["change"]:
            after = await episode.tools["sql"].snapshot()
            original = database(_key(data))
            assert isinstance(original, bytes)  # changes are for small databases
            correct = await judge_change(original, after, data["query"], seconds=self._seconds)
            return correct, bool(_executed(episode.calls))
        if self._answer == "value":
            wanted = data["answer"][0][0]
            value = read_value(episode, self._format, wanted)
            return value is not None and same_value(value, wanted), value is not None
        given = read_query(episode, self._format)
        if given is None:
            return False, False
        wanted = data["query"] if data["answer"] is None else data["answer"]
        outcome, _ = await judge_query(
            _database(episode.task),
            given,
            wanted,
            ordered=data["ordered"],
            permute=data["permute"],
            seconds=self._seconds,
        )
        return outcome == "right", outcome != "failed"

    # -- within --------------------------------------------------------------------------------------------------------

    def _draw(self, split: str, rng: random.Random, level: int) -> Problem:
        key = self._draw_key(split, rng)
        change = level in CHANGE_LEVELS and rng.random() < self._writes
        question = ask(rng, key, level, single=self._answer == "value", short=self._short, change=change)
        data = {
            "database": [key.domain, key.rows, key.seed],
            "query": question.query,
            "ordered": question.ordered,
            "permute": False,
            "change": change,
            "answer": question.answer,
        }
        return Problem(question.text, data)

    def _draw_key(self, split: str, rng: random.Random) -> Key:
        domain = rng.choice(self._domains)
        if self._num_databases is not None:
            return Key(domain, self._rows, rng.randrange(self._num_databases))
        while True:  # a database of the other split need not be made to be refused
            key = Key(domain, self._rows, rng.randrange(2**62))
            if split_of(str(key)) == split:
                return key

    def _problem_key(self, problem: Problem) -> str:
        """What the split depends on: the gold query, however it is worded; there are too few short ones for that."""
        query: str = problem.data["query"]
        if not self._short:
            return query
        return str(_key(problem.data)) + (query if self._num_databases is not None else "")

    def _listed(self, split: str) -> TaskSet:
        assert self._problems is not None
        chosen = [problem for problem in self._problems[split] if self._levels is None or problem[1] in self._levels]
        return ListedTasks(
            split,
            [
                Task(f"{split}:{index}", split, self._opening(text, data), data, level)
                for index, (text, level, data) in enumerate(chosen)
            ],
        )

    def _opening(self, question: str, data: Mapping[str, Any]) -> tuple[Message, ...]:
        prompt = self._prompt(data["change"]) if self._system_prompt is None else self._system_prompt
        if self._show_schema:
            prompt = f"{prompt}\n\nThe SQLite database:\n{_schema(data)}".lstrip()
        return (*([system(prompt)] if prompt else []), user(question))

    def _prompt(self, change: bool) -> str:
        if change:
            return "Change the database as the user says, with the tool sql. Then say that it is done."
        opening = "Answer the user's question about the database."
        if "sql" in self._tools:
            opening += " Look at it with the tool sql."
        if self._answer == "value":
            return f"{opening} {self._format.instruction}"
        closing = "The answer is one SELECT statement of SQLite, whose result is what the user asks for."
        if self._format is AnswerFormat.ANY:
            return f"{opening} {closing} Give it in a last message without a tool call."
        return f"{opening} {closing} {self._format.instruction}"

    def _check(self, source: Source | None, databases: str | Path | None) -> None:
        for domain in self._domains:
            if domain not in DOMAINS:
                raise ConfigError(f"domains: {domain!r} is unknown; {nearest(domain, list(DOMAINS))}")
        if not self._domains:
            raise ConfigError("domains is empty")
        if not LEAST <= self._rows <= MOST:
            raise ConfigError(f"rows={self._rows} must be {LEAST} to {MOST}")
        if self._levels is not None and not (self._levels and all(1 <= each <= MAX_LEVEL for each in self._levels)):
            raise ConfigError(f"levels={self._levels}: one or more of 1 to {MAX_LEVEL}")
        if self._short and self._levels not in (None, (1,)):
            raise ConfigError(f"style='short' has level 1 only, not levels={self._levels}")
        if self._num_databases is not None and self._num_databases < 1:
            raise ConfigError(f"num_databases={self._num_databases} must be at least 1")
        if self._seconds <= 0:
            raise ConfigError(f"judge_seconds={self._seconds} must be positive")
        check_sizes(num_tasks=self._sizes["train"], num_test_tasks=self._sizes["test"])
        self._check_writes(source)
        if source is None and databases is not None:
            raise ConfigError("databases is the folder of source's databases; source is missing")
        if source is not None and (self._answer == "value" or self._short):
            raise ConfigError("source: questions of files are answered by a query, in the style 'full'")

    def _check_writes(self, source: Source | None) -> None:
        if not 0 <= self._writes <= 1:
            raise ConfigError(f"writes={self._writes} must be 0 to 1")
        if not self._writes:
            return
        if source is not None or self._rows > SMALL:
            raise ConfigError(f"writes={self._writes} is for generated databases of at most {SMALL} rows")
        if not set(self._levels or ()) & set(CHANGE_LEVELS):
            raise ConfigError(f"writes={self._writes} needs level 3 or 4, not levels={self._levels or (1,)}")
        if "sql" not in self._tools:
            raise ConfigError(f"writes={self._writes} needs the tool 'sql'")


def _key(data: Mapping[str, Any]) -> Key:
    return Key(*data["database"])


def _database(task: Task) -> bytes | Path:
    return Path(task.data["file"]) if "file" in task.data else database(_key(task.data))


def _schema(data: Mapping[str, Any]) -> str:
    return file_schema(Path(data["file"])) if "file" in data else schema(DOMAINS[_key(data).domain])


def _executed(records: Sequence[ToolCallRecord]) -> list[ToolCallRecord]:
    return [record for record in records if record.name == "sql" and record.error is None]


def _query(record: ToolCallRecord) -> str:
    """The query of an executed call, whose arguments are JSON and valid."""
    return str(json.loads(record.arguments)["query"])


def _named(query: str, task: Task) -> set[str]:
    """The tables of the task's database that a query names."""
    names = (
        file_tables(Path(task.data["file"]))
        if "file" in task.data
        else [table.name for table in DOMAINS[_key(task.data).domain].tables]
    )
    words = set(re.findall(r"\w+", query.lower()))
    return {name for name in names if name.lower() in words}
