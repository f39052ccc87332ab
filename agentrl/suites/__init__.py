"""Suites of evaluation by name: the bundled ones, those of installed packages, files of one's own, single environments.

A package announces a suite under the entry-point group `agentrl.suites`; the entry point names the YAML file in one of
its packages, as `my_package.suites:plumbing.yaml`. Invariant: a bundled suite and a foreign one are found, read and
checked the same way, and nothing is imported to list them.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrl.errors import ConfigError, UnknownNameError
from agentrl.registration import env_ids
from agentrl.registry import nearest
from agentrl.settings import parse_overrides, parse_yaml, read_yaml, validated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentrl.evaluation.suite import Suite

GROUP = "agentrl.suites"
_SUFFIXES = (".yaml", ".yml")
EVERY = "entries.*."
_ENTRY = re.compile(r"  ([^\s#:]+):\s*(#.*)?")


def suite_names() -> dict[str, str]:
    """Every suite that has a name, each with where it comes from (`package:file`), sorted."""
    bundled = {
        Path(entry.name).stem: f"{__name__}:{entry.name}"
        for entry in files(__name__).iterdir()
        if entry.name.endswith(_SUFFIXES)
    }
    return dict(sorted({**_announced(), **bundled}.items()))


def load_suite(name: str, overrides: Sequence[str] = ()) -> Suite:
    """The suite that `name` means: a name of `suite_names`, a YAML file, or an environment id (a suite of one entry).

    `overrides` are `dotted.key=value`; `entries.*.` means every entry, and where there is one its keys may be written
    without anything before them. A pinned digest goes with whatever else is said about the tasks of an entry. Raises
    `ConfigError`, one line.
    """
    from agentrl.evaluation.suite import Suite

    tree, where = _tree(name)
    before = validated(Suite, tree, where)
    suite = validated(Suite, parse_overrides(_lengthened(before, overrides), before.model_dump(mode="json")), "")
    for key, entry in suite.entries.items():
        old = before.entries.get(key)
        if old is not None and _asked(entry) != _asked(old):
            entry.digest = None
    return suite


def pin(file: Path, digests: Mapping[str, str]) -> None:
    """Write digests into a suite's file, line by line, so that its comments and its order stay.

    Raises `ConfigError` where an entry is not written in the block form, or the file cannot be written.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    for name, digest in digests.items():
        lines = _pinned(lines, name, digest)
    try:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"suite file {str(file)!r} cannot be written: {error.strerror}") from None


def _pinned(lines: list[str], name: str, digest: str) -> list[str]:
    """`lines` with the digest of one entry, as the last key of its block."""
    found = [place for place, line in enumerate(lines) if (key := _ENTRY.fullmatch(line)) and key[1] == name]
    if not found:
        raise ConfigError(f"entry {name!r} is not written as a block ('  {name}:' and its keys below); pin it by hand")
    first = found[-1]
    last = first + 1
    while last < len(lines) and (lines[last].startswith("    ") or not lines[last].strip()):
        last += 1
    block = [line for line in lines[first:last] if not line.startswith("    digest:")]
    tail = []
    while not block[-1].strip():
        tail.append(block.pop())
    return [*lines[:first], *block, f"    digest: {digest}", *tail, *lines[last:]]


def _asked(entry: Any) -> dict[str, Any]:
    """What decides an entry's tasks."""
    asked: dict[str, Any] = entry.model_dump(include={"env", "options", "split", "levels", "tasks"})
    return asked


def _lengthened(suite: Suite, overrides: Sequence[str]) -> list[str]:
    """Overrides with the whole way to every key."""
    from agentrl.evaluation.suite import Entry, Suite

    own = set(Entry.model_fields) - set(Suite.model_fields)
    found: list[str] = []
    made = {key.split(".")[1] for item in overrides if re.fullmatch(r"entries\.[^.]+(\.env)?", key := _key(item))}
    for item in overrides:
        key = _key(item)
        if (name := _entry_of(key)) and not key.startswith(EVERY) and name not in {*suite.entries, *made}:
            offer = nearest(name, [*suite.entries])
            raise ConfigError(f"{item!r}: suite {suite.name!r} has no entry {name!r}; {offer}")
        if key.startswith(EVERY):
            found += [f"entries.{name}.{item.strip().removeprefix(EVERY)}" for name in suite.entries]
        elif len(suite.entries) == 1 and key.partition(".")[0] in own:
            found.append(f"entries.{next(iter(suite.entries))}.{item}")
        else:
            found.append(item)
    return found


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _entry_of(key: str) -> str | None:
    """The entry of which `key` sets a value, by a name without dots."""
    parts = key.split(".")
    return parts[1] if len(parts) > 2 and parts[0] == "entries" else None


def _tree(name: str) -> tuple[dict[str, Any], str]:
    """The keys of a suite, and how to begin a message about them."""
    if name.endswith(_SUFFIXES):
        tree = read_yaml(Path(name), "suite file")
        return {"name": Path(name).stem, **tree}, f"suite file {name!r}: "
    names = suite_names()
    if name in names:
        return {"name": name, **parse_yaml(_text(name, names[name]), f"suite {name!r}")}, f"suite {name!r}: "
    if name in env_ids() or "/" in name:
        return _of_environment(name), ""
    raise UnknownNameError(f"suite {name!r} is unknown; {_offer(name, names)}")


def _of_environment(env_id: str) -> dict[str, Any]:
    """A suite of one entry; that the environment exists is found where its tasks are asked for."""
    short = env_id.rpartition("/")[2].rpartition("-v")[0].lower() or "tasks"
    return {"name": short, "description": f"The tasks of {env_id}", "entries": {short: {"env": env_id}}}


def _offer(name: str, suites: dict[str, str]) -> str:
    """The nearest names; for what is a model, the form that the command has."""
    from agentrl.models import kind_of

    with suppress(ConfigError):
        if name in ("oracle", "random") or kind_of(name):
            return f"to evaluate that model: agentrl eval SUITE --model {name}"
    return f"{nearest(name, [*suites, *env_ids()])} (or a YAML file, or an environment id)"


@cache
def _announced() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=GROUP)}


def _text(name: str, origin: str) -> str:
    package, _, file = origin.partition(":")
    try:
        return (files(package) / file).read_text(encoding="utf-8")
    except (ImportError, OSError, TypeError, UnicodeDecodeError) as error:
        raise ConfigError(f"suite {name!r} ({origin}) cannot be read: {error}") from None
