"""Environments by id, in Gymnasium's own registry.

Invariant: a bundled environment and somebody else's are registered the same way, by `register` or by the entry-point
group `agentrl.envs`, and both are made by `gymnasium.make` and by `make`. Entry points are registered as strings:
nothing is imported before an environment is made.

`gymnasium.make` adds no wrapper of its own to them (the passive checker and the order check are off: `Env` checks the
order itself, and a wrapper would hide the coroutines); `gymnasium.utils.env_checker.check_env` passes on them.
"""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.metadata import entry_points
from inspect import signature
from typing import TYPE_CHECKING, Any

import gymnasium
from gymnasium.envs.registration import load_env_creator, registry

from agentrl.errors import ConfigError, UnknownNameError
from agentrl.registry import nearest
from agentrl.signature import checked_options, constructor_parameters

if TYPE_CHECKING:
    from agentrl.env import Env

ENTRY_POINT_GROUP = "agentrl.envs"
_log = logging.getLogger(__name__)
_ours: dict[str, str] = {}
"""Origin (`module:name`) of every id that was registered through agentrl."""


def register(env_id: str, entry_point: Any = None, *, max_episode_steps: int | None = None, **kwargs: Any) -> Any:
    """Register an environment under `namespace/Name-v0`; without an entry point, a decorator of its class.

    `entry_point` is a class, a factory or `"module:name"`; `kwargs` are the options that it is made with by default.
    `max_episode_steps` adds Gymnasium's `TimeLimit`. Returns the entry point. Raises `ConfigError` for an id that is
    malformed or taken by something else.
    """
    if entry_point is None:
        return lambda decorated: register(env_id, decorated, max_episode_steps=max_episode_steps, **kwargs)
    origin = _origin(entry_point)
    if env_id in registry and _origin(registry[env_id].entry_point) != origin:
        raise ConfigError(f"environment {env_id!r} is already registered by {_origin(registry[env_id].entry_point)}")
    registry.pop(env_id, None)
    try:
        gymnasium.register(
            env_id,
            entry_point=entry_point,
            max_episode_steps=max_episode_steps,
            kwargs=kwargs,
            order_enforce=False,
            disable_env_checker=True,
        )
    except gymnasium.error.Error as error:
        raise ConfigError(f"environment {env_id!r} cannot be registered: {_one_line(error)}") from None
    _ours[env_id] = origin
    return entry_point


def register_entry_points() -> None:
    """Register the ids that installed packages announce in the group `agentrl.envs`; imports none of them."""
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            register(point.name, point.value)
        except ConfigError as error:  # one package's mistake must not make `import agentrl` fail for everybody
            _log.warning("entry point %s of group %s is left out: %s", point.name, ENTRY_POINT_GROUP, error)


def env_ids() -> dict[str, str]:
    """The ids registered through agentrl, each with where it comes from (`module:name`), sorted."""
    return dict(sorted(_ours.items()))


def make(env_id: str, **kwargs: Any) -> Env:
    """Make an environment by id (`namespace/Name-v0` or `module:namespace/Name-v0`), with its coroutines.

    Options are checked against the constructor's signature and brought to its types (a list from YAML becomes the
    tuple that is declared). Raises `UnknownNameError` and `ConfigError`, one line each.
    """
    from agentrl.env import ensure_env  # env.py re-exports this module

    spec = _spec(env_id)
    creator = _creator(env_id, spec.entry_point)
    if isinstance(creator, type):
        kwargs = checked_options(f"environment {env_id!r}", creator, kwargs)
    return ensure_env(gymnasium.make(spec, **kwargs))


def takes_option(env_id: str, option: str) -> bool:
    """Whether an environment's constructor has that keyword argument. Raises `ConfigError`, as `make` does."""
    creator = _creator(env_id, _spec(env_id).entry_point)
    if isinstance(creator, type):
        return option in (constructor_parameters(f"environment {env_id!r}", creator) or {})
    return option in signature(creator).parameters


def _creator(env_id: str, entry_point: Any) -> Any:
    try:
        return load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"environment {env_id!r} ({entry_point}) cannot be imported: {_one_line(error)}") from error


def _spec(env_id: str) -> Any:
    module, colon, name = env_id.partition(":")
    try:
        if colon:
            import_module(module)
        return gymnasium.spec(name if colon else env_id)
    except ImportError as error:
        raise ConfigError(f"environment {env_id!r}: module {module!r} cannot be imported: {error}") from None
    except gymnasium.error.Error:
        wanted = name if colon else env_id
        raise UnknownNameError(f"environment {env_id!r} is unknown; {nearest(wanted, list(_ours))}") from None


def _origin(entry_point: Any) -> str:
    if isinstance(entry_point, str):
        return entry_point
    return f"{getattr(entry_point, '__module__', '?')}:{getattr(entry_point, '__qualname__', repr(entry_point))}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
