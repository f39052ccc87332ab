"""Which sandboxes the code environment is tested on, one that tells what it is sent, and an episode played."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from agentrl import registry
from agentrl.messages import Message, ToolCall, assistant
from agentrl.sandbox import NO_FILES, Execution, Language, Limits, Sandbox, Session, get_sandbox

_WHY_NOT = registry.sandboxes.get("fork").why_not()
BEST = "none" if _WHY_NOT else "fork"
"""The default backend where it works, else the one that works everywhere: for tests that are not about isolation."""
SANDBOXES = [
    "none",
    pytest.param("fork", marks=pytest.mark.skipif(_WHY_NOT is not None, reason=f"fork does not work here: {_WHY_NOT}")),
]


def call(name: str, arguments: str) -> Message:
    return assistant(tool_calls=(ToolCall(id="call_0", name=name, arguments=arguments),))


class Spy(Sandbox):
    """Keeps what is sent to the sandbox that it stands before."""

    name = "spy"

    def __init__(self) -> None:
        self.inner = get_sandbox(BEST)
        self.sent: list[str] = []

    @classmethod
    def why_not(cls) -> str | None:
        return None

    async def open(self, *, limits: Limits = Limits(), files: Mapping[str, bytes] = NO_FILES) -> Session:
        return await self.inner.open(limits=limits, files=files)

    async def run(
        self,
        code: str,
        *,
        language: Language = "python",
        limits: Limits = Limits(),
        files: Mapping[str, bytes] = NO_FILES,
    ) -> Execution:
        self.sent += [code, *map(repr, files.items())]
        return await self.inner.run(code, language=language, limits=limits, files=files)

    def close(self) -> None: ...
