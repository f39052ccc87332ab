"""Chat messages to token ids and back: templates rendered append-only, tool calls in several textual formats."""

from agentrl.chat.hermes import HermesFormat, format_tool_calls, parse_tool_calls
from agentrl.chat.renderer import ChatRenderer
from agentrl.chat.tool_calls import ToolCallFormat, tool_formats

__all__ = ["ChatRenderer", "HermesFormat", "ToolCallFormat", "format_tool_calls", "parse_tool_calls", "tool_formats"]
