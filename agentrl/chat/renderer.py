"""ChatRenderer: a conversation to token ids, turn after turn, without ever touching ids that were sampled.

Idea: the next context is the last context, the sampled ids, and the ids of the new messages only. What the template
writes for new messages is had by rendering the sampled text behind a short exchange and cutting both off, so a turn
costs what is new in it. At construction it is found out, apart for tool results and for user messages, whether this
window shows all that the whole conversation would; where it does not, the whole conversation is rendered and compared.
Where the template would rewrite what was sampled (Qwen 3 drops the thinking of turns before the last user message,
Llama 3 trims answers) the policy `history` decides: `template` renders anew, the new context is no continuation of the
old one, the training row forks and `forks` counts it; `keep` continues all the same and `kept` counts it.

Invariant: `next_context(c, s, ...)[: len(c) + len(s)] == c + s` in every turn that is not counted as a fork.
"""

from __future__ import annotations

import copy
import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Literal, get_args

from agentrl.chat.template import ChatTemplate, Rendered, Tokenizer
from agentrl.chat.tool_calls import PromptStyle, ToolCallFormat, tool_formats
from agentrl.chat.traits import AUTO, DUMMY, choose_format, probe_call, read_traits, teaches
from agentrl.errors import ChatError
from agentrl.messages import Message, Role, ToolCall, assistant, system, tool_result, user

ToolPrompt = Literal["schema", "signature", "none"]
History = Literal["template", "keep"]

TOOL_SETS = 256
"""Renderers for other sets of tools that one renderer keeps."""
# Marks on messages that are never rendered: a user message that was a tool's result, an answer as it was sampled.
_WRAPPED, _SAMPLED = "wrapped tool result", "as sampled"
_GREETING = user("hi")
_THINKING = re.compile(r"<think>\n?(.*?)\n?</think>\n*", re.DOTALL)


class ChatRenderer:
    """Renders conversations with one tokenizer's template, for one set of tools; `for_tools` gives one for another."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        tool_format: str = AUTO,
        tool_prompt: ToolPrompt = "schema",
        history: History = "template",
    ) -> None:
        """`tools` are OpenAI schemas. `tool_format` names how the policy writes calls; `auto` takes the format that the
        template itself writes or teaches, else `hermes`. `tool_prompt` says how the policy hears of the tools:

        - `schema`: by the template's own tool prompt if it has one that teaches the format, else by the format's
          prompt with the JSON schemas, merged into the system message;
        - `signature`: one line such as `Tools: calculator(expression: str)` and how to call, in the system message;
        - `none`: not at all.

        `history` decides where the template would rewrite what was sampled: `template` shows the policy what the
        template makes of it (the row forks), `keep` shows it what it sampled (rows never fork, but a server that
        renders by the template shows something else).

        Raises `ChatError` if the tokenizer has no chat template or its template cannot render a plain conversation.
        """
        _one_of("tool_prompt", tool_prompt, ToolPrompt)
        _one_of("history", history, History)
        self._template = ChatTemplate(tokenizer)
        name = choose_format(self._template) if tool_format == AUTO else tool_format
        self.format: ToolCallFormat = tool_formats.get(name)
        self.tool_format = name
        """The format's name, `auto` resolved."""
        self.history: History = history
        self.forks = 0
        """Turns so far whose context was rendered anew because the template rewrote history."""
        self.kept = 0
        """Turns so far that were continued as sampled although the template would have rewritten them."""
        self.traits = read_traits(self._template, self.format)
        """What the template can do."""
        control = self._template.control
        self._stops = {control[token]: token for token in self.traits.stops}
        if tokenizer.eos_token_id is not None:
            self._stops.setdefault(int(tokenizer.eos_token_id), self._template.decode([int(tokenizer.eos_token_id)]))
        self.stop_ids: tuple[int, ...] = tuple(self._stops)
        """Ids that end a turn: the token that the template ends a last answer with, that of calls, the tokenizer's."""
        self._tool_prompt: ToolPrompt = tool_prompt
        self._begin(tools)

    def _begin(self, tools: Sequence[Mapping[str, Any]]) -> None:
        """Set what depends on the tools, and decide how to present them."""
        self._tools = [dict(tool) if "function" in tool else {"type": "function", "function": tool} for tool in tools]
        self._prompted: PromptStyle | None = None
        self._appends: dict[Role, bool] = {}
        self._greeted = ""  # the rendering of a greeting, which the window's begins with
        self._others: OrderedDict[str, ChatRenderer] = OrderedDict()
        self._lock = Lock()  # renderers are asked from threads, too
        self._offer(self._tool_prompt)

    def for_tools(self, tools: Sequence[Mapping[str, Any]]) -> ChatRenderer:
        """The renderer for another set of tools (an episode's own), like this one in all else.

        The last `TOOL_SETS` that were asked for are kept; a new one takes some renderings, 5 to 50 ms.
        """
        key = json.dumps(tools)
        with self._lock:
            other = self._others.pop(key, None) or self._derived(tools)
            self._others[key] = other
            if len(self._others) > TOOL_SETS:
                self._others.popitem(last=False)
        return other

    def _derived(self, tools: Sequence[Mapping[str, Any]]) -> ChatRenderer:
        other = copy.copy(self)
        other._template = copy.copy(self._template)
        other._template.tools = None
        other.forks = other.kept = 0
        other._begin(tools)
        return other

    @property
    def append_only(self) -> bool:
        """True if no probe of a conversation made the template rewrite, or write otherwise, earlier turns."""
        return all(self._appends.values())

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the renderer was made with."""
        return self._template.tokenizer

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """Context of the first turn: the opening messages and the generation prompt."""
        return self._template.encode(self._render(messages))

    def next_context(
        self,
        context_ids: Sequence[int],
        sampled_ids: Sequence[int],
        history: Sequence[Message],
        observation: Sequence[Message],
    ) -> list[int]:
        """Context of the turn after `context_ids` + `sampled_ids`.

        `history` is the conversation up to and including the message parsed from `sampled_ids`; `observation` is what
        the environment answered. The end-of-turn token is put in where the sampled ids lack it (length stop); one that
        was sampled stays, whichever it is. Raises `ChatError` if `history` does not end with the assistant's message
        or the template refuses the observation.
        """
        if not history or history[-1].role is not Role.ASSISTANT:
            raise ChatError("history must end with the assistant's message that the sampled ids stand for")
        sampled = self._template.decode_after(context_ids, self._body(sampled_ids))
        added = self._added(sampled, history, observation)
        if added is None and self.history == "template":
            self.forks += 1
            return self.opening([*history, *observation])
        if added is None:
            self.kept += 1
            added = self._apart(history[-1], observation)
        ids = [*context_ids, *sampled_ids]
        if not sampled_ids or sampled_ids[-1] not in self._stops:
            ids.append(self._template.control[self.traits.end])
        return ids + self._template.encode(added, after=ids[-1])

    def parse(self, sampled_ids: Sequence[int]) -> Message:
        """The assistant's message that `sampled_ids` stand for, without its end-of-turn token."""
        content, calls = self.format.parse(self._template.decode(self._body(sampled_ids)), self._tools)
        return assistant(content, calls)

    def turn_ids(self, message: Message) -> list[int]:
        """Ids that `message` would be sampled as, end-of-turn token included; tokenised apart from any context."""
        hiding = self._template.hiding([message])
        end = self.traits.call_stop if message.tool_calls else self.traits.stops[0]
        written = Rendered(self._spoken(hiding.message(message)).removesuffix(end), hiding)
        return [*self._template.encode(written), self._template.control[end]]

    def _body(self, sampled_ids: Sequence[int]) -> Sequence[int]:
        return sampled_ids[:-1] if sampled_ids and sampled_ids[-1] in self._stops else sampled_ids

    def _written(self, message: Message) -> str:
        return self.format.format(message.text, message.tool_calls, self._tools)

    def _spoken(self, message: Message) -> str:
        """The message as the policy says it behind the generation prompt."""
        written = self._written(message)
        return self.traits.header + written if self.traits.structured and written == message.text else written

    def _render(self, messages: Sequence[Message], *, opens: bool = True) -> Rendered:
        """The template's text for `messages` and the next generation prompt; `opens` places the tool prompt."""
        hiding = self._template.hiding(messages)
        hidden = [hiding.message(message) for message in messages]
        if opens and self._prompted:
            prompt = self.format.prompt([hiding.value(tool) for tool in self._tools], self._prompted)
            first = hidden[0] if hidden and hidden[0].role is Role.SYSTEM else None
            text = f"{first.text}\n\n{prompt}" if first and first.text else prompt
            hidden[: 1 if first else 0] = [system(text)]
        return self._template.render(self._prepared(hidden), generation_prompt=True, hiding=hiding)

    def _prepared(self, messages: Sequence[Message]) -> list[Message]:
        """The messages in the roles that the template knows, calls written as text."""
        prepared: list[Message] = []
        called = self.traits.tool_role and not self.traits.structured
        for original in messages:
            if self.traits.structured and original.role is not Role.TOOL:
                called = bool(original.tool_calls)
            message = self._told(original, called)
            before = prepared[-1] if prepared and prepared[-1].role is message.role is Role.USER else None
            if before and before.name == message.name == _WRAPPED:
                prepared[-1] = before.model_copy(update={"content": f"{before.text}\n{message.text}"})
            elif before and self.traits.alternates:
                prepared[-1] = user(f"{before.text}\n\n{message.text}")
            else:
                prepared.append(message)
        return prepared

    def _told(self, message: Message, called: bool) -> Message:
        """One message in a role and a form that the template knows; `called`: it would take a tool's result now."""
        if message.role is Role.ASSISTANT and self.traits.structured:
            return _in_channels(message)
        if message.role is Role.ASSISTANT and message.name != _SAMPLED:
            return assistant(self._written(message))
        if message.role is Role.TOOL and not called:
            return Message(role=Role.USER, content=self.format.format_result(message.text), name=_WRAPPED)
        if message.role is Role.SYSTEM and not self.traits.system_role:
            return user(message.text)
        return message

    def _added(self, sampled: str, history: Sequence[Message], observation: Sequence[Message]) -> Rendered | None:
        """What the template writes behind the end-of-turn token for `observation` and the next generation prompt.

        None if the template would not leave the conversation before `observation` as it was sampled.
        """
        if self.history == "keep" or all(self._appends.get(message.role, False) for message in observation):
            return self._in_window(sampled, history[-1], observation)
        return self._in_whole(sampled, history, observation)

    def _in_window(self, sampled: str, message: Message, observation: Sequence[Message]) -> Rendered | None:
        """`_added` behind one exchange, so that it costs what is new."""
        whole = self._render([_GREETING, self._answer(sampled, message), *observation], opens=False)
        added = self._behind(whole, self._greeted + sampled)
        if added is None:  # the answer is rewritten, or the template's own text has changed: a date
            self._greeted = self._render([_GREETING], opens=False).plain
            added = self._behind(whole, self._greeted + sampled)
        return added

    def _in_whole(self, sampled: str, history: Sequence[Message], observation: Sequence[Message]) -> Rendered | None:
        """`_added` behind the whole conversation."""
        before = self._render(history[:-1]).plain
        whole = self._render([*history[:-1], self._answer(sampled, history[-1]), *observation])
        return self._behind(whole, before + sampled)

    def _answer(self, sampled: str, message: Message) -> Message:
        """The message that the template is asked about: what was sampled, unless it wants calls apart.

        What the template itself puts before an answer (Mistral v0.3: a space) was sampled too, and is no content.
        """
        if self.traits.structured:
            return message
        return Message(role=Role.ASSISTANT, content=sampled.removeprefix(self.traits.header), name=_SAMPLED)

    def _behind(self, whole: Rendered, said: str) -> Rendered | None:
        """What `whole` has behind `said` and an end-of-turn token; None if it does not begin so."""
        for end in dict.fromkeys((self.traits.end, *self._stops.values())):
            if (added := whole.behind(said + end)) is not None:
                return added
        return None

    def _apart(self, message: Message, observation: Sequence[Message]) -> Rendered:
        """What the template writes for `observation` behind an answer that it does not rewrite."""
        answer = Message(role=Role.ASSISTANT, content=DUMMY, name=_SAMPLED)
        if self.traits.structured and any(result.role is Role.TOOL for result in observation):
            calls = message.tool_calls[:1]
            answer = assistant("" if calls else DUMMY, tuple(map(_dummy, calls)))
        rendered = self._render([_GREETING, answer, *observation], opens=False)
        _, found, rest = rendered.text.partition(DUMMY)
        places = [rest.find(end) + len(end) for end in (self.traits.end, *self._stops.values()) if end in rest]
        if not found or not places:
            raise ChatError("the chat template does not render an assistant's message before an observation")
        return rendered.after(len(rendered.text) - len(rest) + min(places))

    def _offer(self, style: ToolPrompt) -> None:
        """Decide, by rendering, whether the template presents the tools or the system message has to."""
        if not self._tools or style == "none":
            self._appends = self._verify()
            return
        self._prompted = style
        self._appends = self._verify()
        if style == "schema" and teaches(self._template, self.format):
            prompted, self._prompted, self._template.tools = self._appends, None, self._tools
            self._appends = self._verify()
            if sum(self._appends.values()) < sum(prompted.values()):  # Mistral 7: its tool prompt moves, ours stays
                self._appends, self._prompted, self._template.tools = prompted, style, None

    def _verify(self) -> dict[Role, bool]:
        """By role: True if observations of that role show behind one exchange what they show behind a conversation."""
        appends = {Role.TOOL: True, Role.USER: True}
        for opening in ([user("question")], [system("rules"), user("question")]):
            for roles in ((Role.TOOL, Role.TOOL), (Role.USER, Role.USER), (Role.TOOL, Role.USER, Role.TOOL)):
                history: list[Message] = list(opening)
                for turn, role in enumerate(roles):
                    answer = assistant("<think>\na\n</think>\n\nb" if turn else "", () if turn else (probe_call(),))
                    history.append(answer)
                    observation = _observed(role, f"seen {turn}")
                    appends[role] = appends[role] and self._window_suffices(history, observation)
                    history += observation
        return appends

    def _window_suffices(self, history: Sequence[Message], observation: Sequence[Message]) -> bool:
        sampled = self._spoken(history[-1])
        sampled = sampled if self.traits.structured else self.traits.header + sampled
        try:
            window = self._in_window(sampled, history[-1], observation)
            whole = self._in_whole(sampled, history, observation)
        except ChatError:
            return False
        return window is not None and whole is not None and window.plain == whole.plain


def _in_channels(message: Message) -> Message:
    """The message with its thinking where a template of channels wants it: beside calls, and nowhere else."""
    thoughts = _THINKING.findall(message.text)
    rest = _THINKING.sub("", message.text)
    return message.model_copy(update={"content": "\n\n".join(thoughts) or rest if message.tool_calls else rest})


def _dummy(call: ToolCall) -> ToolCall:
    return ToolCall(id=call.id, name=call.name or "tool", arguments=f'"{DUMMY}"')


def _observed(role: Role, text: str) -> list[Message]:
    if role is Role.USER:
        return [user(text)]
    return [tool_result(f"{text} {letter}", "callprobe", "probetool") for letter in "ab"]


def _one_of(key: str, value: str, kind: Any) -> None:
    if value not in get_args(kind):
        raise ChatError(f"{key} = {value!r}; valid: {', '.join(get_args(kind))}")
