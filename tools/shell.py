"""The tool `shell`: commands in the working folder of one sandbox session.

Files last for the episode; each command is a `/bin/sh` of its own, so that a `cd` or a variable of one does not reach
the next. All that a session is, how it ends and how it branches, is in `session_tool`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from agentrl.components import Spec
from agentrl.sandbox import Execution, Language, Session
from agentrl.tool import ToolResult

from .session_tool import SessionTool, joined


class ShellTool(SessionTool):
    """Runs a command by /bin/sh and gives its output. Files are kept between calls; variables and `cd` are not."""

    name = "shell"
    language: ClassVar[Language] = "shell"

    def __init__(
        self,
        *,
        sandbox: Spec = "bubblewrap",
        wall: float | None = None,
        cpu: float | None = None,
        memory: int | None = None,
        processes: int | None = None,
        output: int | None = None,
        disk: int | None = None,
    ) -> None:
        """Raises `ConfigError`, also where the sandbox does not work on this machine.

        Args:
            sandbox: `bubblewrap`, `docker` or `none`, or a mapping of `name` and that backend's options.
            wall: seconds of one command.
            cpu: CPU seconds of one command; by default as `wall`.
            memory: bytes of memory of the session.
            processes: processes and threads of the session at one time.
            output: bytes kept of standard output and of standard error, each.
            disk: bytes of files of the session.
        """
        limits = {"wall": wall, "cpu": cpu, "memory": memory, "processes": processes, "output": output, "disk": disk}
        super().__init__(sandbox=sandbox, stateful=True, limits=limits)

    async def call(self, command: Annotated[str, Field(description="a shell command or script")]) -> ToolResult:
        return await self.execute(command)

    async def run(self, session: Session, code: str) -> Execution:
        return await session.shell(code)

    def show(self, execution: Execution) -> str:
        failed = f"[exit code {execution.exit_code}]" if execution.exit_code else ""
        return joined(execution.stdout, execution.stderr, failed)
