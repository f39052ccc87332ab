"""The contract of a sink: it is told every number that the store is told, and may not steer the run.

Invariant: the store is the record; a sink is a copy for another program's eyes, and a run without it is the same run.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from agentrl import registry
from agentrl.components import checked_options, construct, split_spec
from agentrl.config import ComponentSpec, RunConfig
from agentrl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SinkTarget:
    """The run that a sink shows."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    """The resolved configuration, JSON-able."""
    step: int
    """The step that a resumed run goes on from, 0 for a new one: what a sink holds of later steps of `train` and
    `eval/step` is void, for these the run does again."""

    @classmethod
    def of(cls, config: RunConfig, step: int = 0) -> SinkTarget:
        return cls(config.name, config.folder, config.model_dump(mode="json"), step)


class Sink(ABC):
    """Constructed as `Sink(target, **options)` when the run starts; raises `ConfigError` if it cannot work."""

    package: ClassVar[str | None] = None
    """A package that it needs beside agentrl's own; looked for before the run starts."""

    def __init__(self, target: SinkTarget) -> None:
        self.target = target

    @abstractmethod
    def log(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of a step of a phase (`train`, `eval/base`, `eval/step` ...). Must be quick."""

    @abstractmethod
    def close(self) -> None:
        """The run ended, by whatever way: nothing that was logged may be lost. Idempotent."""


def check_sinks(specs: Sequence[ComponentSpec]) -> None:
    """Raise `ConfigError` for a sink that does not exist or cannot work here; none is opened."""
    for spec in specs:
        name, options = split_spec(spec)
        sink = registry.sinks.get(name)
        if not (isinstance(sink, type) and issubclass(sink, Sink)):
            raise ConfigError(f"sink {name!r} is {sink!r}, not an agentrl Sink")
        checked_options(f"sink {name!r}", sink, options, bound=1)
        if sink.package is not None and importlib.util.find_spec(sink.package) is None:
            raise ConfigError(f"sink {name!r} needs a package that is not installed: pip install {sink.package}")


def build_sinks(config: RunConfig, step: int) -> list[Sink]:
    """The configured sinks, open; `step`: what the run goes on from."""
    return [construct(registry.sinks, spec, SinkTarget.of(config, step)) for spec in config.sinks]
