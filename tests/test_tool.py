"""Tools: schemas from signatures, and calls whose every failure is an answer that the policy reads."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from agentrl import registry
from agentrl.errors import ConfigError, EnvError, UnknownNameError
from agentrl.messages import ToolCall
from agentrl.task import Episode, Task
from agentrl.tool import Tool, ToolResult, call_tool, resolve_tool, tool


class Point(BaseModel):
    x: int
    title: str = ""


@tool
def search(query: Annotated[str, Field(description="what to look for")], limit: int = 10, json: bool = False) -> str:
    """Search the archive.

    It holds everything.

    Args:
        limit: at most so many,
            best first
        json: raw output

    Returns:
        lines
    """
    return f"{query}/{limit}/{json}"


def call(name: str, arguments: Any = "{}", **fields: Any) -> ToolCall:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCall(id="call_0", name=name, arguments=text, **fields)


async def run(made: Tool, arguments: Any = "{}") -> ToolResult:
    result, record = await call_tool({made.name: made}, call(made.name, arguments))
    assert (record.result, record.error) == (result.text, result.error)
    return result


def test_schema_comes_from_the_signature_and_the_docstring() -> None:
    assert search.schema() == {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search the archive.\n\nIt holds everything.",
            "parameters": {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "what to look for"},
                    "limit": {"type": "integer", "default": 10, "description": "at most so many, best first"},
                    "json": {"type": "boolean", "default": False, "description": "raw output"},
                },
                "required": ["query"],
            },
        },
    }


def test_schema_keeps_parameters_called_title_and_nested_models() -> None:
    @tool
    def draw(title: str, point: Point, mode: Literal["a", "b"] = "a") -> str:
        """Draw."""
        return title

    parameters = draw.schema()["function"]["parameters"]
    assert set(parameters["properties"]) == {"title", "point", "mode"}
    assert set(parameters["$defs"]["Point"]["properties"]) == {"x", "title"}
    assert parameters["$defs"]["Point"]["properties"]["x"] == {"type": "integer"}


def test_a_decorated_function_is_still_the_function() -> None:
    assert search("a") == "a/10/False"
    assert search.__name__ == "search"


async def test_arguments_are_validated_and_defaults_filled_in() -> None:
    assert (await run(search, {"query": "x", "limit": "3"})).text == "x/3/False"


async def test_nested_models_reach_the_function_as_models() -> None:
    @tool
    async def shift(point: Point) -> int:
        """Shift."""
        return point.x + 1

    assert (await run(shift, {"point": {"x": 4}})).text == "5"


async def test_an_argument_default_inside_the_annotation_is_used() -> None:
    @tool
    def count(to: Annotated[int, Field(default=3)]) -> int:
        """Count."""
        return to

    assert (await run(count)).text == "3"


@pytest.mark.parametrize(
    ("arguments", "kind", "part"),
    [
        ('{"query": ', "parse", "not JSON"),
        ("", "invalid_arguments", "query: field required"),
        ("[1]", "invalid_arguments", "object"),
        ('{"query": "x", "limit": "many"}', "invalid_arguments", "limit"),
        ('{"query": "x", "colour": 1}', "invalid_arguments", "colour"),
        ('{"query": 1' + "0" * 4_000 + "}", "invalid_arguments", "query"),
        ('{"query": 1' + "0" * 100_000 + "}", "parse", "not JSON"),
        ("[" * 100_000, "parse", "not JSON"),
    ],
)
async def test_bad_arguments_are_a_short_readable_answer(arguments: str, kind: str, part: str) -> None:
    result = await run(search, arguments)
    assert result.error == kind
    assert part in result.text
    assert len(result.text) < 400
    assert "pydantic" not in result.text


async def test_unknown_tool_offers_the_nearest_name() -> None:
    result, record = await call_tool({"search": search}, call("serch"))
    assert record.error == "unknown_tool"
    assert "did you mean 'search'?" in result.text


async def test_a_call_that_could_not_be_parsed_says_why() -> None:
    result, record = await call_tool({"search": search}, call("search", error="no closing brace"))
    assert record.error == "parse"
    assert "no closing brace" in result.text


async def test_a_crash_is_an_answer() -> None:
    @tool
    def divide(by: int) -> float:
        """Divide."""
        return 1 / by

    result = await run(divide, {"by": 0})
    assert result == ToolResult("Error: ZeroDivisionError: division by zero", "failed")


@pytest.mark.parametrize("inline", [True, False])
async def test_a_tool_that_exits_does_not_end_the_program(inline: bool) -> None:
    @tool(inline=inline)
    def leave() -> None:
        """Leave."""
        sys.exit(3)

    assert (await run(leave)).error == "failed"


async def test_a_tool_that_cancels_itself_is_a_failure_not_a_cancellation() -> None:
    @tool
    async def cancelled() -> None:
        """Be cancelled."""
        raise asyncio.CancelledError

    assert (await run(cancelled)).error == "failed"


async def test_timeout_of_a_coroutine_cancels_it() -> None:
    events = []

    @tool(timeout=0.05)
    async def slow() -> None:
        """Sleep."""
        try:
            await asyncio.sleep(60)
        finally:
            events.append("cleaned up")

    result = await run(slow)
    assert result.error == "timeout"
    assert "0.05 seconds" in result.text
    assert events == ["cleaned up"]


async def test_timeout_of_a_coroutine_that_resists_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["agentrl.tool"], "_CANCEL_GRACE", 0.05)
    release = asyncio.Event()

    @tool(timeout=0.05)
    async def stubborn() -> None:
        """Never stop."""
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    assert (await run(stubborn)).error == "timeout"
    release.set()


async def test_timeout_of_a_function_leaves_its_thread_and_goes_on() -> None:
    release = threading.Event()

    @tool(timeout=0.05)
    def hang() -> None:
        """Hang."""
        release.wait(60)

    assert (await run(hang)).error == "timeout"
    release.set()


async def test_many_hanging_functions_do_not_starve_the_others() -> None:
    release = threading.Event()

    @tool(timeout=0.2)
    def hang() -> None:
        """Hang."""
        release.wait(60)

    results = await asyncio.gather(*(run(hang) for _ in range(64)), run(search, {"query": "x"}))
    release.set()
    assert [result.error for result in results] == ["timeout"] * 64 + [None]


async def test_cancelling_the_caller_cancels_the_tool_and_passes_through() -> None:
    events = []

    @tool
    async def slow() -> None:
        """Sleep."""
        events.append("began")
        try:
            await asyncio.sleep(60)
        finally:
            events.append("ended")

    task = asyncio.ensure_future(run(slow))
    while not events:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events == ["began", "ended"]


@pytest.mark.parametrize("limit", [10, 100, 1000])
async def test_a_long_output_is_cut_to_the_budget_with_a_note(limit: int) -> None:
    @tool(max_output=limit)
    def flood() -> str:
        """Flood."""
        return "a" * 5_000_000 + "the end"

    text = (await run(flood)).text
    assert len(text) == limit
    if limit >= 100:
        assert "5000007 characters cut" in text
        assert text.startswith("a")
        assert text.endswith("the end")


async def test_an_output_within_the_budget_is_left_alone() -> None:
    assert (await run(tool(max_output=4)(lambda_like))).text == "four"


def lambda_like() -> str:
    """Give a word."""
    return "four"


async def test_output_that_cannot_be_encoded_is_mended() -> None:
    @tool
    def odd() -> str:
        """Odd."""
        return "a\ud800b ü"

    assert (await run(odd)).text == "a?b ü"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (7, "7"), ({"a": [1, None]}, '{"a":[1,null]}'), (Point(x=1), '{"x":1,"title":""}'), (True, "true")],
)
async def test_other_values_are_shown_as_json(value: Any, text: str) -> None:
    @tool
    def give() -> Any:
        """Give."""
        return value

    assert (await run(give)).text == text


async def test_a_result_that_cannot_be_shown_is_a_failure() -> None:
    class Rude:
        def __str__(self) -> str:
            raise RuntimeError("no")

    @tool
    def give() -> Any:
        """Give."""
        return {"a": Rude()}

    assert (await run(give)).error == "failed"


async def test_the_concurrency_limit_holds_for_all_copies_of_a_tool() -> None:
    running, most = 0, 0

    @tool(concurrency=2)
    async def work() -> None:
        """Work."""
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    copies = [resolve_tool(work) for _ in range(6)]
    answers = await asyncio.gather(*(call_tool({"work": copy}, call("work")) for copy in copies))
    assert most == 2
    assert max(record.queued_seconds for _, record in answers) > 0


async def test_a_call_that_did_not_wait_has_no_queue_in_its_record() -> None:
    @tool(concurrency=1)
    async def work() -> None:
        """Work."""
        await asyncio.sleep(0.01)

    _, record = await call_tool({"work": work}, call("work"))
    assert record.queued_seconds == 0.0
    assert record.seconds > 0.0


async def test_waiting_for_the_concurrency_limit_does_not_count_against_the_timeout() -> None:
    @tool(concurrency=1, timeout=0.2)
    async def work() -> str:
        """Work."""
        await asyncio.sleep(0.05)
        return "done"

    answers = await asyncio.gather(*(call_tool({"work": work}, call("work")) for _ in range(6)))
    assert [result.text for result, _ in answers] == ["done"] * 6
    assert answers[-1][1].queued_seconds > 0.2


async def test_cancelled_calls_give_their_places_back() -> None:
    @tool(concurrency=1)
    async def work() -> str:
        """Work."""
        await asyncio.sleep(0.01)
        return "done"

    calls = [asyncio.create_task(call_tool({"work": work}, call("work"))) for _ in range(4)]
    await asyncio.sleep(0)
    for one in calls[:3]:
        one.cancel()
    (result, _), *_ = await asyncio.wait_for(asyncio.gather(calls[3]), 10)
    assert result.text == "done"
    assert all(one.cancelled() for one in calls[:3])


def test_the_concurrency_limit_works_on_one_event_loop_after_another() -> None:
    @tool(concurrency=1)
    async def work() -> str:
        """Work."""
        await asyncio.sleep(0)
        return "done"

    async def two() -> list[ToolResult]:
        return list(await asyncio.gather(run(work), run(work)))

    for _ in range(3):
        assert [result.text for result in asyncio.run(two())] == ["done", "done"]


async def test_plain_functions_run_off_the_event_loop_unless_inline() -> None:
    def where() -> str:
        """Say where."""
        return str(threading.current_thread() is threading.main_thread())

    assert (await run(tool(where))).text == "False"
    assert (await run(tool(inline=True)(where))).text == "True"


class Counter(Tool):
    """Counts its calls."""

    name = "counter"

    def __init__(self, *, start: int = 0) -> None:
        self.start = start
        self.count = 0

    async def open(self, episode: Episode) -> None:
        self.count = self.start

    async def call(self, step: int = 1) -> int:
        self.count += step
        return self.count


async def test_a_class_is_a_tool_with_a_session() -> None:
    counter = resolve_tool(Counter, start=5, timeout=2)
    assert counter.stateful
    assert not search.stateful
    assert counter.timeout == 2
    assert counter.description == "Counts its calls."
    await counter.open(Episode(Task("train:0", "train", ()), 0))
    assert [(await run(counter, {"step": 2})).text, (await run(counter)).text] == ["7", "8"]
    with pytest.raises(EnvError, match="counter"):
        await counter.snapshot()


def test_an_instance_is_copied_so_that_sessions_are_not_shared() -> None:
    counter = Counter()
    first, second = resolve_tool(counter), resolve_tool(counter)
    assert first is not second
    assert first.limit_key == second.limit_key


def test_tools_are_found_by_registered_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.tools, "_registered", {})
    registry.tools.register("counter", Counter)
    registry.tools.register("search", search)
    assert isinstance(resolve_tool("counter"), Counter)
    assert resolve_tool("search", timeout=1).timeout == 1
    assert search.timeout == 30
    assert resolve_tool(lambda_like).name == "lambda_like"


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("calculater", {}, "did you mean 'calculator'?"),
        (Counter, {"begin": 1}, "option 'begin' is unknown"),
        (Counter, {"start": "x"}, "start: input should be a valid integer"),
        (search, {"time_out": 1}, "did you mean 'timeout'"),
        (search, {"timeout": 0}, "timeout=0 must be a positive number"),
        (search, {"max_output": 1.5}, "max_output=1.5 must be a whole number"),
        (search, {"concurrency": 0}, "concurrency=0"),
        (7, {}, "not int"),
    ],
)
def test_wrong_names_and_options_are_one_line(source: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_tool(source, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_tool_is_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError):
        resolve_tool("nothing-like-it")


def test_functions_that_cannot_be_tools_are_refused() -> None:
    def no_hint(a) -> str:  # type: ignore[no-untyped-def]
        """Doc."""
        return str(a)

    def no_doc(a: int) -> int:
        return a

    def variadic(*a: int) -> int:
        """Doc."""
        return sum(a)

    def unresolved(a: Nowhere) -> int:  # type: ignore[name-defined]  # noqa: F821
        """Doc."""
        return 1

    async def inline() -> None:
        """Doc."""

    for function, said in [
        (no_hint, "'a' has no type hint"),
        (no_doc, "no docstring"),
        (variadic, "given by name"),
        (unresolved, "Nowhere"),
    ]:
        with pytest.raises(ConfigError, match=said):
            tool(function)
    with pytest.raises(ConfigError, match="inline"):
        tool(inline=True)(inline)
    with pytest.raises(ConfigError, match="letters"):
        tool(name="a b")(lambda_like)


def test_a_class_whose_call_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="coroutine"):

        class Blocking(Tool):
            """Blocks."""

            name = "blocking"

            def call(self) -> str:  # type: ignore[override]
                return ""


async def test_the_record_has_the_call_as_it_was_written() -> None:
    arguments = '{"query":   "x"}'
    _, record = await call_tool({"search": search}, call("search", arguments))
    assert (record.name, record.arguments, record.result) == ("search", arguments, "x/10/False")
    assert 0 < record.seconds < time.perf_counter()
