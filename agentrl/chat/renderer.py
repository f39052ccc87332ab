"""ChatRenderer: a conversation to token ids, turn after turn, without ever touching ids that were sampled.

Idea: the next context is the last context, the sampled ids, and the ids of the new messages only. What the template
writes for new messages is had by rendering them behind a short dummy exchange and cutting off the exchange, so a turn
costs what is new in it. At construction this difference is verified against whole renderings of probe conversations,
apart for tool results and for user messages. Where a template rewrites history (Qwen 3 drops the thinking of turns
before the last user message) the whole conversation is rendered anew; the new context is then no continuation of the
old one, the training row forks, and `forks` counts it.

Invariant: `next_context(c, s, ...)[: len(c) + len(s)] == c + s` in every turn that is not counted as a fork.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agentrl.chat.template import ChatTemplate, Rendered, Tokenizer
from agentrl.chat.tool_calls import ToolCallFormat, tool_formats
from agentrl.errors import ChatError
from agentrl.messages import Message, Role, ToolCall, assistant, system, tool_result, user

ToolPrompt = Literal["schema", "signature", "none"]

_DUMMY = "dummyanswer"
_PROBE_TOOL = {
    "type": "function",
    "function": {"name": "probetool", "description": "", "parameters": {"type": "object", "properties": {}}},
}
_PROBE_CALL = ToolCall(id="call_0", name="probetool")
_WRAPPED = "wrapped tool result"  # never rendered: marks the user messages that the renderer made of tool results


class ChatRenderer:
    """Renders conversations with one tokenizer's template, for one set of tools."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        tool_format: str = "hermes",
        tool_prompt: ToolPrompt = "schema",
    ) -> None:
        """`tools` are OpenAI schemas. `tool_prompt` says how the policy hears of them:

        - `schema`: by the template's own tool prompt if it has one that teaches `tool_format`, else by the format's
          prompt with the JSON schemas, merged into the system message;
        - `signature`: one line such as `Tools: calculator(expression: str)` and how to call, in the system message;
        - `none`: not at all.

        Raises `ChatError` if the tokenizer has no chat template or its template cannot render a plain conversation.
        """
        if tool_prompt not in ("schema", "signature", "none"):
            raise ChatError(f"tool_prompt = {tool_prompt!r}; valid: schema, signature, none")
        self.format: ToolCallFormat = tool_formats.get(tool_format)
        self.forks = 0
        """Turns so far whose context was rendered anew because the template rewrote history."""
        self._template = ChatTemplate(tokenizer)
        self._prompt = ""
        self._offer(list(tools), tool_prompt)
        self._end_id, self._end_text = self._find_end()
        eos = tokenizer.eos_token_id
        self.stop_ids: tuple[int, ...] = (self._end_id,) if eos in (None, self._end_id) else (self._end_id, int(eos))
        """Ids that end a turn: the template's end-of-turn token first, then the tokenizer's."""
        self._tool_role = self._renders_tool_role()
        self._appends = {role: self._verify(role) for role in (Role.TOOL, Role.USER)}

    @property
    def append_only(self) -> bool:
        """True if no turn of a conversation makes the template rewrite earlier ones (verified on probes)."""
        return all(self._appends.values())

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the renderer was made with."""
        return self._template.tokenizer

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """Context of the first turn: the opening messages and the generation prompt."""
        return self._template.encode(self._render(messages, generation_prompt=True))

    def next_context(
        self,
        context_ids: Sequence[int],
        sampled_ids: Sequence[int],
        history: Sequence[Message],
        observation: Sequence[Message],
    ) -> list[int]:
        """Context of the turn after `context_ids` + `sampled_ids`.

        `history` is the conversation up to and including the message parsed from `sampled_ids`; `observation` is what
        the environment answered. The end-of-turn token is put in where the sampled ids lack it (length stop). Raises
        `ChatError` if `history` does not end with the assistant's message or the template refuses the observation.
        """
        if not history or history[-1].role is not Role.ASSISTANT:
            raise ChatError("history must end with the assistant's message that the sampled ids stand for")
        if not self._continues(sampled_ids, history, observation):
            self.forks += 1
            return self.opening([*history, *observation])
        ids = [*context_ids, *sampled_ids]
        if not sampled_ids or sampled_ids[-1] not in self.stop_ids:
            ids.append(self._end_id)
        return ids + self._template.encode(self._delta(observation), after=self._end_id)

    def parse(self, sampled_ids: Sequence[int]) -> Message:
        """The assistant's message that `sampled_ids` stand for, without its end-of-turn token."""
        body = sampled_ids[:-1] if sampled_ids and sampled_ids[-1] in self.stop_ids else sampled_ids
        content, calls = self.format.parse(self._template.decode(body))
        return assistant(content, calls)

    def turn_ids(self, message: Message) -> list[int]:
        """Ids that `message` would be sampled as, end-of-turn token included; tokenised apart from any context."""
        return [*self._template.encode_content(self._written(message)), self._end_id]

    def _written(self, message: Message) -> str:
        return self.format.format(message.text, message.tool_calls)

    def _render(self, messages: Sequence[Message], *, generation_prompt: bool, opens: bool = True) -> Rendered:
        """Render after writing calls as text, placing the tool prompt (`opens`) and wrapping tool results."""
        prepared: list[Message] = []
        for message in messages:
            if message.role is Role.ASSISTANT:
                prepared.append(assistant(self._written(message)))
            elif message.role is Role.TOOL and not self._tool_role:
                text = self.format.format_result(message.text)
                if prepared and prepared[-1].role is Role.USER and prepared[-1].name == _WRAPPED:
                    text = f"{prepared.pop().text}\n{text}"
                prepared.append(Message(role=Role.USER, content=text, name=_WRAPPED))
            else:
                prepared.append(message)
        if opens and self._prompt:
            first = prepared[0] if prepared and prepared[0].role is Role.SYSTEM else None
            text = f"{first.text}\n\n{self._prompt}" if first and first.text else self._prompt
            prepared[: 1 if first else 0] = [system(text)]
        return self._template.render(prepared, generation_prompt=generation_prompt)

    def _delta(self, observation: Sequence[Message]) -> Rendered:
        """What the template writes after the end-of-turn token for `observation` and the next generation prompt."""
        messages = [user("hi"), assistant(_DUMMY), *observation]
        rendered = self._render(messages, generation_prompt=True, opens=False)
        answer = rendered.text.find(_DUMMY)
        end = rendered.text.find(self._end_text, answer) if answer >= 0 else -1
        if end < 0:
            raise ChatError("the chat template does not render an assistant's message before an observation")
        return rendered.after(end + len(self._end_text))

    def _continues(self, sampled: Sequence[int], history: Sequence[Message], observation: Sequence[Message]) -> bool:
        """True if the template leaves the conversation before `observation` as it was sampled."""
        if all(self._appends[Role.TOOL if message.role is Role.TOOL else Role.USER] for message in observation):
            return True
        body = sampled[:-1] if sampled and sampled[-1] in self.stop_ids else sampled
        before = self._render(history[:-1], generation_prompt=True).plain + self._template.decode(body)
        after = self._render([*history, *observation], generation_prompt=True).plain
        return after.startswith(before + self._end_text)

    def _offer(self, tools: list[Mapping[str, Any]], style: ToolPrompt) -> None:
        """Decide, by rendering, whether the template presents the tools or the system message has to."""
        if not tools or style == "none":
            return
        if style == "schema":
            schemas = [dict(tool) if "function" in tool else {"type": "function", "function": tool} for tool in tools]
            if self._teaches_format():
                self._template.tools = schemas
                return
            self._prompt = self.format.prompt(schemas, style)
            return
        self._prompt = self.format.prompt(tools, style)

    def _teaches_format(self) -> bool:
        """True if the template, given a tool, names it and shows this format's marker."""
        self._template.tools = [_PROBE_TOOL]
        try:
            text = self._template.render([user("hi")], generation_prompt=True).text
        except ChatError:
            return False
        finally:
            self._template.tools = None
        return "probetool" in text and self.format.marker in text

    def _find_end(self) -> tuple[int, str]:
        """The control token that the template writes right after an assistant's message."""
        text = self._template.render([user("hi"), assistant(_DUMMY)], generation_prompt=False).text
        _, found, rest = text.partition(_DUMMY)
        places = [(rest.find(token), -len(token), token) for token in self._template.control if token and token in rest]
        if not found or not places:
            raise ChatError("the chat template does not end an assistant's message with a special token")
        token = min(places)[2]
        return self._template.control[token], token

    def _renders_tool_role(self) -> bool:
        """True if the template shows a tool's answer under the role `tool`."""
        call = assistant(self.format.format("", (_PROBE_CALL,)))
        messages = [user("hi"), call, tool_result("probe result", "call_0", "probetool")]
        try:
            return "probe result" in self._template.render(messages, generation_prompt=True).text
        except ChatError:
            return False

    def _verify(self, role: Role) -> bool:
        """True if deltas behind sampled answers add up to the whole rendering, for observations of `role`."""
        call = self.format.format("<think>\na\n</think>\n\n", (_PROBE_CALL,))
        probes = (("one", "two"), (call, "<think>\nb\n</think>\n\ntwo"))
        return all(self._verify_answers(role, *answers) for answers in probes)

    def _verify_answers(self, role: Role, first: str, second: str) -> bool:
        def observe(text: str) -> list[Message]:
            if role is Role.USER:
                return [user(text)]
            return [tool_result(f"{text} a", "call_0", "probetool"), tool_result(f"{text} b", "call_1", "probetool")]

        opening = [user("question")]
        grown = self._render(opening, generation_prompt=True).plain
        messages: list[Message] = list(opening)
        try:
            for answer, answered in ((first, observe("red")), (second, observe("blue"))):
                grown += answer + self._end_text + self._delta(answered).plain
                messages += [assistant(answer), *answered]
            return grown == self._render(messages, generation_prompt=True).plain
        except ChatError:
            return False
