"""The search tools: what they find and show, what a hostile query does, and the index that is built once."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.errors import ConfigError
from agentrl.messages import ToolCall
from agentrl.task import Episode, Task
from agentrl.tool import Tool, ToolResult, call_tool
from agentrl.tools.search import ReadPage, SearchTool
from agentrl.tools.search import index as index_module
from agentrl.tools.search.corpus import read_corpus
from agentrl.tools.search.index import index_folder, open_index, opened_index
from agentrl.tools.search.passages import best_passage, pages

ARTICLES = [
    {"id": "a1", "title": "Velmora", "text": "Velmora is a company. It makes clocks. Its founder was Tor Anden."},
    {"id": "a2", "title": "Velmara", "text": "Velmara is a city. The founder of its harbour is unknown."},
    {
        "id": "a3",
        "title": "Tor Anden",
        "text": "Tor Anden was born in Kelm. " + "He travelled much. " * 300 + "He died old.",
    },
    {"id": "a4", "title": "São Telmo", "text": "A fishing village, known for its running races."},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write(tmp_path / "corpus.jsonl", ARTICLES)


def episode(**options: dict[str, Any]) -> Episode:
    return Episode(Task("t:0", "t", ()), seed=0, tool_options=options)


async def ask(tool: Tool, **arguments: Any) -> ToolResult:
    """One call, in the session that is open or in one of its own."""
    if getattr(tool, "_index", None) is None:
        await tool.open(episode())
    call = ToolCall(id="call_0", name=tool.name, arguments=json.dumps(arguments))
    return (await call_tool({tool.name: tool}, call))[0]


# -- search ------------------------------------------------------------------------------------------------------------


async def test_the_article_asked_for_comes_first_one_line_each(corpus: Path) -> None:
    result = await ask(SearchTool(corpus=corpus), query="founder of Velmora", k=2)
    assert result.error is None
    first, second = result.text.split("\n")
    assert first == f"1. Velmora: {ARTICLES[0]['text']}"
    assert second.startswith("2. Velmara: ")
    assert result.data == ["a1", "a2"]


async def test_one_result_has_no_number_and_the_passage_is_the_sentence_asked_for(corpus: Path) -> None:
    tool = SearchTool(corpus=corpus, k=1, snippet=30)
    assert (await ask(tool, query="Velmora founder")).text == "Velmora: Its founder was Tor Anden."
    assert (await ask(tool, query="Velmora clocks")).text == "Velmora: It makes clocks."


@pytest.mark.parametrize("query", ["sao telmo", "SÃO TELMO", "races run fishing", "villages"])
async def test_case_accents_and_inflection_do_not_matter(corpus: Path, query: str) -> None:
    assert (await ask(SearchTool(corpus=corpus, k=1), query=query)).text.startswith("São Telmo: ")


async def test_stop_words_count_only_alone(corpus: Path) -> None:
    index = open_index(corpus)
    assert index.words("Who is the founder of Velmora?") == ["founder", "velmora"]
    assert index.words("what is it") == ["what", "is", "it"]


async def test_nothing_found_is_an_answer_and_no_error(corpus: Path) -> None:
    for query in ("xylophone", "", "?!", " \n"):
        result = await ask(SearchTool(corpus=corpus), query=query)
        assert result.error is None
        assert result.text.startswith("No article was found for ")
        assert result.data == []


SYNTAX = ["title:(foo AND", '"', "*", "[a TO", "/.*/", "velmora^9999", "-velmora", "+", "AND OR NOT", "\\", "{* TO *}"]


@pytest.mark.parametrize("query", SYNTAX)
async def test_queries_have_no_syntax(corpus: Path, query: str) -> None:
    assert (await ask(SearchTool(corpus=corpus), query=query)).error is None


@pytest.mark.parametrize(
    "query", ["x" * 100_000, "velmora " * 12_500, "".join(f"w{i} " for i in range(20_000)), "*" * 100_000]
)
async def test_a_query_of_100_kb_is_bounded(corpus: Path, query: str) -> None:
    index = open_index(corpus)
    assert len(index.words(query)) <= index_module.MAX_TERMS
    result = await ask(SearchTool(corpus=corpus), query=query)
    assert result.error is None
    assert len(result.text) < 2000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> index_module.CorpusIndex:
    """An index for a property test, which must not build one an example."""
    folder = tmp_path_factory.mktemp("shared")
    index_module.build_index(write(folder / "corpus.jsonl", ARTICLES), folder / "index")
    return index_module.CorpusIndex(folder / "index")


@given(query=st.text(max_size=200))
def test_any_text_is_a_query_and_a_title(shared: index_module.CorpusIndex, query: str) -> None:
    assert all(hit.score > 0 for hit in shared.search(query, 3, 40))
    found = shared.find(query)
    assert found is None or found.title.casefold() == " ".join(query.casefold().split()) or found.id == query


async def test_k_is_bounded_by_the_schema(corpus: Path) -> None:
    tool = SearchTool(corpus=corpus)
    for k in (0, -1, 21, 10**9):
        assert (await ask(tool, query="velmora", k=k)).error == "invalid_arguments"
    assert len((await ask(tool, query="founder velmora kelm village", k=20)).data) == 4


async def test_equal_scores_come_in_the_order_of_the_corpus(tmp_path: Path) -> None:
    rows = [{"id": str(number), "title": f"Title {number}", "text": "the same words"} for number in range(50)]
    result = await ask(SearchTool(corpus=write(tmp_path / "same.jsonl", rows), k=20), query="words")
    assert result.data == [str(number) for number in range(20)]


async def test_a_large_index_is_read_in_a_thread_with_the_same_result(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await ask(SearchTool(corpus=corpus), query="founder of Velmora")
    monkeypatch.setattr("agentrl.tools.search.tool._LARGE", 0)
    assert await ask(SearchTool(corpus=corpus), query="founder of Velmora") == here


async def test_a_title_with_line_breaks_stays_on_its_line(tmp_path: Path) -> None:
    rows = [{"id": "1", "title": "Two\nlines", "text": "some words.\n\nother words"}]
    result = await ask(SearchTool(corpus=write(tmp_path / "c.jsonl", rows)), query="words")
    assert result.text == "Two lines: some words. other words"


# -- passages and pages ------------------------------------------------------------------------------------------------


def test_a_passage_has_the_sentences_that_say_most() -> None:
    text = "One two three. Four five six. Seven eight nine. Ten five eleven."
    weights = {"five": 1.0, "nine": 1.0}
    assert best_passage(text, weights, lambda part: part.lower().replace(".", "").split(), 36) == (
        "Four five six. Seven eight nine."
    )
    assert best_passage(text, {}, str.split, 20) == "One two three."
    assert best_passage(text, weights, str.split, 500) == text


@given(st.text(alphabet="ab. \n", max_size=400), st.integers(16, 60))
def test_a_passage_keeps_its_limit(text: str, limit: int) -> None:
    assert len(best_passage(text, {"a": 1.0, "bb": 2.0}, str.split, limit)) <= limit


@given(st.text(alphabet="ab \n", max_size=500), st.integers(5, 50))
def test_pages_hold_the_whole_text(text: str, size: int) -> None:
    parts = pages(text, size)
    assert parts
    assert all(len(part) <= size for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


async def test_an_article_is_read_page_by_page(corpus: Path) -> None:
    tool = ReadPage(corpus=corpus, page_size=1000)
    first = (await ask(tool, title="tor  ANDEN")).text
    heading, body = first.split("\n", 1)
    count = int(heading.removeprefix("Tor Anden (page 1 of ").removesuffix(")"))
    assert body.startswith("Tor Anden was born in Kelm.")
    last = await ask(tool, title="a3", page=count)
    assert last.text.endswith("He died old.")
    assert last.data == "a3"
    beyond = await ask(tool, title="Tor Anden", page=count + 1)
    assert (beyond.error, beyond.text) == ("failed", f"Error: 'Tor Anden' has {count} page(s)")


async def test_an_unknown_title_gets_the_nearest(corpus: Path) -> None:
    result = await ask(ReadPage(corpus=corpus), title="Anden")
    assert result.error == "failed"
    assert result.text.startswith("Error: there is no article 'Anden'; there are: Tor Anden")
    assert (await ask(ReadPage(corpus=corpus), title="x" * 100_000)).error == "failed"


# -- the index ---------------------------------------------------------------------------------------------------------


def test_an_index_is_built_once_and_shared(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_index(corpus)
    assert open_index(corpus) is first
    assert opened_index(corpus) is first
    monkeypatch.setattr(index_module, "_opened", {})
    monkeypatch.setattr(index_module, "build_index", lambda *_: pytest.fail("built again"))
    assert len(open_index(corpus)) == len(ARTICLES)


async def test_a_corpus_that_changes_gets_another_index(corpus: Path) -> None:
    tool = SearchTool(corpus=corpus)
    assert (await ask(tool, query="Quorn")).data == []
    before = index_folder(corpus)
    write(corpus, [*ARTICLES, {"id": "a5", "title": "Quorn", "text": "New."}])
    await tool.close()
    assert (await ask(tool, query="Quorn")).data == ["a5"]
    assert index_folder(corpus) != before


def test_a_process_does_not_keep_every_index_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_KEPT_OPEN", 2)
    corpora = [write(tmp_path / f"{number}.jsonl", [{"id": str(number), "text": f"w{number}"}]) for number in range(4)]
    first, *_ = [open_index(corpus) for corpus in corpora]
    assert [opened_index(corpus) is not None for corpus in corpora] == [False, False, True, True]
    assert first.search("w0", 1, 50)


async def test_many_episodes_build_one_index(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = index_module.build_index
    monkeypatch.setattr(index_module, "build_index", lambda *given: (built.append(given), build(*given)))
    tools = [SearchTool(corpus=corpus) for _ in range(20)]
    await asyncio.gather(*(tool.open(episode()) for tool in tools))
    assert len(built) == 1


def test_processes_share_the_cache(corpus: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from agentrl.tools.search.index import open_index; "
        "print(len(open_index(Path(sys.argv[1]))))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(corpus)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == ["4"] * 3
    assert [path.name for path in index_folder(corpus).parent.iterdir() if "partial" in path.name] == []


def test_a_damaged_index_is_built_again(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_index(corpus)
    (index_folder(corpus) / "meta.json").write_text("{")
    monkeypatch.setattr(index_module, "_opened", {})
    with pytest.warns(UserWarning, match="damaged"):
        assert open_index(corpus).search("velmora", 1, 50)


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(ARTICLES[0]) + "\nnot json\n")
    with pytest.raises(ConfigError, match=r"bad\.jsonl:2 is not JSON"):
        open_index(bad)
    assert not [path for path in (cache / "search").iterdir() if path.is_dir()]


def test_a_cache_that_cannot_be_written_is_one_line(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="AGENTRL_CACHE") as caught:
        open_index(corpus)
    assert "\n" not in str(caught.value)


# -- corpora and options -----------------------------------------------------------------------------------------------


def test_other_forms_of_corpora_are_read(tmp_path: Path) -> None:
    rows = [
        {"id": 7, "contents": '"The Title"\nThe text.'},
        {"_id": "x", "title": "T", "text": ["One. ", "Two."]},
        {"text": "only text \ud800"},
    ]
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress("\n\n".join(json.dumps(row) for row in rows).encode()))
    found = [(document.id, document.title, document.text) for document in read_corpus(path)]
    assert found == [("7", "The Title", "The text."), ("x", "T", "One. Two."), ("5", "5", "only text ?")]
    assert len(open_index(path)) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("", "has no documents"),
        ("{", ":1 is not JSON"),
        ("[1]", ":1 has no text"),
        ('{"id": 1, "title": "x"}', ":1 has no text"),
    ],
)
@pytest.mark.parametrize("kind", [SearchTool, ReadPage])
def test_a_wrong_corpus_is_one_line_at_construction(
    tmp_path: Path, kind: type[SearchTool | ReadPage], content: str | None, said: str
) -> None:
    path = tmp_path / "c.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=said) as caught:
        kind(corpus=path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("options", [{"k": 0}, {"k": 21}, {"snippet": 15}, {"snippet": 4001}])
def test_wrong_options_are_one_line(corpus: Path, options: dict[str, int]) -> None:
    key, value = next(iter(options.items()))
    with pytest.raises(ConfigError, match=f"{key}={value}"):
        SearchTool(corpus=corpus, **options)


def test_a_broken_gzip_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(b"not gzip")
    with pytest.raises(ConfigError, match="cannot be read"):
        SearchTool(corpus=path)


async def test_an_episode_may_bring_its_own_corpus(corpus: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.jsonl", [{"id": "o", "title": "Velmora", "text": "Another one."}])
    tool = SearchTool(corpus=corpus)
    await tool.open(episode(search={"corpus": str(other), "k": 1}))
    assert (await ask(tool, query="velmora")).data == ["o"]
    await tool.open(episode())
    assert "a1" in (await ask(tool, query="velmora")).data


async def test_an_episode_cannot_bring_nonsense(corpus: Path) -> None:
    with pytest.raises(ConfigError, match="'korpus' of an episode is unknown; did you mean 'corpus'"):
        await SearchTool().open(episode(search={"korpus": "x"}))
    with pytest.raises(ConfigError, match="no corpus; give corpus=FILE"):
        await SearchTool().open(episode())
    with pytest.raises(ConfigError, match="page_size=1 "):
        await ReadPage(corpus=corpus).open(episode(read_page={"page_size": 1}))


async def test_a_session_is_copied_by_copying_nothing(corpus: Path) -> None:
    tool, other = SearchTool(corpus=corpus), SearchTool(corpus=corpus)
    await tool.open(episode())
    await other.open(episode())
    await other.restore(await tool.snapshot())
    assert (await ask(other, query="kelm")).data == ["a3"]
