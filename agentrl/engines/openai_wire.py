"""The OpenAI wire forms that an answer may have, with the extensions of vLLM and SGLang.

Fields that nobody reads are ignored; what is read has the right type or the answer is malformed (`parse` raises
`ValueError` with one line). Invariant: `sampled_ids` are numbers that the server sent as such, never text that was
tokenised again.

Ids: `token_ids` of a choice (`return_token_ids`: vLLM from 0.10.2, SGLang from mid-2026), else the tokens of the
log-probabilities, if all of them read `token_id:N` (`return_tokens_as_token_ids`: older versions of vLLM).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from agentrl.engines.base import FinishReason
from agentrl.messages import Message, ToolCall, assistant

TokenId = Annotated[StrictInt, Field(ge=0)]
LogProbability = Annotated[float, Field(strict=True, le=1e-3, allow_inf_nan=False)]
"""Rounding may lift it over 0 a little."""
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_MARK = "token_id:"
_FINISH = {
    "stop": FinishReason.STOP,
    "tool_calls": FinishReason.STOP,
    "function_call": FinishReason.STOP,
    "length": FinishReason.LENGTH,
}


class Wire(BaseModel):
    """A form of which some fields are read."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class Served(Wire):
    """A model in the list of models."""

    id: StrictStr
    max_model_len: Annotated[StrictInt, Field(ge=1)] | None = None
    root: Any = None
    """Where vLLM has it from: a folder or a hub id."""


class ModelList(Wire):
    """The answer to `GET /models`."""

    data: list[Served]


class LogProbs(Wire):
    """Log-probabilities of a completion, nats, one a token."""

    tokens: list[StrictStr] | None = None
    token_logprobs: list[LogProbability] | None = None
    top_logprobs: list[dict[str, LogProbability] | None] | None = None


class Metrics(Wire):
    """Times inside of a vLLM server (`--enable-per-request-metrics`)."""

    queue_time_ms: Milliseconds | None = None
    time_to_first_token_ms: Milliseconds | None = None
    """Since the request began to run."""


class Choice(Wire):
    """One completion."""

    finish_reason: StrictStr | None = None
    logprobs: LogProbs | None = None
    token_ids: list[TokenId] | None = None
    prompt_token_ids: list[Any] | None = None
    """As the server read them. Unchecked, since they are compared with what was sent, and may be many."""

    @property
    def sampled_ids(self) -> list[int] | None:
        """The ids that were sampled, None if the server did not say."""
        if self.token_ids is not None:
            return self.token_ids
        names = self.logprobs.tokens if self.logprobs else None
        if names is None or not all(name.startswith(_MARK) and name[len(_MARK) :].isdecimal() for name in names):
            return None
        return [int(name[len(_MARK) :]) for name in names]

    @property
    def sampled_logprobs(self) -> list[float] | None:
        """Their log-probabilities, None if the server did not say."""
        return self.logprobs.token_logprobs if self.logprobs else None


class Completions(Wire):
    """The answer to `POST /completions`."""

    choices: Annotated[list[Choice], Field(min_length=1)]
    metrics: Metrics | None = None


class Function(Wire):
    """What a call of a tool calls."""

    name: Annotated[StrictStr, Field(min_length=1)]
    arguments: StrictStr | dict[str, Any] | None = None


class Call(Wire):
    """A call of a tool."""

    id: StrictStr | None = None
    function: Function


class Part(Wire):
    """A part of a message's content."""

    text: StrictStr = ""


class ChatMessage(Wire):
    """The assistant's message. Servers differ in what they call its thoughts."""

    content: StrictStr | list[Part] | None = None
    reasoning_content: StrictStr | None = None
    reasoning: StrictStr | None = None
    tool_calls: list[Call] | None = None

    def message(self) -> Message:
        """The message as the framework has it; a call without an id is numbered."""
        parts = self.content if isinstance(self.content, list) else []
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in parts)
        calls = enumerate(self.tool_calls or ())
        return assistant(text, tuple(_tool_call(index, call) for index, call in calls))


class ChatChoice(Wire):
    """One answer of a chat."""

    finish_reason: StrictStr | None = None
    message: ChatMessage


class Usage(Wire):
    """Tokens as the server counts them."""

    prompt_tokens: StrictInt = 0
    completion_tokens: StrictInt = 0


class ChatCompletions(Wire):
    """The answer to `POST /chat/completions`."""

    choices: Annotated[list[ChatChoice], Field(min_length=1)]
    usage: Usage | None = None
    metrics: Metrics | None = None


W = TypeVar("W", bound=Wire)


def parse(form: type[W], body: Any) -> W:
    """`body` in that form; raises `ValueError` with one line that names the first field that is wrong."""
    try:
        return form.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ValueError(f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None


def finish_of(reason: str | None) -> FinishReason:
    """Why it ended; raises `ValueError` for a reason that is no end of an answer (`abort`, a content filter)."""
    if reason not in _FINISH:
        raise ValueError(f"finish_reason is {reason!r}, expected one of {', '.join(_FINISH)}")
    return _FINISH[reason]


def _tool_call(index: int, call: Call) -> ToolCall:
    arguments = call.function.arguments
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    return ToolCall(id=call.id or f"call_{index}", name=call.function.name, arguments=text or "{}")
