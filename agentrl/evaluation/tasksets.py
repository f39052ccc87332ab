"""The tasks of a suite's entries, and digests that pin them.

A digest is taken over ids, levels, opening messages and what the judge goes by (`Env.fingerprint`) of every task of an
entry, in order. Invariant: equal digests mean equal tasks, on any machine; numbers with twelve digits enter, so that
the last bit of a mathematical library is no difference.
"""

from __future__ import annotations

import dataclasses
import json
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from functools import partial
from hashlib import blake2b
from pathlib import PurePath
from typing import Any, TypeVar

from pydantic import BaseModel

from agentrl.env import Env, make
from agentrl.errors import AgentRLError, ConfigError, EnvError
from agentrl.evaluation.suite import Entry, Suite
from agentrl.observe import Observer
from agentrl.registration import takes_option
from agentrl.task import Task, TaskSet
from agentrl.text import one_line

T = TypeVar("T")

SHOWN = 500
"""Characters of what an environment raised."""
DIGEST_BYTES = 12
"""Enough that no two of any number of task sets have the same by chance."""


@dataclass(frozen=True)
class EntryTasks:
    """The tasks of one entry."""

    name: str
    env_id: str
    make_env: Callable[[], Env]
    tasks: tuple[Task, ...]
    gold: tuple[Any, ...]
    """The reference solution of each task; None where there is none."""
    digest: str
    """Of these tasks."""


def read_tasks(suite: Suite, limit: int | None = None, observer: Observer | None = None) -> dict[str, EntryTasks]:
    """The tasks of every entry, checked against the suite's digests; of each entry at most `limit`.

    More than an entry has in the suite may be asked for, too: such tasks are pinned by nothing. Raises `ConfigError`,
    one line: an environment or option that does not exist, other tasks than were pinned.
    """
    watch = observer or Observer()
    watch.phase("tasks", len(suite.entries))
    read = {}
    for name, entry in suite.entries.items():
        read[name] = _read(suite, name, entry, limit)
        watch.advance(1)
    return read


def digest_of(env: Env, tasks: Sequence[Task]) -> str:
    """The digest of tasks; raises `ConfigError` for judge's data that have no form that is the same everywhere."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for task in tasks:
        opening = [message.to_wire() for message in task.messages]
        try:
            line = canonical([task.id, task.level, opening, env.fingerprint(task)])
        except TypeError as error:
            kind = type(env.unwrapped).__name__
            raise ConfigError(f"task {task.id!r} of {kind}: {error}; let {kind}.fingerprint leave it out") from None
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def canonical(value: Any) -> str:
    """`value` as JSON in one form: keys and sets sorted, floats with twelve digits. Raises `TypeError`."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """The value made of what JSON has; what JSON would confuse (a set and a list, bytes and text) is marked."""
    match value:
        case Enum():
            return _plain(value.value)
        case None | bool() | int() | str():
            return value
        case float():
            return f"{value:.12g}" if math.isfinite(value) else repr(value)
        case bytes():
            return {"bytes": blake2b(value, digest_size=DIGEST_BYTES).hexdigest()}
        case PurePath():
            return {"file": value.name}
        case BaseModel():
            return _plain(value.model_dump())
        case Mapping():
            return _mapping(value)
        case Set():
            return {"set": sorted(canonical(item) for item in value)}
        case list() | tuple():
            return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    raise TypeError(f"a {type(value).__name__} has no form that is the same everywhere")


def _mapping(value: Mapping[Any, Any]) -> Any:
    if all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    return {"pairs": sorted([canonical(key), canonical(item)] for key, item in value.items())}


def _read(suite: Suite, name: str, entry: Entry, limit: int | None) -> EntryTasks:
    make_env = env_maker(name, entry)
    env, filtered = make_env(), entry.levels is not None and "levels" not in _options(name, entry)
    try:
        asked: tuple[Task, ...] = ()
        digest = ""
        if entry.digest is not None:
            asked = _tasks(env, name, entry, filtered, entry.tasks)
            digest = digest_of(env, asked)
            _compare(suite, name, entry, digest)
        if entry.digest is None or (limit is not None and limit > len(asked)):
            asked, digest = _tasks(env, name, entry, filtered, entry.tasks if limit is None else limit), ""
        elif limit is not None and limit < len(asked):
            asked, digest = asked[:limit], ""
        env_id = env.spec.id if env.spec else entry.env
        gold = tuple(env.gold(task) for task in asked)
        return EntryTasks(name, env_id, make_env, asked, gold, digest or digest_of(env, asked))
    finally:
        env.close()


def _compare(suite: Suite, name: str, entry: Entry, digest: str) -> None:
    if entry.digest != digest:
        raise ConfigError(
            f"suite {suite.label!r}, entry {name!r}: the tasks of {entry.env} are not those that the suite was made "
            f"with (digest {digest}, pinned {entry.digest}): its generator or a package has changed, so numbers cannot "
            f"be compared; go back, or raise the version and pin anew (agentrl suites digest FILE --write)"
        )


def env_maker(name: str, entry: Entry) -> Callable[[], Env]:
    """What makes the environments of an entry, those of its levels where the environment has such an option."""
    return partial(_made, name, entry.env, _options(name, entry))


def _options(name: str, entry: Entry) -> dict[str, Any]:
    """The environment's options, the entry's levels among them where it has such an option."""
    if entry.levels is None or not _named(name, partial(takes_option, entry.env, "levels")):
        return entry.options
    return {**entry.options, "levels": list(entry.levels)}


def _made(name: str, env_id: str, options: dict[str, Any]) -> Env:
    return _named(name, partial(make, env_id, **options))


def _named(name: str, call: Callable[[], T]) -> T:
    """What `call` gives; its errors name the entry. What an environment raises by mistake is told with its place."""
    try:
        return call()
    except ConfigError as error:
        raise type(error)(f"entry {name!r}: {error}") from None
    except AgentRLError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{PurePath(frame.filename).name}, line {frame.lineno}"
        reason = one_line(f"{type(error).__name__}: {error}", SHOWN)
        raise EnvError(f"entry {name!r}: its environment raised {reason} ({where})") from error


def _tasks(env: Env, name: str, entry: Entry, filtered: bool, count: int | None) -> tuple[Task, ...]:
    """The entry's first `count` tasks; None: all of them."""
    tasks = _named(name, partial(env.tasks, entry.split))
    wanted = len(tasks) if count is None else count
    found = tuple(_of_levels(tasks, entry.levels or (), wanted) if filtered else _first(tasks, wanted))
    if not found:
        levels = f" of the levels {list(entry.levels)}" if filtered and entry.levels else ""
        raise ConfigError(f"entry {name!r}: {entry.env} has no tasks{levels} in the split {entry.split!r}")
    return found


def _first(tasks: TaskSet, wanted: int) -> Iterator[Task]:
    return (tasks[index] for index in range(min(wanted, len(tasks))))


def _of_levels(tasks: TaskSet, levels: Sequence[int], wanted: int) -> list[Task]:
    """The first tasks of each level in turn, so that a suite cut short still asks all of them."""
    queues: dict[int, list[Task]] = {level: [] for level in levels}
    for task in _first(tasks, len(tasks)):
        if task.level in queues:
            queues[task.level].append(task)
            if all(len(queue) >= wanted for queue in queues.values()):
                break
    found: list[Task] = []
    rank = 0
    while len(found) < wanted and any(rank < len(queue) for queue in queues.values()):
        found += [queue[rank] for queue in queues.values() if rank < len(queue)]
        rank += 1
    return found[:wanted]
