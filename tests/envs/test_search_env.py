"""The search environment: an oracle that reads what it finds, verdicts for what they say, files of one's own."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import pytest
from gymnasium.utils.env_checker import check_env

from agentrl.env import make
from agentrl.envs.search.articles import corpus_file
from agentrl.envs.search.judge import exact_match, f1_score, normalised, read_answer
from agentrl.errors import AgentRLError, ConfigError
from agentrl.messages import Message, ToolCall, assistant
from agentrl.rewards.formats import AnswerFormat
from agentrl.task import Episode, Task
from agentrl.tools.search.index import open_index
from tests.envs.playing import play
from tests.tools.retrieval_server import serving

ENV = "agentrl/Search-v0"
LEVELS = (1, 2, 3, 4)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One cache for the module: every test with default options shares a corpus and an index."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTRL_CACHE", str(folder))
        yield folder


def search(query: str, **more: Any) -> Message:
    arguments = json.dumps({"query": query, **more})
    return assistant(tool_calls=(ToolCall(id="call_0", name="search", arguments=arguments),))


# -- the oracle --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["full", "short"])
@pytest.mark.parametrize("level", LEVELS)
async def test_the_oracle_finds_every_hop_and_the_answer(level: int, style: str) -> None:
    env = make(ENV, levels=[level], style=style)
    for index in range(150):
        reward, metrics = await play(env, f"{('train', 'test')[index % 2]}:{index}")
        assert reward == metrics["correct"] == metrics["correct_tool_use"] == metrics["f1"] == 1.0
        assert metrics["hops_found"] == level
        # among three results there may be the next hop's, too
        assert metrics["tool_calls"] == level or (style == "full" and metrics["tool_calls"] < level)


@pytest.mark.parametrize("answer_format", list(AnswerFormat))
async def test_the_oracle_answers_in_every_format(answer_format: AnswerFormat) -> None:
    env = make(ENV, levels=LEVELS, answer_format=answer_format)
    for index in range(8):
        assert (await play(env, f"test:{index}"))[0] == 1.0


async def test_the_oracle_reads_pages_where_passages_are_too_short() -> None:
    tools = ("search", "read_page")
    env = make(ENV, levels=[2], tools=tools, tool_options={"search": {"snippet": 16}})
    rewards = [await play(env, f"train:{index}") for index in range(20)]
    assert all(reward == 1.0 and metrics["hops_found"] == 2 for reward, metrics in rewards)
    assert any(metrics["tool_calls"] > 2 for _, metrics in rewards)


async def test_without_tools_the_oracle_answers_at_once() -> None:
    env = make(ENV, levels=[3], tools=())
    assert env.tool_schemas() == []
    reward, metrics = await play(env, "test:0")
    assert (reward, metrics["correct"], metrics["correct_tool_use"], metrics["tool_calls"]) == (1.0, 1.0, 0.0, 0.0)
    opening, _ = await env.areset(options={"task": "test:0"})
    assert "earch" not in opening[0].text


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_tasks_are_functions_of_seed_split_and_index() -> None:
    tasks, again, other = (make(ENV, levels=(1, 3), seed=seed).tasks("train") for seed in (5, 5, 6))
    assert [tasks[index] for index in range(50)] == [again[index] for index in reversed(range(50))][::-1]
    assert [tasks[index].level for index in range(4)] == [1, 3, 1, 3]
    assert sum(tasks[index].messages == other[index].messages for index in range(50)) < 10
    assert tasks[17] == tasks.by_id("train:17")
    assert (len(tasks), len(make(ENV, num_test_tasks=7).tasks("test"))) == (100_000, 7)


def test_no_entity_is_asked_about_in_both_splits() -> None:
    asked: dict[str, set[str]] = {"train": set(), "test": set()}
    for seed in (0, 1):
        env = make(ENV, levels=LEVELS, seed=seed)
        for split, subjects in asked.items():
            subjects |= {env.tasks(split)[index].data["subject"] for index in range(400)}
    assert not asked["train"] & asked["test"]
    assert min(map(len, asked.values())) > 200


def test_gold_has_query_title_and_fact_of_each_hop() -> None:
    env = make(ENV, levels=[2])
    gold = env.gold(env.task("test:1"))
    assert json.loads(json.dumps(gold)) == gold
    assert len(gold["hops"]) == 2
    (query, title, fact), (_, second, last) = gold["hops"]
    assert title in query
    assert second in fact
    assert gold["answer"] in last


async def test_the_answer_is_nowhere_in_what_the_policy_sees() -> None:
    env = make(ENV, levels=LEVELS)
    for index in range(100):
        opening, _ = await env.areset(options={"task": f"train:{index}"})
        answer = env.task(f"train:{index}").data["answers"][0]
        assert all(answer not in message.text for message in opening)


@pytest.mark.parametrize("level", [2, 3, 4])
async def test_no_search_with_the_question_itself_shows_the_answer_beside_its_name(level: int) -> None:
    env = make(ENV, levels=[level], tool_options={"search": {"k": 20}})
    for index in range(40):
        opening, _ = await env.areset(options={"task": f"test:{index}"})
        task = env.task(f"test:{index}")
        lines = (await env.astep(search(opening[-1].text))).observation[0].text.split("\n")
        subject, answer = task.data["subject"], task.data["answers"][0]
        assert not [line for line in lines if subject in line and answer in line]


def test_an_environment_is_made_without_making_its_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path))
    began = time.perf_counter()
    env = make(ENV, documents=1_000_000)
    assert env.tool_schemas()[0]["function"]["name"] == "search"
    assert time.perf_counter() - began < 60  # a bound against building it, not a measurement
    assert list(tmp_path.iterdir()) == []
    env.close()


async def test_the_corpus_is_made_for_the_first_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path))
    env = make(ENV, documents=200)
    await env.areset(seed=0)
    assert corpus_file(200, 0, "full").exists()
    closed = make(ENV, documents=300, tools=())
    await closed.areset(seed=0)
    assert not corpus_file(300, 0, "full").exists()


# -- judging -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", ["", "I do not know", "The answer is", "\\boxed{}", "the a an", "?!", "x " * 500_000, "\ud800"]
)
async def test_a_wrong_or_empty_answer_scores_nothing(answer: str) -> None:
    reward, metrics = await play(make(ENV), "train:0", [answer])
    assert reward == 0.0
    assert metrics["correct"] == metrics["f1"] == metrics["correct_tool_use"] == 0.0


async def test_a_right_answer_without_a_search_is_correct_but_no_tool_use() -> None:
    env = make(ENV, levels=[2])
    answer = env.task("train:0").data["answers"][0]
    for said in (answer, f"The answer is {answer}.", f"so\nAnswer: **{answer.upper()}**\nBye", f"\\boxed{{{answer}}}"):
        reward, metrics = await play(env, "train:0", [said])
        assert (reward, metrics["correct_tool_use"], metrics["hops_found"]) == (1.0, 0.0, 0.0)
    assert (await play(env, "train:0", [f"Perhaps {answer}"]))[0] == 0.0


async def test_the_reward_may_be_f1() -> None:
    env = make(ENV, reward="f1", levels=[1])
    index = next(index for index in range(50) if " " in env.task(f"train:{index}").data["answers"][0])
    answer = env.task(f"train:{index}").data["answers"][0]
    reward, metrics = await play(env, f"train:{index}", [f"It is {answer}"])
    assert 0 < reward < 1
    assert metrics["f1"] == reward
    assert metrics["correct"] == 0.0


async def test_hop_rewards_come_once_and_in_order() -> None:
    env = make(ENV, levels=[3], hop_reward=0.1, tool_options={"search": {"k": 1}})
    (first, _, _), (second, _, _), (third, _, _) = env.gold(env.task("train:0"))["hops"]
    await env.areset(seed=0, options={"task": "train:0"})
    rewards = [(await env.astep(search(query))).reward for query in (third, first, first, third, second, third)]
    assert rewards == pytest.approx([0.0, 0.1, 0.0, 0.0, 0.1, 0.1])
    assert (await play(env, "train:0"))[0] == pytest.approx(1.3)
    assert (
        await play(
            env,
            "train:0",
            [
                assistant(
                    tool_calls=tuple(
                        call.tool_calls[0].model_copy(update={"id": f"call_{number}"})
                        for number, call in enumerate(map(search, (first, second, third)))
                    )
                ),
                "",
            ],
        )
    )[0] == pytest.approx(0.3)


def test_guessing_scores_next_to_nothing() -> None:
    env = make(ENV, levels=(1, 2))
    train = [env.tasks("train")[index].data["answers"][0] for index in range(500)]
    commonest = max(set(train), key=train.count)
    test = [env.tasks("test")[index].data["answers"] for index in range(500)]
    assert sum(exact_match(commonest, answers) for answers in test) / 500 < 0.05


@pytest.mark.parametrize(
    ("given", "gold", "exact", "f1"),
    [
        ("Tor Anden", "Tor Anden", True, 1.0),
        ("  the TOR   anden. ", "Tor Anden", True, 1.0),
        ("Anden", "Tor Anden", False, 2 / 3),
        ("Tor Anden the Great", "Tor Anden", False, 0.8),
        ("Tor Tor Anden", "Tor Anden", False, 0.8),
        ("somebody", "Tor Anden", False, 0.0),
        ("1,871", "1871", True, 1.0),
        ("", "", False, 0.0),
        ("the", "a", False, 0.0),
        ("x" * 5000, "x" * 5000, False, 0.0),
    ],
)
def test_match_and_f1_are_those_of_squad(given: str, gold: str, exact: bool, f1: float) -> None:
    assert exact_match(given, [gold]) is exact
    assert f1_score(given, [gold]) == pytest.approx(f1)


def test_the_best_of_several_answers_counts() -> None:
    assert exact_match("NYC", ["New York City", "NYC"])
    assert f1_score("New York", ["NYC", "New York City"]) == pytest.approx(0.8)
    assert (exact_match("x", []), f1_score("x", [])) == (False, 0.0)
    assert normalised("The  Old-Man, and a Sea!") == "oldman and sea"


def test_an_answer_that_begins_with_a_number_is_read_whole() -> None:
    episode = Episode(Task("t:0", "t", ()), 0, [assistant("The answer is 1970 World Cup.")], [[]])
    assert read_answer(AnswerFormat.ANY, episode) == "1970 World Cup."
    assert read_answer(AnswerFormat.BOXED, episode) == ""


# -- the contract ------------------------------------------------------------------------------------------------------


def test_gymnasium_finds_nothing_wrong() -> None:
    check_env(make(ENV), skip_render_check=True)


async def test_an_episode_branches_in_the_middle() -> None:
    env, other = make(ENV, levels=[2]), make(ENV, levels=[2])
    await env.areset(seed=1, options={"task": "test:3"})
    await env.astep(env.oracle_action())
    state = await env.asnapshot()
    for branch in (env, other, env):
        await branch.arestore(state)
        step = await branch.astep(branch.oracle_action())
        assert len(step.observation) == 1
        assert (await branch.astep(branch.oracle_action())).reward == 1.0


async def test_the_same_episode_gives_the_same_observations() -> None:
    seen = []
    for _ in range(2):
        env = make(ENV, levels=[3])
        await env.areset(seed=2, options={"task": "train:5"})
        seen.append([(await env.astep(env.oracle_action())).observation[0].text for _ in range(3)])
    assert seen[0] == seen[1]


async def test_bad_calls_are_observations() -> None:
    env = make(ENV, max_invalid_turns=9)
    await env.areset(seed=0)
    for arguments in ("{}", "[]", "x", '{"query": 5}', '{"query": "x", "k": 99}', json.dumps({"query": "*" * 100_000})):
        call = assistant(tool_calls=(ToolCall(id="call_0", name="search", arguments=arguments),))
        step = await env.astep(call)
        assert step.observation[0].text
        assert not step.terminated
    assert (await env.astep(env.oracle_action())).observation[0].text


@pytest.mark.parametrize(("level", "most"), [(1, 250), (2, 400)])
async def test_a_short_episode_fits_a_policy_that_reads_characters(level: int, most: int) -> None:
    env = make(ENV, style="short", levels=[level], documents=20_000, answer_format="plain")
    lengths = []
    for index in range(100):
        opening, _ = await env.areset(options={"task": f"train:{index}"})
        text = "".join(message.text for message in opening)
        while True:
            action = env.oracle_action()
            calls = "".join(f'{{"name": "{call.name}", "arguments": {call.arguments}}}' for call in action.tool_calls)
            step = await env.astep(action)
            text += action.text + calls + "".join(message.text for message in step.observation)
            if step.terminated:
                break
        assert text.isascii()
        assert step.reward == 1.0
        lengths.append(len(text))
    assert max(lengths) < most


async def test_a_corpus_named_for_the_tool_stands_above_the_generated_one(files: dict[str, Any]) -> None:
    env = make(ENV, tool_options={"search": {"corpus": files["corpus"]}})
    await env.areset(seed=0)
    assert "founded by Tor Anden" in (await env.astep(search("Velmora"))).observation[0].text


async def test_the_articles_may_be_behind_a_server() -> None:
    env = make(ENV, levels=[2])
    await env.areset(seed=0)
    index = open_index(corpus_file(1000, 0, "full"))

    def answer(request: dict[str, Any]) -> tuple[int, bytes]:
        hits = index.search(request["queries"][0], request["topk"], 16)
        rows = [{"document": {"contents": f"{hit.document.title}\n{hit.document.text}"}} for hit in hits]
        return 200, json.dumps({"result": [rows]}).encode()

    with serving(answer) as server:
        remote = make(ENV, levels=[2], tool_options={"search": {"url": server.url}})
        for task in range(10):
            assert (await play(remote, f"test:{task}")) == (await play(env, f"test:{task}"))
        assert len(server.requests) == 20


# -- files of one's own ------------------------------------------------------------------------------------------------

CORPUS = [
    {"id": "1", "title": "Velmora", "text": "Velmora was founded by Tor Anden."},
    {"id": "2", "title": "Tor Anden", "text": "Tor Anden was born in Kelm."},
]
QUESTIONS = [
    {"id": "q1", "question": "Who founded Velmora?", "answer": "Tor Anden"},
    {"id": "q2", "question": "Where was the founder of Velmora born?", "golden_answers": ["Kelm", "the town of Kelm"]},
    {"question": "Where is Kelm?", "answer": ["nowhere"]},
    {"question": "How many?", "answers": [7]},
]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    corpus, questions = lines(tmp_path / "corpus.jsonl", CORPUS), lines(tmp_path / "questions.jsonl", QUESTIONS)
    return {"corpus": str(corpus), "questions": str(questions)}


async def test_ones_own_corpus_and_questions(files: dict[str, Any]) -> None:
    env = make(ENV, test_questions=files["questions"], tools=["search", "read_page"], **files)
    tasks = env.tasks("test")
    assert [task.id for task in tasks] == ["test:q1", "test:q2", "test:2", "test:3"]
    assert await play(env, "test:q2", [search("founder Velmora"), "The answer is town of Kelm."]) == (
        1.0,
        {"correct": 1.0, "correct_tool_use": 1.0, "f1": 1.0, "tool_calls": 1.0, "hops_found": 0.0},
    )
    assert (await play(env, "test:3", ["7"]))[0] == 1.0
    assert (await play(env, "train:q1"))[0] == 1.0
    await env.areset(options={"task": "test:q1"})
    assert "founded by Tor Anden" in (await env.astep(search("Velmora"))).observation[0].text


def test_one_file_is_divided(files: dict[str, Any], tmp_path: Path) -> None:
    env = make(ENV, **files)
    texts = [{task.messages[-1].text for task in env.tasks(split)} for split in ("train", "test")]  # type: ignore[attr-defined]
    assert not texts[0] & texts[1]
    assert sum(map(len, texts)) == 4
    marked = [{**row, "split": "train" if number else "test"} for number, row in enumerate(QUESTIONS)]
    env = make(ENV, corpus=files["corpus"], questions=lines(tmp_path / "marked.jsonl", marked))
    assert (len(env.tasks("train")), len(env.tasks("test"))) == (3, 1)


async def test_questions_may_be_csv_and_the_corpus_absent_without_tools(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["question", "answer"], ["Who?", "Tor, the elder"], ["What?", "A clock"]])
    env = make(ENV, questions=path, test_questions=path, tools=())
    assert (await play(env, "test:0", ["Tor the Elder"]))[0] == 1.0


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"levels": ()}, r"levels=\(\)"),
    ({"levels": (5,)}, r"levels=\(5,\): one or more of 1 to 4"),
    ({"documents": 99}, "documents=99 must be 100 to 1000000"),
    ({"documents": 10**7}, "documents=10000000 must be"),
    ({"style": "long"}, "style"),
    ({"reward": "em"}, "reward"),
    ({"answer_format": "xml"}, "answer_format"),
    ({"num_tasks": -1}, "num_tasks=-1"),
    ({"corpus": "c.jsonl"}, "corpus='c.jsonl' needs questions=FILE"),
    ({"questions": "absent.jsonl"}, "needs corpus=FILE"),
    ({"questions": "absent.jsonl", "tools": ()}, "questions='absent.jsonl': there is no such file"),
    ({"questions": "q", "corpus": "absent.jsonl"}, "corpus absent.jsonl cannot be read: No such file"),
    ({"questions": "q", "levels": (1,)}, r"levels=\(1,\) are of generated questions"),
    ({"tool_options": {"search": {"k": 0}}}, "k=0 must be 1 to 20"),
    ({"tool_options": {"serch": {}}}, "'serch' is no tool here"),
    ({"split": "dev"}, "split='dev' is unknown"),
]


@pytest.mark.parametrize(("options", "said"), MISTAKES, ids=[said[:30] for _, said in MISTAKES])
def test_wrong_options_are_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        make(ENV, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"question": "x"}', "row 1: needs a question and an answer"),
        ('{"question": 5, "answer": "x"}', "row 1: needs a question and an answer"),
        ('{"answer": "x"}', "row 1: there is no key 'question'"),
        ("{", "line 1: not JSON"),
        ("", "has no rows"),
        ('{"question": "x", "answer": "y", "split": "tset"}', "row 1: split 'tset' is unknown; did you mean 'test'"),
    ],
)
def test_malformed_questions_are_one_line(files: dict[str, Any], content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=said) as caught:
        make(ENV, corpus=files["corpus"], questions=path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


async def test_a_corpus_malformed_further_down_is_one_line(files: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(CORPUS[0]) + "\n{\n")
    env = make(ENV, corpus=path, questions=files["questions"])
    with pytest.raises(AgentRLError, match=r"bad\.jsonl:2 is not JSON") as caught:
        await env.areset(seed=0)
    assert "\n" not in str(caught.value)
