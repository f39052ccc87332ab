"""Named components: how a YAML file, a command line or a third party's package names a piece of agentrl.

Invariant: a name is resolved the same way for bundled and for foreign components. A `Registry` knows what was
registered by decorator in this process and what installed packages announce under the entry-point group
`agentrl.<kind>`; the latter are imported only when asked for. An unknown name is an error that offers the nearest.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast, overload

from agentrl.errors import ConfigError, UnknownNameError

T = TypeVar("T")
C = TypeVar("C")


def nearest(name: str, valid: list[str], count: int = 3) -> str:
    """A half-sentence for error messages: the nearest of `valid`, or all of them when there are few."""
    close = get_close_matches(name, valid, n=count, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    if not valid:
        return "none is registered"
    return "valid: " + ", ".join(sorted(valid)[:12]) + (" ..." if len(valid) > 12 else "")


class Registry(Generic[T]):
    """Components of one kind by name."""

    def __init__(self, kind: str, plural: str | None = None) -> None:
        """`kind` is the noun of error messages, its plural the entry-point group's suffix (`agentrl.<plural>`)."""
        self.kind = kind
        self.group = f"agentrl.{plural or kind + 's'}"
        self._registered: dict[str, T] = {}

    @cached_property
    def _announced(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}

    @overload
    def register(self, name: str) -> Callable[[C], C]: ...
    @overload
    def register(self, name: str, component: T) -> T: ...
    def register(self, name: str, component: T | None = None) -> Any:
        """Register `component` under `name`; without a component, a decorator. A name taken by another is an error."""
        if component is None:
            return lambda decorated: self.register(name, decorated)
        present = self._registered.get(name)
        if present is not None and _origin(present) != _origin(component):
            raise ConfigError(f"{self.kind} {name!r} is already registered by {_origin(present)}")
        self._registered[name] = component
        return component

    def get(self, name: str) -> T:
        """The component called `name`; raises `UnknownNameError` with the nearest names."""
        if name in self._registered:
            return self._registered[name]
        point = self._announced.get(name)
        if point is None:
            raise UnknownNameError(f"{self.kind} {name!r} is unknown; {nearest(name, self.names())}")
        try:
            component = cast(T, point.load())
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{self.kind} {name!r} ({point.value}) cannot be imported: {error}") from error
        self._registered[name] = component
        return component

    def names(self) -> list[str]:
        """Every known name, sorted; nothing is imported for this."""
        return sorted({*self._registered, *self._announced})

    def origin(self, name: str) -> str:
        """Where `name` comes from, as `module:attribute`; nothing is imported for this."""
        if name in self._registered:
            return _origin(self._registered[name])
        return self._announced[name].value

    def __contains__(self, name: object) -> bool:
        return name in self._registered or name in self._announced


def _origin(component: object) -> str:
    module = getattr(component, "__module__", type(component).__module__)
    return f"{module}:{getattr(component, '__qualname__', repr(component))}"


tools: Registry[Any] = Registry("tool")
"""Tools by name: `agentrl.tool.Tool` subclasses or instances."""
sandboxes: Registry[Any] = Registry("sandbox", "sandboxes")
"""Sandboxes by name: `agentrl.sandbox.Sandbox` subclasses."""
rollouts: Registry[Any] = Registry("rollout")
"""Rollout strategies by name: factories of `agentrl.rollout.Rollout`."""
engines: Registry[Any] = Registry("engine")
"""Engines by name: `agentrl.engines.base.Engine` subclasses."""
advantages: Registry[Any] = Registry("advantage")
"""Credit transforms by name: `agentrl.advantages.base.Transform` subclasses."""
objectives: Registry[Any] = Registry("objective")
"""Policy objectives by name: `agentrl.objectives.base.Objective` subclasses."""
regularisers: Registry[Any] = Registry("regulariser")
"""Regularisers by name: `agentrl.objectives.base.Regulariser` subclasses."""
quantities: Registry[Any] = Registry("quantity", "quantities")
"""Quantities of the scoring pass by name: functions registered by `agentrl.learner.quantities.quantity`."""
clip_bounds: Registry[Any] = Registry("clip bounds", "clip_bounds")
"""Bounds of a clipped ratio by name: `agentrl.objectives.bounds.Bounds` subclasses."""
corrections: Registry[Any] = Registry("correction")
"""Rollout corrections by name: `agentrl.objectives.correction.Correction` subclasses."""
samplers: Registry[Any] = Registry("sampler")
"""Task samplers by name: `agentrl.sampler.Sampler` subclasses."""
sinks: Registry[Any] = Registry("sink")
"""Sinks of metrics by name: `agentrl.sinks.Sink` subclasses."""
