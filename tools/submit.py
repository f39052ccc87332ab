"""The tool `submit`: the policy hands in its answer, and the episode ends.

Invariant: the result is final and its data is the answer as the policy gave it, character for character.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentrl.tool import Tool, ToolResult


class SubmitTool(Tool):
    """Hands in the final answer and ends the task."""

    name = "submit"

    async def call(
        self, answer: Annotated[str, Field(description="the final answer, without explanation")]
    ) -> ToolResult:
        return ToolResult("submitted", data=answer, final=True)
