"""The tool `python`: code runs in a sandbox, in a session that lasts for the episode or in an interpreter a call.

What the policy reads is what a notebook would show: standard output, then the value of a last expression, then
standard error with the traceback cut to the frames of its own code. Invariant: the same seed and the same cells give
the same outputs as long as the code takes nothing from clocks or the system's entropy; that is why a session begins
with the episode's seed in `random` and, where it is loaded, in numpy.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field

from agentrl.components import Spec
from agentrl.sandbox import Execution, Language, Session
from agentrl.tool import ToolResult

from .session_tool import SessionTool, joined

_KEPT = "Runs Python code. Variables, imports and files are kept between calls."
_FRESH = "Runs Python code in a new interpreter: nothing is kept between calls."
_SHOWN = "Gives what the code prints, and the value of its last line if that is an expression."


class PythonTool(SessionTool):
    """Runs Python code in a sandbox and gives what it prints."""

    name = "python"
    language: ClassVar[Language] = "python"

    def __init__(
        self,
        *,
        sandbox: Spec = "fork",
        stateful: bool = True,
        wall: float | None = None,
        cpu: float | None = None,
        memory: int | None = None,
        processes: int | None = None,
        output: int | None = None,
        disk: int | None = None,
    ) -> None:
        """Raises `ConfigError`, also where the sandbox does not work on this machine.

        Args:
            sandbox: `fork`, `bubblewrap`, `docker` or `none`, or a mapping of `name` and that backend's options
                (`{"name": "fork", "preload": ["numpy"]}`).
            stateful: whether the calls of an episode share a session; else each has an interpreter of its own.
            wall: seconds of one call.
            cpu: CPU seconds of one call; by default as `wall`.
            memory: bytes of memory of a session.
            processes: processes and threads of a session at one time.
            output: bytes kept of standard output and of standard error, each.
            disk: bytes of files of a session.
        """
        limits = {"wall": wall, "cpu": cpu, "memory": memory, "processes": processes, "output": output, "disk": disk}
        super().__init__(sandbox=sandbox, stateful=stateful, limits=limits)
        self.description = f"{_KEPT if stateful else _FRESH} {_SHOWN}"

    async def call(self, code: Annotated[str, Field(description="a Python program")]) -> ToolResult:
        return await self.execute(code)

    async def run(self, session: Session, code: str) -> Execution:
        return await session.python(code)

    async def prepare(self, session: Session, seed: int) -> None:
        await session.python(_SEED.format(seed=seed % 2**32))

    def show(self, execution: Execution) -> str:
        return joined(execution.stdout, execution.value or "", own_frames(execution.stderr))


_SEED = """\
import random, sys
random.seed({seed})
if "numpy" in sys.modules:
    sys.modules["numpy"].random.seed({seed})
del random, sys"""
_FRAME = re.compile(r'^ +File "(?P<file>[^"]*)", line \d+')
_LIBRARY = re.compile(r"/(lib/python\d|site-packages/|dist-packages/)|^<frozen ")


def own_frames(stderr: str) -> str:
    """Without the frames of libraries: what the policy can mend stands in its own code."""
    if "Traceback (most recent call last)" not in stderr:
        return stderr
    kept: list[str] = []
    dropping = False
    for line in stderr.splitlines():
        if frame := _FRAME.match(line):
            dropping = bool(_LIBRARY.search(frame["file"]))
        elif not line.startswith("    "):  # a frame's source and marks are indented by four, all else by less
            dropping = False
        if not dropping:
            kept.append(line)
    return "\n".join(kept)
