"""Register a tool of your own: a typed function with a docstring, or a class when it keeps state.

    python examples/custom_tool.py

The schema comes from the type hints; what goes wrong inside a call is an answer that the policy reads.
"""

import asyncio
from typing import Annotated, Any

from pydantic import Field

import agentrl
from agentrl.messages import ToolCall
from agentrl.registry import tools
from agentrl.tool import call_tool, resolve_tool


@tools.register("convert")
@agentrl.tool(timeout=5)
def convert(value: float, to: Annotated[str, Field(description="unit: km or miles")]) -> str:
    """Convert a distance between kilometres and miles."""
    if to == "km":
        return f"{value * 1.609344:.3f} km"
    if to == "miles":
        return f"{value / 1.609344:.3f} miles"
    raise ValueError(f"unknown unit {to!r}; use km or miles")


@tools.register("notebook")
class Notebook(agentrl.Tool):
    """A tool with state: what one episode writes, no other episode reads."""

    name = "notebook"
    description = "Remember a line and read all lines back."

    async def open(self, episode: Any) -> None:
        self.lines: list[str] = []

    async def call(self, line: str) -> str:
        self.lines.append(line)
        return "\n".join(self.lines)


async def main() -> None:
    offered = {"convert": resolve_tool("convert")}
    print(offered["convert"].schema())
    for arguments in ('{"value": 26.2, "to": "km"}', '{"value": 1, "to": "leagues"}', '{"value": "far"}'):
        result, record = await call_tool(offered, ToolCall(id="1", name="convert", arguments=arguments))
        print(f"{arguments} -> {result.text}" + (f"   [{record.error}]" if record.error else ""))


if __name__ == "__main__":
    asyncio.run(main())
