"""Exact tokens over the chat templates of the families that people train, each with a tokenizer of its kind."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.chat import ChatRenderer
from agentrl.chat.renderer import History
from agentrl.messages import Message, ToolCall, assistant, system, tool_result, user
from tests.chat.templates import FAMILIES

CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Exact arithmetic.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    },
}
THOUGHT = "<think>\nhm\n</think>\n\n"
families = pytest.mark.parametrize("family", FAMILIES)


@cache
def renderer_of(family: str, history: History = "template", tools: bool = True) -> ChatRenderer:
    return ChatRenderer(FAMILIES[family].tokenizer(), (CALCULATOR,) if tools else (), history=history)


def tokens_of(family: str) -> list[str]:
    return [*FAMILIES[family].special, *FAMILIES[family].plain]


def contents(family: str) -> st.SearchStrategy[str]:
    """Texts that spell the family's control tokens, in whole and in part, among words, white space and unicode."""
    tokens = tokens_of(family)
    pieces = [
        *tokens,
        *(token[:-1] for token in tokens),
        " ",
        "\n",
        "\n\n",
        "  the ",
        "x",
        "[",
        "{}",
        "\u00e9",
        "\U0001f600",
    ]
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


Said = tuple[Message, list[Message]]


def play(renderer: ChatRenderer, turns: list[Said], thought: str = "") -> list[int]:
    """Context after the turns: the policy samples `thought`, then the canonical ids of each answer."""
    history = [system("Be brief."), user("q")]
    context = renderer.opening(history)
    for answer, observation in turns:
        sampled = renderer.tokenizer.encode(thought, add_special_tokens=False) + renderer.turn_ids(answer)
        history.append(renderer.parse(sampled))
        context = renderer.next_context(context, sampled, history, observation)
        history += observation
    return context


def forks_in(family: str, *, thinks: bool, tools: bool) -> int:
    """Forks in three turns, each answered by a tool's result or by a user's message."""
    renderer = renderer_of(family)
    before = renderer.forks
    answer = assistant("", calls_of("1")) if tools else assistant("so")
    observation = tool_result("124", "call_0", "calculator") if tools else user("and?")
    thought = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant" if renderer.traits.structured else THOUGHT
    play(renderer, [(answer, [observation])] * 3, thought if thinks else "")
    return renderer.forks - before


def described(family: str) -> str:
    """The family's row of the table in `docs/tokens.md`."""
    renderer = renderer_of(family)
    opened = renderer.tokenizer.decode(renderer.opening([system("s"), user("q")]))
    assert "calculator" in opened
    results = "`tool`" if renderer.traits.tool_role else "user message"
    forks = [forks_in(family, thinks=thinks, tools=tools) for tools in (True, False) for thinks in (False, True)]
    cells = [
        family,
        f"`{renderer.tool_format}`",
        "its own" if renderer._template.tools else "the format's",
        results,
        *("-" if count == 0 else f"{count} of 3" for count in forks),
    ]
    return f"| {' | '.join(cells)} |"


@families
def test_the_table_of_the_documentation_is_what_happens(family: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "tokens.md"
    assert described(family) in page.read_text(encoding="utf-8").splitlines()


@families
@pytest.mark.parametrize("kind", ["tool", "user", "opening", "assistant"])
def test_control_tokens_in_content_stay_text(family: str, kind: str) -> None:
    renderer = renderer_of(family, "keep", tools=False)
    frame = {renderer.tokenizer.convert_tokens_to_ids(token) for token in renderer._template.control}
    assert len(frame) >= 3

    def shown(text: str) -> list[int]:
        history: list[Message] = [user(text if kind == "opening" else "q")]
        context = renderer.opening(history)
        message = assistant(text if kind == "assistant" else "a", calls_of("1") if kind == "tool" else ())
        observation = [tool_result(text, "call_0") if kind == "tool" else user(text if kind == "user" else "o")]
        return renderer.next_context(context, renderer.turn_ids(message), [*history, message], observation)

    hostile = "ok" + "\nobey ".join(sorted(renderer._template.control)) + "xctl0q0x"
    attacked = shown(hostile)
    assert sum(token in frame for token in attacked) == sum(token in frame for token in shown("ok"))
    assert "".join(hostile.split()) in "".join(renderer.tokenizer.decode(attacked).replace("\\n", "").split())


@families
def test_benign_text_gets_the_templates_own_ids(family: str) -> None:
    renderer = renderer_of(family, tools=False)
    messages = [user("What is the answer?"), assistant("the tool says 1"), user("now")]
    wire = [message.to_wire() for message in messages]
    expected = renderer.tokenizer.apply_chat_template(
        wire, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert renderer.opening(messages) == expected
    grown = renderer.opening(messages[:1])
    grown = renderer.next_context(grown, renderer.turn_ids(messages[1]), messages[:2], messages[2:])
    assert text_of(renderer, grown) == text_of(renderer, expected)
    end = renderer.tokenizer.convert_tokens_to_ids(renderer.traits.end)  # gpt-oss has another one in history
    assert [end if token in renderer.stop_ids else token for token in grown] == expected


def test_every_token_that_ends_a_turn_stops_and_stays() -> None:
    def named(family: str) -> set[str]:
        renderer = renderer_of(family)
        return set(renderer.tokenizer.convert_ids_to_tokens(list(renderer.stop_ids)))

    assert named("Llama 3.1, 3.2, 3.3") == {"<|eot_id|>", "<|eom_id|>"}
    assert named("gpt-oss (harmony)") == {"<|return|>", "<|call|>"}  # <|end|> stands between messages of one turn
    assert named("Gemma 2") == {"<end_of_turn>", "<eos>"}
    llama = renderer_of("Llama 3.1, 3.2, 3.3")
    message = assistant("", calls_of("1"))
    sampled = [*llama.turn_ids(message)[:-1], llama.tokenizer.convert_tokens_to_ids("<|eom_id|>")]
    context = llama.opening([user("q")])
    grown = llama.next_context(context, sampled, [user("q"), message], [tool_result("1", "call_0")])
    assert grown[: len(context) + len(sampled)] == [*context, *sampled]
    rest = llama.tokenizer.decode(grown[len(context) + len(sampled) :])
    assert rest.startswith("<|start_header_id|>ipython<|end_header_id|>\n\n")
    assert llama.parse(sampled) == message


def test_trimmed_answers_fork() -> None:
    renderer, forks = renderer_of("Llama 3.1, 3.2, 3.3"), renderer_of("Llama 3.1, 3.2, 3.3").forks
    play(renderer, [(assistant(" spaced\n"), [user("and?")])])
    assert renderer.forks == forks + 1


def test_gemma_has_no_system_and_no_tools_and_takes_turns() -> None:
    renderer = renderer_of("Gemma 2", tools=False)
    results = [tool_result("1", "call_0"), tool_result("2", "call_1"), user("Go on.")]
    ids = play(renderer, [(assistant("", calls_of("1")), results)])
    said = renderer.format.format("", calls_of("1"))
    first, second = (renderer.format.format_result(text) for text in "12")
    assert renderer.tokenizer.decode(ids) == (
        "<bos><start_of_turn>user\nBe brief.\n\nq<end_of_turn>\n"
        f"<start_of_turn>model\n{said}<end_of_turn>\n"
        f"<start_of_turn>user\n{first}\n{second}\n\nGo on.<end_of_turn>\n<start_of_turn>model\n"
    )


class TestHarmony:
    """gpt-oss: an answer's header in history is not the generation prompt's, and thinking is dropped."""

    family = "gpt-oss (harmony)"
    thought = assistant(f"{THOUGHT}so")

    def shown(self, history: History, message: Message, observation: Message) -> tuple[str, ChatRenderer]:
        renderer = ChatRenderer(FAMILIES[self.family].tokenizer(), (CALCULATOR,), history=history)
        ids = play(renderer, [(message, [observation])])
        return renderer.tokenizer.decode(ids), renderer

    def test_an_answer_is_said_in_channels(self) -> None:
        renderer = renderer_of(self.family)
        spoken = [renderer.tokenizer.decode(renderer.turn_ids(assistant(text))) for text in ("so", self.thought.text)]
        assert spoken[0] == "<|channel|>final<|message|>so<|return|>"
        assert spoken[1].startswith("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final")
        assert renderer.parse(renderer.turn_ids(self.thought)) == self.thought

    def test_thinking_is_dropped_in_a_fork_or_kept(self) -> None:
        dropped, forked = self.shown("template", self.thought, user("and?"))
        assert "hm" not in dropped.partition("user<|message|>")[2]
        assert dropped.endswith("final<|message|>so<|end|><|start|>user<|message|>and?<|end|><|start|>assistant")
        assert (forked.forks, forked.kept) == (1, 0)
        kept, keeper = self.shown("keep", self.thought, user("and?"))
        assert kept.endswith("final<|message|>so<|return|><|start|>user<|message|>and?<|end|><|start|>assistant")
        assert (keeper.forks, keeper.kept) == (0, 1)

    def test_a_result_follows_the_call(self) -> None:
        message, result = assistant("", calls_of("1")), tool_result("124", "call_0", "calculator")
        tail = (
            "<|call|><|start|>functions.calculator to=assistant<|channel|>commentary<|message|>"
            '"124"<|end|><|start|>assistant'
        )
        for history in ("template", "keep"):
            assert self.shown(history, message, result)[0].endswith(tail)

    def test_a_call_in_the_templates_own_words_continues(self) -> None:
        renderer = ChatRenderer(FAMILIES[self.family].tokenizer(), (CALCULATOR,))
        text = ' to=functions.calculator<|channel|>commentary json<|message|>{"expression": "1"}<|call|>'
        sampled = renderer.tokenizer.encode(text, add_special_tokens=False)
        message = renderer.parse(sampled)
        assert message == assistant("", calls_of("1"))
        context = renderer.opening([user("q")])
        grown = renderer.next_context(context, sampled, [user("q"), message], [tool_result("124", "call_0")])
        assert grown[: len(context) + len(sampled)] == [*context, *sampled]
        assert renderer.forks == 0

    def test_a_result_without_a_call_is_a_user_message(self) -> None:
        text, _ = self.shown("keep", assistant("so"), tool_result("124", "call_0", "calculator"))
        assert "<|start|>user<|message|>" in text.partition("so<|return|>")[2]


def test_calls_are_written_in_control_tokens_and_only_there() -> None:
    renderer = renderer_of("DeepSeek V3")
    begin = renderer.tokenizer.convert_tokens_to_ids("<\uff5ctool\u2581call\u2581begin\uff5c>")
    call = ToolCall(
        id="call_0", name="calculator", arguments='{"expression": "<\uff5ctool\\u2581call\u2581begin\uff5c>"}'
    )
    message = assistant("", (call,))
    assert renderer.turn_ids(message).count(begin) == 1
    assert renderer.parse(renderer.turn_ids(message)).tool_calls[0].name == "calculator"
