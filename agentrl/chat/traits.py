"""What a chat template can do, found out by rendering probe conversations: nothing is known by a model's name.

Invariant: a trait is what the template showed, so a fine-tune with a changed template gets its own traits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from agentrl.chat.template import ChatTemplate
from agentrl.chat.tool_calls import ToolCallFormat, tool_formats
from agentrl.errors import ChatError
from agentrl.messages import Message, ToolCall, assistant, system, tool_result, user

DUMMY = "dummyanswer"
PROBE = "probetool"
AUTO = "auto"

_NATIVE = ("hermes", "qwen3_coder", "deepseek", "harmony", "mistral", "gemma", "llama3")
"""Formats that published templates teach; before those that read them, too: `qwen3_coder` reads Hermes' calls."""
_TURN_ENDS = ("<|eom_id|>", "<|call|>")
"""Tokens that end a turn whatever the template shows: Llama 3 and gpt-oss hand over to a tool with them."""


@dataclass(frozen=True, slots=True)
class Traits:
    """How a template treats roles and turns."""

    end: str
    """The control token behind an answer that others follow."""
    stops: tuple[str, ...]
    """Control tokens that a policy ends a turn with: of a last answer, of a last call, then others known by name."""
    call_stop: str
    """The one of `stops` that ends a message of calls."""
    system_role: bool
    """False: the template refuses system messages (Gemma 2); they go into the first user message."""
    alternates: bool
    """The template demands that user and assistant take turns; neighbouring user messages are merged."""
    tool_role: bool
    """The template shows a tool's answer; else it becomes a user message."""
    header: str
    """What stands between the generation prompt and an answer in history; empty if nothing does."""
    structured: bool
    """Calls reach the template as `tool_calls`, not as text: it writes messages in channels of its own (gpt-oss)."""


_ARGUMENTS = ('{"x": 1}', '"{\\"x\\": 1}"')
"""An object, as most templates want a call's arguments, and its JSON text, as DeepSeek's does."""


def probe_call(arguments: str = _ARGUMENTS[0]) -> ToolCall:
    """A call whose id every template accepts (Mistral's wants nine letters or digits)."""
    return ToolCall(id="callprobe", name=PROBE, arguments=arguments)


def read_traits(template: ChatTemplate, tool_format: ToolCallFormat) -> Traits:
    """Raises `ChatError` if the template cannot render a plain conversation or ends answers with no control token."""
    answered = [user("hi"), assistant(DUMMY)]
    plain = template.render(answered, generation_prompt=False).text
    followed = template.render([*answered, user("and")], generation_prompt=True).text
    stop = next(iter(_controls(template, plain.partition(DUMMY)[2])), None)
    end = next(iter(_controls(template, followed.partition(DUMMY)[2])), None)
    if stop is None or end is None:
        raise ChatError("the chat template does not end an assistant's message with a special token")
    written = _written_call(template)
    call_stop = (_controls(template, written) or [stop])[-1] if written else stop
    named = [token for token in _TURN_ENDS if token in template.control]
    as_text = _shows_results(template, assistant(tool_format.format("", (probe_call(),))))
    prompt = template.render([user("hi")], generation_prompt=True).text
    header = plain.partition(DUMMY)[0].removeprefix(prompt) if plain.startswith(prompt) else ""
    structured = not as_text and bool(header.strip()) and _shows_results(template, assistant("", (probe_call(),)))
    return Traits(
        end=end,
        stops=tuple(dict.fromkeys([stop, call_stop, *named])),
        call_stop=call_stop,
        system_role=_accepts(template, [system("s"), user("hi")]),
        alternates=not _accepts(template, [user("a"), user("b")]),
        tool_role=as_text or structured,
        header=header,
        structured=structured,
    )


def choose_format(template: ChatTemplate) -> str:
    """Name of the format of this template's own: it writes a call as the template does, or reads what that writes, or
    the template teaches it; the first of these that holds of any format. `hermes` where none does.
    """
    written = _until_stop(template, _written_call(template))
    formats = {name: tool_formats.get(name) for name in _NATIVE if name in tool_formats}

    def writes(candidate: ToolCallFormat) -> bool:
        return _squeezed(candidate.format("", (probe_call(),))) == _squeezed(written)

    def reads(candidate: ToolCallFormat) -> bool:
        calls = candidate.parse(written)[1] if written else ()
        return [(call.name, call.error) for call in calls] == [(PROBE, None)]

    for suits in (writes, reads, partial(teaches, template)):
        for name, candidate in formats.items():
            if suits(candidate):
                return name
    return "hermes"


def _squeezed(text: str) -> str:
    return "".join(text.split())


def teaches(template: ChatTemplate, tool_format: ToolCallFormat) -> bool:
    """True if the template, given a tool, names it and shows the format's marker outside of the tool's schema."""
    one, two = (_offered(template, count) for count in (1, 2))
    # Each tool adds the same number of markers that stand in schemas; what is there besides is taught.
    return PROBE in one and 2 * one.count(tool_format.marker) > two.count(tool_format.marker)


def _offered(template: ChatTemplate, count: int) -> str:
    parameters = {"type": "object", "properties": {"x": {"type": "integer"}}}
    probe = {"type": "function", "function": {"name": PROBE, "description": "", "parameters": parameters}}

    def render() -> str:
        return template.render([user("hi")], generation_prompt=True).text

    tools, template.tools = template.tools, [probe] * count
    try:
        return _tried(render)
    finally:
        template.tools = tools


def _written_call(template: ChatTemplate) -> str:
    """How the template writes a structured call, the control token behind it included; empty if it does not."""
    prompt = template.render([user("hi")], generation_prompt=True).text

    def render(arguments: str) -> str:
        message = assistant("", (probe_call(arguments),))
        written = template.render([user("hi"), message], generation_prompt=False).text
        return written.removeprefix(prompt) if PROBE in written else ""

    return next(filter(None, (_tried(partial(render, arguments)) for arguments in _ARGUMENTS)), "")


def _until_stop(template: ChatTemplate, written: str) -> str:
    controls = _controls(template, written)
    return written[: written.rfind(controls[-1])] if controls else written


def _shows_results(template: ChatTemplate, call: Message) -> bool:
    """True if the template shows two results under the role `tool`, and goes on after them."""
    results = [tool_result(f"result {name}", "callprobe", PROBE) for name in ("red", "blue")]

    def render() -> str:
        messages = [user("hi"), call, *results, assistant("done"), user("and")]
        return template.render(messages, generation_prompt=True).text

    text = _tried(render)
    return "result red" in text and "result blue" in text


def _accepts(template: ChatTemplate, messages: list[Message]) -> bool:
    return bool(_tried(lambda: template.render(messages, generation_prompt=True).text))


def _tried(render: Callable[[], str]) -> str:
    """What `render` gives; empty if the template refuses."""
    try:
        return render()
    except ChatError:
        return ""


def _controls(template: ChatTemplate, text: str) -> list[str]:
    """Control tokens in `text`, in order."""
    return [match[0] for match in template.control_pattern.finditer(text)]
