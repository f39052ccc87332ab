"""SQL: episodes with the real tool, verdicts, rewards, splits, changes, files of one's own, mistakes of the user's."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentrl.env import make
from agentrl.envs.sql.generate import Key, database
from agentrl.errors import ConfigError, EnvError
from agentrl.messages import Message, ToolCall, assistant
from tests.envs.playing import play

ENV = "agentrl/SQL-v0"
ALL_LEVELS = (1, 2, 3, 4)


def call(query: str) -> Message:
    return assistant(tool_calls=(ToolCall(id="call_0", name="sql", arguments=json.dumps({"query": query})),))


# -- playing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["query", "value"])
@pytest.mark.parametrize("answer_format", ["any", "plain", "boxed", "tags", "submit"])
async def test_the_oracle_is_right_with_the_tool(answer: str, answer_format: str) -> None:
    env = make(ENV, levels=ALL_LEVELS, answer=answer, answer_format=answer_format)
    for index in range(24):
        reward, metrics = await play(env, f"train:{index}")
        assert reward == 1.0, env.episode.messages
        submitted = float(answer_format == "submit")
        assert metrics == {
            "correct": 1.0,
            "correct_tool_use": 1.0,
            "answered": 1.0,
            "tool_calls": 1.0 + submitted,
            "executed_calls": 1.0,
        }


@pytest.mark.parametrize("answer", ["query", "value"])
async def test_without_the_tool_the_oracle_answers_at_once(answer: str) -> None:
    env = make(ENV, levels=ALL_LEVELS, answer=answer, tools=())
    assert env.tool_schemas() == []
    for index in range(12):
        reward, metrics = await play(env, f"test:{index}")
        assert (reward, metrics["correct_tool_use"], metrics["tool_calls"]) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("answer", ["query", "value"])
async def test_an_empty_answer_and_another_tasks_answer_score_nothing(answer: str) -> None:
    env = make(ENV, levels=ALL_LEVELS, answer=answer)
    for index in range(8):
        reward, metrics = await play(env, f"train:{index}", [""])
        assert (reward, metrics["correct"], metrics["answered"]) == (0.0, 0.0, 0.0)
        other = env.gold(env.task(f"train:{index + 40}"))
        assert env.gold(env.task(f"train:{index}"))["answer"] != other["answer"]
        told = other["query"] if answer == "query" else f"The answer is {other['answer'][0][0]}."
        assert (await play(env, f"train:{index}", [told]))[0] == 0.0


def test_both_faces_play_the_same_episode() -> None:
    env = make(ENV, style="short", answer="value")
    env.reset(options={"task": "train:0"})
    observation = env.step(env.oracle_action())[0]
    assert observation[0].text.splitlines()[-1] == str(env.gold(env.task("train:0"))["answer"][0][0])
    assert env.step(env.oracle_action())[1] == 1.0
    env.close()


async def test_a_failing_query_is_an_observation_and_the_oracle_goes_on() -> None:
    env = make(ENV, domains=("shop",))
    await env.areset(options={"task": "train:0"})
    step = await env.astep(call("SELECT * FROM nowhere"))
    assert step.observation[0].text.startswith("Error: no such table: nowhere")
    assert step.info["tool_calls"][0].error is not None
    assert "read-only" in (await env.astep(call("DELETE FROM orders"))).observation[0].text
    await env.astep(env.oracle_action())
    assert (await env.astep(env.oracle_action())).reward == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "QUERY",
        "QUERY;",
        "```sql\nQUERY\n```",
        "I first thought of\n```sql\nSELECT 1\n```\nbut it is\n```\nQUERY\n```\nas you see.",
        "This is it:\n\n  QUERY",
        "With what I saw, I say:\nQUERY;\nThat is all.",
        "WITH none AS (SELECT 1)\nQUERY",
        "The answer is QUERY",
        "The answer is:\nQUERY",
    ],
)
async def test_a_query_is_found_in_what_surrounds_it(text: str) -> None:
    env = make(ENV)
    query = env.gold(env.task("train:1"))["query"]
    assert (await play(env, "train:1", [text.replace("QUERY", query)]))[0] == 1.0


@pytest.mark.parametrize(
    "text", ["", "none", "SELECT", "SELECT 1; DROP TABLE orders", "```sql\n```", "SELECT " + "9" * 500_000]
)
async def test_what_is_no_right_query_scores_nothing(text: str) -> None:
    assert (await play(make(ENV), "train:1", [text]))[0] == 0.0


async def test_values_are_read_and_compared_by_their_type() -> None:
    env = make(ENV, answer="value", levels=(1, 2))
    seen = set()
    for index in range(60):
        value = env.gold(env.task(f"train:{index}"))["answer"][0][0]
        if type(value) in seen:
            continue
        seen.add(type(value))
        if isinstance(value, str):
            right, wrong = [f"The answer is {value}.", value, f"answer: '{value}'"], [value[:-1], value[:4], "9"]
        elif isinstance(value, int):
            right, wrong = [f"It is {value}.", f"{value}", f"\\boxed{{{value}}}"], [f"{value} or {value + 1}"]
        else:
            right, wrong = [f"It is {value}", f"{value}0", f"{value}%"], [f"{value + 0.01:.2f}", f"-{value}"]
        for told in right:
            assert (await play(env, f"train:{index}", [told]))[0] == 1.0, told
        for told in wrong:
            assert (await play(env, f"train:{index}", [told]))[0] == 0.0, told
    assert seen == {int, float, str}


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_no_problem_is_in_both_splits() -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"rows": 50, "answer": "value"},
        {"levels": ALL_LEVELS, "writes": 0.5},
        {"domains": ("shop",), "num_databases": 1, "levels": ALL_LEVELS},
    ]
    seen: dict[str, set[str]] = {"train": set(), "test": set()}
    for options in settings:
        env = make(ENV, **options)
        databases: dict[str, set[str]] = {"train": set(), "test": set()}
        for split, found in seen.items():
            for index in range(24):
                task = env.tasks(split)[index]
                found.update((task.messages[-1].text, task.data["query"]))
                databases[split].add(str(task.data["database"]))
        assert bool(databases["train"] & databases["test"]) == ("num_databases" in options)
    assert len(seen["train"]) > 120
    assert not seen["train"] & seen["test"]


@pytest.mark.parametrize("num_databases", [None, 3])
def test_short_questions_of_both_splits_are_about_other_databases_or_ask_something_else(
    num_databases: int | None,
) -> None:
    env = make(ENV, style="short", num_databases=num_databases, rows=50)
    pairs = {
        split: {f"{task.data['database']} {task.data['query']}" for task in (env.tasks(split)[i] for i in range(30))}
        for split in ("train", "test")
    }
    assert not pairs["train"] & pairs["test"]


def test_tasks_are_functions_of_seed_split_and_index() -> None:
    tasks, again, other = (make(ENV, levels=(1, 3), seed=seed).tasks("train") for seed in (5, 5, 6))
    assert [tasks[index] for index in range(20)] == [again[index] for index in reversed(range(20))][::-1]
    assert [tasks[index].level for index in range(4)] == [1, 3, 1, 3]
    assert tasks[3].messages != other[3].messages
    assert tasks[17] == tasks.by_id("train:17")
    assert len(make(ENV, num_test_tasks=7).tasks("test")) == 7
    json.dumps(tasks[0].data)


def test_the_prompt_shows_the_schema_and_never_the_gold() -> None:
    env = make(ENV, levels=ALL_LEVELS)
    for index in range(20):
        task = env.task(f"train:{index}")
        system, question = task.messages
        assert system.text.count("CREATE TABLE") >= 3
        assert task.data["query"] not in system.text + question.text
    assert make(ENV, show_schema=False).task("train:0").messages[0].text.count("CREATE TABLE") == 0
    assert len(make(ENV, show_schema=False, system_prompt="").task("train:0").messages) == 1
    assert make(ENV, system_prompt="Hi.").task("train:0").messages[0].text.startswith("Hi.\n\nThe SQLite database:\n")


async def test_a_short_episode_has_less_than_250_characters() -> None:
    env = make(ENV, domains=("shop",), style="short", answer="value", answer_format="plain", rows=100)
    for index in range(40):
        assert (await play(env, f"train:{index}"))[0] == 1.0
        said = "".join(
            message.text
            + "".join(f'{{"name": "{one.name}", "arguments": {one.arguments}}}' for one in message.tool_calls)
            for message in env.episode.messages
        )
        assert said.isascii()
        assert len(said) < 250, said


async def test_a_large_database_is_asked_in_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path))
    env = make(ENV, rows=6_000, levels=ALL_LEVELS, domains=("shop", "school"))
    for index in range(8):
        assert (await play(env, f"test:{index}"))[0] == 1.0
    assert len(list((tmp_path / "databases").glob("*.sqlite"))) == 2


# -- rewards -----------------------------------------------------------------------------------------------------------


async def test_turn_rewards_are_off_by_default_and_cannot_be_farmed() -> None:
    options = {"levels": (2,), "executable_query_reward": 0.1, "gold_tables_reward": 0.2}
    shaped, plain = make(ENV, **options), make(ENV, levels=(2,))
    name = next(task.id for task in shaped.tasks("train") if "JOIN" in task.data["query"])
    gold = shaped.gold(shaped.task(name))["query"]
    idle, bad = call("SELECT 1"), call("SELEC")
    assert (await play(shaped, name, [idle, idle, idle, ""]))[0] == pytest.approx(2 * 0.1)
    assert (await play(shaped, name, [bad, idle, bad, ""]))[0] == pytest.approx(0.1)
    assert (await play(shaped, name, [call(gold), call(gold), call(gold), ""]))[0] == pytest.approx(2 * 0.1 + 0.2)
    assert (await play(shaped, name, [call(f"{gold} )"), ""]))[0] == 0.0
    assert (await play(plain, name, [call(gold), idle, ""]))[0] == 0.0


# -- changes -----------------------------------------------------------------------------------------------------------

WRITES = {"levels": (3, 4), "writes": 1.0}


async def test_a_change_is_judged_by_the_state_of_the_database() -> None:
    env = make(ENV, **WRITES)
    for index in range(20):
        gold = env.gold(env.task(f"train:{index}"))
        assert gold["answer"] == []
        reward, metrics = await play(env, f"train:{index}")
        assert (reward, metrics["correct_tool_use"]) == (1.0, 1.0), env.episode.messages
        assert (await play(env, f"train:{index}", ["done"]))[0] == 0.0
        assert (await play(env, f"train:{index}", [call("SELECT 1"), gold["query"]]))[0] == 0.0
    deleted = call(f"DELETE FROM {env.episode.task.data['query'].split()[1]}")
    assert (await play(env, "train:0", [env.oracle_action(), deleted, "done"]))[0] == 0.0


async def test_a_change_reaches_no_other_episode() -> None:
    env, other = make(ENV, **WRITES), make(ENV, **WRITES)
    key = Key(*env.task("train:0").data["database"])
    original = database(key)
    await env.areset(options={"task": "train:0"})
    await other.areset(options={"task": "train:0"})
    await env.astep(env.oracle_action())
    assert (await other.astep("done")).reward == 0.0
    assert (await env.astep("done")).reward == 1.0
    assert database(key) == original


async def test_a_branch_goes_on_from_the_changed_database() -> None:
    env = make(ENV, **WRITES)
    await env.areset(options={"task": "train:1"})
    before = await env.asnapshot()
    changed = await env.astep(env.oracle_action())
    after = await env.asnapshot()
    assert (await env.astep("done")).reward == 1.0
    await env.arestore(before)
    assert (await env.astep("done")).reward == 0.0
    await env.arestore(after)
    assert env.state_key(env.episode) == changed.info["state_key"]
    assert (await env.astep("done")).reward == 1.0


async def test_two_changes_with_one_result_are_two_states() -> None:
    env = make(ENV, **WRITES, domains=("shop",))
    keys = []
    for city in ("Oslo", "Rome"):
        await env.areset(options={"task": "train:0"})
        keys.append((await env.astep(call(f"UPDATE customers SET city = '{city}' WHERE id = 1"))).info["state_key"])
    assert keys[0] != keys[1]


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("zoo", "bank"):
        (tmp_path / name).mkdir()
        with closing(sqlite3.connect(tmp_path / name / f"{name}.sqlite")) as connection:
            connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, kind TEXT, size REAL)")
            connection.executemany(
                "INSERT INTO things VALUES (?, ?, ?)", [(1, "a", 2.5), (2, "b", 1.5), (3, "a", None)]
            )
            connection.commit()
    return tmp_path


BIRD = [
    {
        "question_id": 7,
        "db_id": "zoo",
        "question": "How many things are of kind a?",
        "evidence": "kind a refers to kind = 'a'",
        "SQL": "SELECT COUNT(*) FROM things WHERE kind = 'a'",
        "difficulty": "moderate",
    },
    {
        "db_id": "bank",
        "question": "Kinds and sizes?",
        "evidence": "",
        "SQL": "SELECT kind, size FROM things ORDER BY id",
        "difficulty": "simple",
    },
]
SPIDER = [
    {"db_id": "zoo", "question": "List the kinds by size.", "query": "SELECT kind, id FROM things ORDER BY size DESC"},
    {"db_id": "bank", "question": "All sizes?", "query": "SELECT size FROM things"},
]


def written(path: Path, rows: Any) -> str:
    path.write_text(json.dumps(rows))
    return str(path)


async def test_bird_files_are_tasks_of_the_split_that_they_are_named_for(folder: Path) -> None:
    env = make(ENV, source=written(folder / "dev.json", BIRD), databases=str(folder))
    assert (len(env.tasks("train")), len(env.tasks("test"))) == (0, 2)
    first = env.task("test:0")
    assert first.level == 2
    assert first.messages[1].text == "How many things are of kind a?\nHint: kind a refers to kind = 'a'"
    assert "CREATE TABLE things (id INTEGER PRIMARY KEY, kind TEXT, size REAL)" in first.messages[0].text
    assert "Hint" not in env.task("test:1").messages[1].text
    for index in range(2):
        assert (await play(env, f"test:{index}"))[0] == 1.0
    assert (await play(env, "test:1", ["SELECT size, kind FROM things"]))[0] == 1.0
    assert (await play(env, "test:1", ["SELECT size, 'a' FROM things"]))[0] == 0.0
    only = make(ENV, source=str(folder / "dev.json"), databases=str(folder), levels=(1,))
    assert [task.messages[1].text for task in only.tasks("test")] == ["Kinds and sizes?"]


async def test_spider_files_keep_the_order_that_a_query_asks_for(folder: Path) -> None:
    source = {"train": written(folder / "a.json", SPIDER), "test": written(folder / "b.json", SPIDER[:1])}
    env = make(ENV, source=source, databases=folder)
    assert (len(env.tasks("train")), len(env.tasks("test"))) == (2, 1)
    assert (await play(env, "train:0"))[0] == 1.0
    assert (await play(env, "train:0", ["SELECT id, kind FROM things ORDER BY size DESC"]))[0] == 1.0
    assert (await play(env, "train:0", ["SELECT kind, id FROM things ORDER BY size"]))[0] == 0.0
    assert (await play(env, "train:1", ["SELECT size FROM things ORDER BY size"]))[0] == 1.0
    step = (await env.areset(options={"task": "train:0"}), await env.astep(call("DELETE FROM things")))[1]
    assert "read-only" in step.observation[0].text


def test_a_file_of_no_split_is_divided_and_both_parts_are_disjoint(folder: Path) -> None:
    rows = [{**SPIDER[1], "question": f"All sizes, number {number}?"} for number in range(40)]
    env = make(ENV, source=written(folder / "mine.json", rows), databases=str(folder))
    found = {split: {task.messages[-1].text for task in env.tasks(split)} for split in ("train", "test")}
    assert len(found["train"]) + len(found["test"]) == 40
    assert min(len(found["train"]), len(found["test"])) > 5


async def test_a_gold_query_that_fails_names_the_fault(folder: Path) -> None:
    env = make(ENV, source=written(folder / "dev.json", [{**BIRD[0], "SQL": "SELECT x"}]), databases=str(folder))
    await env.areset(options={"task": "test:0"})
    with pytest.raises(EnvError, match="gold query fails: no such column: x"):
        await env.astep("SELECT 1")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"db_id": "zoo", "question": "?"}, r"row 1: SQL or query must be a text"),
        ({"db_id": "zoo", "SQL": "SELECT 1"}, r"row 1: there is no key 'question'"),
        ({"db_id": "zo", "question": "?", "SQL": "SELECT 1"}, r"row 1: databases has no file zo/zo.sqlite"),
        ({"db_id": "../zoo", "question": "?", "SQL": "SELECT 1"}, r"row 1: databases has no file"),
        ({"db_id": 3, "question": "?", "SQL": "SELECT 1"}, r"row 1: db_id must be a text"),
        (3, r"row 1: expected an object"),
    ],
)
def test_a_malformed_row_is_one_clear_line(folder: Path, row: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        make(ENV, source=written(folder / "dev.json", [row]), databases=str(folder))
    assert "\n" not in str(caught.value)


def test_a_database_that_is_none_is_one_clear_line(folder: Path) -> None:
    (folder / "zoo" / "zoo.sqlite").write_bytes(b"nonsense" * 1000)
    env = make(ENV, source=written(folder / "dev.json", BIRD), databases=str(folder))
    with pytest.raises(ConfigError, match=r"zoo.sqlite cannot be read: file is not a database"):
        env.task("test:0")


# -- the user's mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"domains": ("shops",)}, "did you mean 'shop'"),
        ({"domains": ()}, "domains is empty"),
        ({"rows": 9}, "rows=9 must be 10 to 1000000"),
        ({"rows": 1_000_001}, "rows=1000001 must be"),
        ({"levels": (5,)}, "one or more of 1 to 4"),
        ({"levels": ()}, "one or more of 1 to 4"),
        ({"style": "short", "levels": (2,)}, "level 1 only"),
        ({"style": "long"}, "style"),
        ({"answer": "both"}, "answer"),
        ({"answer_format": "loud"}, "answer_format"),
        ({"num_databases": 0}, "must be at least 1"),
        ({"num_tasks": -1}, "must not be negative"),
        ({"judge_seconds": 0}, "must be positive"),
        ({"writes": 2.0, "levels": (3,)}, "must be 0 to 1"),
        ({"writes": 0.5}, "needs level 3 or 4"),
        ({"writes": 0.5, "levels": (3,), "rows": 10_000}, "at most 5000 rows"),
        ({"writes": 0.5, "levels": (3,), "tools": ()}, "needs the tool 'sql'"),
        ({"databases": "there"}, "source is missing"),
        ({"source": "dev.json"}, "databases is missing"),
        ({"source": "dev.json", "databases": "/nowhere/at/all"}, "no such folder"),
        ({"source": "/nowhere.json", "databases": "."}, "no such file"),
        ({"source": {"dev": "a.json"}, "databases": "."}, "split 'dev' is unknown"),
        ({"source": "a.json", "databases": ".", "answer": "value"}, "answered by a query"),
        ({"row": 5}, "'row' is unknown"),
        ({"tools": ("sqll",)}, "did you mean 'sql'"),
        ({"split": "dev"}, "split"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        make(ENV, **options)
    assert "\n" not in str(caught.value)


async def test_episodes_side_by_side_do_not_mix() -> None:
    environments = [make(ENV, levels=ALL_LEVELS) for _ in range(6)]
    played = await asyncio.gather(*(play(env, f"train:{index}") for index, env in enumerate(environments)))
    assert [reward for reward, _ in played] == [1.0] * 6
