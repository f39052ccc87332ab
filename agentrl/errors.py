"""Every error that agentrl raises on purpose, one subclass a boundary.

Invariant: a mistake of the user's (a name, a value, a file) is a `ConfigError`, fits on one line and ends the command
with exit code 2; a fault of the world (engine, environment, store) is another subclass and keeps its cause. What goes
wrong inside a tool call is no exception at all: it becomes a `ToolResult` that the policy reads.
"""

from __future__ import annotations


class AgentRLError(Exception):
    """Base class: catch this to catch everything that agentrl raises on purpose."""


class ConfigError(AgentRLError):
    """A value that the user gave cannot be honoured; raised at start, before anything runs."""


class UnknownNameError(ConfigError):
    """A name is in no registry; the message offers the nearest valid ones."""


class ModelError(ConfigError):
    """A model cannot be found, fetched, converted or loaded."""


class ChatError(ConfigError):
    """A tokenizer has no chat template, or one that cannot be rendered append-only where that is required."""


class CheckpointError(ConfigError):
    """A checkpoint is missing, incomplete or from another run."""


class StoreError(ConfigError):
    """The run store cannot be opened or written."""


class EngineError(AgentRLError):
    """The engine failed to generate: the episode is aborted, or the run stops after bounded retries."""


class EngineRefusal(EngineError):
    """The engine refuses this very request (too long, ill-formed): asked again, or elsewhere, it fails again."""


class EnvError(AgentRLError):
    """An environment raised in reset, step or close: the trajectory is aborted data."""


class SandboxError(AgentRLError):
    """A sandbox cannot open a session, or a session cannot do what was asked of it (it is dead, there is no file)."""


class WorkerError(AgentRLError):
    """A function in a worker process gave no result; `agentrl.workers` has a subclass for each way."""


class TrainingError(AgentRLError):
    """The learner met a state that it must not train on (non-finite loss, trained ids that were never sampled)."""
