"""Chat messages to token ids and back: templates rendered append-only, tool calls in several textual formats."""

from agentrl.chat import (
    code_fence,
    deepseek,
    gemma,
    harmony,
    llama3,
    mistral,
    python_tag,
    qwen3_coder,
    tags,
)  # registers
from agentrl.chat.code_fence import CodeFenceFormat
from agentrl.chat.hermes import HermesFormat, format_tool_calls, parse_tool_calls
from agentrl.chat.renderer import ChatRenderer
from agentrl.chat.tags import TagFormat
from agentrl.chat.tool_calls import MarkedFormat, ReadCall, Reading, ToolCallFormat, tool_formats

__all__ = [
    "ChatRenderer",
    "CodeFenceFormat",
    "HermesFormat",
    "MarkedFormat",
    "ReadCall",
    "Reading",
    "TagFormat",
    "ToolCallFormat",
    "format_tool_calls",
    "parse_tool_calls",
    "tool_formats",
]
