"""Exact tokens over the chat templates of the families that people train, each with a tokenizer of its kind."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.chat import ChatRenderer
from agentrl.chat.renderer import History
from agentrl.messages import Message, Role, ToolCall, assistant, system, tool_result, user
from tests.chat.templates import FAMILIES

CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Exact arithmetic.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    },
}
families = pytest.mark.parametrize("family", FAMILIES)


@cache
def renderer_of(family: str, history: History = "template", tools: bool = True) -> ChatRenderer:
    return ChatRenderer(FAMILIES[family].tokenizer(), (CALCULATOR,) if tools else (), history=history)


def tokens_of(family: str) -> list[str]:
    return [*FAMILIES[family].special, *FAMILIES[family].plain]


def contents(family: str) -> st.SearchStrategy[str]:
    """Texts that spell the family's control tokens, in whole and in part, among words, white space and unicode."""
    tokens = tokens_of(family)
    pieces = [*tokens, *(token[:-1] for token in tokens), " ", "\n", "\n\n", "  the ", "x", "[", "{}", "\u00e9", "\U0001f600"]
    word = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
    return st.lists(st.sampled_from(pieces) | word, max_size=5).map("".join)


answers = st.sampled_from(["yes", "the tool says 1", "", " spaced ", "\nlines\n\n", "\u00e9t\u00e9", "12 34"])
thoughts = st.sampled_from(["", "", "<think>\nhm\n</think>\n\n", "<think>hm</think>", "<think>\nnever ended"])


def calls_of(text: str) -> tuple[ToolCall, ...]:
    return (ToolCall(id="call_0", name="calculator", arguments=f'{{"expression": "{text}"}}'),)


@st.composite
def conversations(draw: st.DrawFn, family: str) -> tuple[list[Message], list[tuple[list[int], list[Message]]]]:
    """Opening messages, then sampled ids and observation of each turn."""
    renderer, content = renderer_of(family), contents(family)
    opening = [*([system(draw(content))] if draw(st.booleans()) else []), user(draw(content))]
    turns: list[tuple[list[int], list[Message]]] = []
    for _ in range(draw(st.integers(1, 4))):
        calls = calls_of(draw(st.sampled_from(["60 + 64", "1", "\u00b2"]))) if draw(st.booleans()) else ()
        sampled = renderer.turn_ids(assistant(draw(thoughts) + draw(answers), calls))
        if draw(st.integers(0, 5)) == 0:
            sampled = sampled[: draw(st.integers(0, len(sampled)))]
        results = [tool_result(draw(content), "call_0", "calculator") for _ in range(draw(st.integers(1, 2)))]
        questions = [user(draw(content))]
        kinds = [results, results + questions] if calls else [questions]
        turns.append((sampled, draw(st.sampled_from(kinds))))
    return opening, turns


@families
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_appended_is_the_whole_or_a_counted_fork(family: str, data: st.DataObject) -> None:
    renderer = renderer_of(family)
    opening, turns = data.draw(conversations(family))
    context, history, canonical = renderer.opening(opening), list(opening), True
    for sampled, observation in turns:
        message, forks = renderer.parse(sampled), renderer.forks
        # Where the policy said it in other words than the format, the messages no longer hold what was sampled.
        canonical = canonical and body(renderer, renderer.turn_ids(message)) == body(renderer, sampled)
        grown = renderer.next_context(context, sampled, [*history, message], observation)
        history += [message, *observation]
        whole = renderer.opening(history)
        if renderer.forks == forks:
            assert grown[: len(context) + len(sampled)] == [*context, *sampled]
            assert not canonical or text_of(renderer, grown) == text_of(renderer, whole)
        else:
            assert renderer.forks == forks + 1
            assert grown == whole
            said = text_of(renderer, [*context, *body(renderer, sampled)])
            assert not canonical or not text_of(renderer, whole).startswith(said + renderer.traits.end)
            canonical = True
        context = grown


def body(renderer: ChatRenderer, sampled: list[int]) -> list[int]:
    return sampled[:-1] if sampled and sampled[-1] in renderer.stop_ids else sampled


def text_of(renderer: ChatRenderer, ids: list[int]) -> str:
    """The text of `ids`, in which all end-of-turn tokens look the same: one that was sampled stays."""
    text = str(renderer.tokenizer.decode(ids))
    for token in renderer.traits.stops:
        text = text.replace(token, renderer.traits.end)
    return text


@families
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_keep_never_forks(family: str, data: st.DataObject) -> None:
    renderer = renderer_of(family, "keep")
    opening, turns = data.draw(conversations(family))
    context, history = renderer.opening(opening), list(opening)
    for sampled, observation in turns:
        history.append(renderer.parse(sampled))
        grown = renderer.next_context(context, sampled, history, observation)
        assert grown[: len(context) + len(sampled)] == [*context, *sampled]
        context, history = grown, [*history, *observation]
    assert renderer.forks == 0
