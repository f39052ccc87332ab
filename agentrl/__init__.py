"""Reinforcement learning for tool-using language-model agents, with turn-level credit.

Importing agentrl is quick: what installed packages announce as environments is registered by name, and the names below
are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from agentrl.registration import make, register, register_entry_points

# Not lazily: a module and a decorator share the name, and the first import of the module would set the attribute again.
from agentrl.tool import Tool, ToolResult, tool

if TYPE_CHECKING:
    from agentrl.advantages import advantage
    from agentrl.config import RunConfig, load_config
    from agentrl.display import make_display
    from agentrl.env import Env, ensure_env
    from agentrl.errors import AgentRLError
    from agentrl.evaluation import evaluate
    from agentrl.messages import Message
    from agentrl.objectives import objective
    from agentrl.task import Episode, Task, Verdict
    from agentrl.tool_env import ToolEnv
    from agentrl.trainer import train
    from agentrl.trajectory import Group, StopReason, Trajectory, Turn

__all__ = [
    "AgentRLError",
    "Env",
    "Episode",
    "Group",
    "Message",
    "RunConfig",
    "StopReason",
    "Task",
    "Tool",
    "ToolEnv",
    "ToolResult",
    "Trajectory",
    "Turn",
    "Verdict",
    "advantage",
    "ensure_env",
    "evaluate",
    "load_config",
    "make",
    "make_display",
    "objective",
    "register",
    "tool",
    "train",
]

_HOMES = {
    "AgentRLError": "agentrl.errors",
    "Env": "agentrl.env",
    "Episode": "agentrl.task",
    "Group": "agentrl.trajectory",
    "Message": "agentrl.messages",
    "RunConfig": "agentrl.config",
    "StopReason": "agentrl.trajectory",
    "Task": "agentrl.task",
    "ToolEnv": "agentrl.tool_env",
    "Trajectory": "agentrl.trajectory",
    "Turn": "agentrl.trajectory",
    "Verdict": "agentrl.task",
    "advantage": "agentrl.advantages",
    "ensure_env": "agentrl.env",
    "evaluate": "agentrl.evaluation",
    "load_config": "agentrl.config",
    "make_display": "agentrl.display",
    "objective": "agentrl.objectives",
    "train": "agentrl.trainer",
}
"""Where each lazily imported name lives."""

__version__ = version("agentrl")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_entry_points()
