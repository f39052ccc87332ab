"""Chat messages to token ids and back: templates rendered append-only, tool calls in several textual formats."""

from agentrl.chat.code_fence import CodeFenceFormat
from agentrl.chat.deepseek import DeepSeekFormat
from agentrl.chat.gemma import GemmaFormat
from agentrl.chat.harmony import HarmonyFormat
from agentrl.chat.hermes import HermesFormat, format_tool_calls, parse_tool_calls
from agentrl.chat.llama3 import Llama3Format
from agentrl.chat.mistral import MistralFormat
from agentrl.chat.python_tag import PythonTagFormat
from agentrl.chat.qwen3_coder import Qwen3CoderFormat
from agentrl.chat.renderer import ChatRenderer
from agentrl.chat.tags import TagFormat
from agentrl.chat.tool_calls import MarkedFormat, ReadCall, Reading, ToolCallFormat, tool_formats

__all__ = [
    "ChatRenderer",
    "CodeFenceFormat",
    "DeepSeekFormat",
    "GemmaFormat",
    "HarmonyFormat",
    "HermesFormat",
    "Llama3Format",
    "MarkedFormat",
    "MistralFormat",
    "PythonTagFormat",
    "Qwen3CoderFormat",
    "ReadCall",
    "Reading",
    "TagFormat",
    "ToolCallFormat",
    "format_tool_calls",
    "parse_tool_calls",
    "tool_formats",
]
