"""A renderer for each set of tools: equal to one that was made for it, kept, and none the wiser of the others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agentrl.chat import ChatRenderer, renderer
from agentrl.messages import Message, ToolCall, assistant, system, tool_result, user
from tests.chat.templates import TEMPLATES, make_tokenizer

END = {"chatml": "<|im_end|>", "qwen": "<|im_end|>", "llama": "<|eot_id|>", "qwen3": "<|im_end|>"}
OPENING = [system("rules"), user("question")]


def tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": parameters}}


def contexts(made: ChatRenderer, name: str) -> list[list[int]]:
    """Two contexts of an episode that calls the tool of that name."""
    call = assistant("", (ToolCall(id="call_0", name=name, arguments='{"n": 1}'),))
    opening, sampled = made.opening(OPENING), made.turn_ids(call)
    history: list[Message] = [*OPENING, made.parse(sampled)]
    return [opening, made.next_context(opening, sampled, history, [tool_result("done", "call_0", name)])]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", ["schema", "signature", "none"])
def test_it_renders_as_one_that_was_made_for_the_tools(name: str, prompt: Any) -> None:
    tokenizer = make_tokenizer(name, eos=END[name])
    base = ChatRenderer(tokenizer, [tool("base")], tool_prompt=prompt)
    before = contexts(base, "base")
    for tools in ([tool("one")], [tool("two"), tool("three")], []):
        fresh, derived = ChatRenderer(tokenizer, tools, tool_prompt=prompt), base.for_tools(tools)
        assert contexts(derived, "one") == contexts(fresh, "one")
        assert (derived.stop_ids, derived.append_only) == (fresh.stop_ids, fresh.append_only)
        assert base.for_tools([dict(item) for item in tools]) is derived
    assert contexts(base, "base") == before
    assert (prompt == "none") == (base.for_tools([tool("one")]).opening(OPENING) == base.opening(OPENING))


def test_the_last_ones_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "TOOL_SETS", 2)
    base = ChatRenderer(make_tokenizer("qwen", eos=END["qwen"]))
    first, second = base.for_tools([tool("a")]), base.for_tools([tool("b")])
    assert base.for_tools([tool("a")]) is first
    base.for_tools([tool("c")])
    assert base.for_tools([tool("a")]) is first
    assert base.for_tools([tool("b")]) is not second


def test_threads_that_ask_for_the_same_tools_get_the_same_renderer() -> None:
    base = ChatRenderer(make_tokenizer("qwen", eos=END["qwen"]))
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda index: base.for_tools([tool(f"t{index % 4}")]), range(64)))
    assert len({id(one) for one in made}) == 4
