"""The client of a retrieval server, against real HTTP servers on this machine: good ones, slow ones, broken ones."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from agentrl.errors import ConfigError
from agentrl.messages import ToolCall
from agentrl.task import Episode, Task
from agentrl.tool import ToolResult, call_tool
from agentrl.tools.search import SearchTool
from agentrl.tools.search import remote as remote_module
from agentrl.tools.search.remote import RemoteError, Server, acquire, release
from tests.tools.retrieval_server import Answer, Retrieval, articles, serving


def reply(value: Any, status: int = 200) -> Answer:
    return lambda _: (status, value if isinstance(value, bytes) else json.dumps(value).encode())


@pytest.fixture
def server() -> Iterator[Retrieval]:
    with serving() as retrieval:
        yield retrieval


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "_FIRST_PAUSE", 0.01)


async def ask(tool: SearchTool, query: str = "clocks", **arguments: Any) -> ToolResult:
    """One call in an episode of its own."""
    await tool.open(Episode(Task("t:0", "t", ()), seed=0))
    try:
        call = ToolCall(id="call_0", name="search", arguments=json.dumps({"query": query, **arguments}))
        return (await call_tool({"search": tool}, call))[0]
    finally:
        await tool.close()


async def test_the_request_and_the_reply_are_those_of_search_r1(server: Retrieval) -> None:
    result = await ask(SearchTool(url=server.url, k=2), "who makes clocks?")
    assert server.requests == [
        {"path": "/retrieve", "queries": ["who makes clocks?"], "topk": 2, "return_scores": True}
    ]
    assert result.error is None
    assert result.text.split("\n") == [
        "1. Title 0: Text 0 on who makes clocks?.",
        "2. Title 1: Text 1 on who makes clocks?.",
    ]
    assert result.data == ["0", "1"]


@pytest.mark.parametrize(
    "hit",
    [
        {"id": "5", "title": "T", "text": "Some text."},
        {"document": {"id": "5", "title": "T", "text": "Some text."}, "score": 2},
        {"id": "5", "contents": "T\nSome text."},
    ],
)
async def test_other_forms_of_hits_are_read(server: Retrieval, hit: dict[str, Any]) -> None:
    server.answer = reply({"result": [[hit]]})
    assert (await ask(SearchTool(url=server.url))).text == "T: Some text."


async def test_more_than_k_is_cut_and_nothing_is_said(server: Retrieval) -> None:
    server.answer = reply({"result": [[{"title": str(number), "text": "t"} for number in range(50)]]})
    assert len((await ask(SearchTool(url=server.url), k=4)).data) == 4
    server.answer = reply({"result": [[]]})
    assert (await ask(SearchTool(url=server.url))).text.startswith("No article was found")


async def test_the_passage_is_cut_to_the_snippet(server: Retrieval) -> None:
    text = "Nothing here. " * 50 + "The clocks are blue. " + "Nothing there. " * 50
    server.answer = reply({"result": [[{"title": "T", "text": text}]]})
    assert (await ask(SearchTool(url=server.url, snippet=30))).text == "T: The clocks are blue."


async def test_what_fails_for_a_while_is_tried_again(server: Retrieval) -> None:
    answers = [reply(b"busy", 503), reply(b"busy", 429)]
    server.answer = lambda request: (answers.pop(0) if answers else articles)(request)
    assert (await ask(SearchTool(url=server.url))).error is None
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("answer", "requests", "said"),
    [
        (reply(b"", 503), 3, "no answer in 3 attempts: status 503"),
        (reply(b"", 404), 1, "refused the request: status 404"),
        (reply(b"not json"), 1, "is not of the form"),
        (reply({"results": []}), 1, "is not of the form"),
        (reply({"result": []}), 1, "is not of the form"),
        (reply({"result": [["text"]]}), 1, "is not of the form"),
        (reply({"result": [5]}), 1, "is not of the form"),
        (reply(b"[" * 100_000), 1, "is not of the form"),
        (reply(b"x" * 5_000_000), 1, "longer than 4000000 bytes"),
    ],
)
async def test_what_fails_for_good_is_an_observation(
    server: Retrieval, answer: Answer, requests: int, said: str
) -> None:
    server.answer = answer
    result = await ask(SearchTool(url=server.url))
    assert result.error == "failed"
    assert said in result.text
    assert "\n" not in result.text
    assert len(server.requests) == requests


async def test_a_server_that_hangs_has_a_deadline(server: Retrieval) -> None:
    server.delay = 30.0
    result = await asyncio.wait_for(ask(SearchTool(url=server.url, attempts=2, attempt_timeout=0.1)), 10)
    assert result.error == "failed"
    assert "no answer in 2 attempts" in result.text
    assert len(server.requests) == 2


async def test_no_server_is_an_observation(server: Retrieval) -> None:
    server.server_close()
    result = await ask(SearchTool(url=server.url))
    assert result.error == "failed"
    assert "no answer in 3 attempts" in result.text


async def test_requests_in_flight_are_bounded_over_all_episodes(server: Retrieval) -> None:
    server.delay = 0.02
    tools = [SearchTool(url=server.url, connections=4) for _ in range(40)]
    results = await asyncio.gather(*(ask(tool, f"query {number}") for number, tool in enumerate(tools)))
    assert all(f"query {number}." in result.text for number, result in enumerate(results))
    assert 1 < server.most <= 4
    assert len(server.connections) <= 4


async def test_a_client_is_shared_and_closed_by_the_last(server: Retrieval) -> None:
    first, second = acquire(Server(server.url)), acquire(Server(server.url))
    assert first is second
    await release(first)
    assert len(await second.retrieve("x", 3)) == 3
    await release(second)
    with pytest.raises(RuntimeError, match="closed"):
        await second.retrieve("x", 3)
    assert Server(server.url) not in remote_module._clients[asyncio.get_running_loop()]


async def test_thousands_of_calls_leave_nothing_behind(server: Retrieval) -> None:
    descriptors = f"/proc/{os.getpid()}/fd"
    if not os.path.isdir(descriptors):
        pytest.skip("this system has no /proc to count descriptors in")
    tool = SearchTool(url=server.url)
    await ask(tool)
    gc.collect()
    before = len(os.listdir(descriptors))
    for _ in range(50):  # episodes
        await asyncio.gather(*(ask(SearchTool(url=server.url)) for _ in range(20)))
    gc.collect()
    await asyncio.sleep(0.05)  # the server closes its ends
    assert len(os.listdir(descriptors)) <= before + 5
    assert not remote_module._clients[asyncio.get_running_loop()]


async def test_a_cancelled_call_gives_its_slot_back(server: Retrieval) -> None:
    client = acquire(Server(server.url, connections=1))
    try:
        server.delay = 0.3
        waiting = asyncio.ensure_future(client.retrieve("slow", 1))
        await asyncio.sleep(0.05)
        waiting.cancel()
        server.delay = 0.0
        assert len(await asyncio.wait_for(client.retrieve("quick", 1), 10)) == 1
    finally:
        await release(client)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "localhost:8000"}, "must be like http://"),
        ({"url": "ftp://localhost/x"}, "must be like http://"),
        ({"url": "http://"}, "must be like http://"),
        ({"url": "http://h:port/"}, "is no address"),
        ({"url": "http://h/", "attempts": 0}, "attempts=0 must be positive"),
        ({"url": "http://h/", "connections": 0}, "connections=0 must be positive"),
        ({"url": "http://h/", "attempt_timeout": -1.0}, "attempt_timeout=-1.0 must be positive"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        SearchTool(**options)
    assert "\n" not in str(caught.value)


def test_corpus_and_url_exclude_each_other(tmp_path: Any) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "1", "title": "t", "text": "x"}\n')
    with pytest.raises(ConfigError, match="not both"):
        SearchTool(corpus=path, url="http://localhost/retrieve")


async def test_a_refused_request_says_so_itself(server: Retrieval) -> None:
    server.answer = reply(b"", 401)
    client = acquire(Server(server.url))
    with pytest.raises(RemoteError, match="status 401"):
        await client.retrieve("x", 1)
    await release(client)
