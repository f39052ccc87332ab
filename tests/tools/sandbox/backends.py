"""The backends of sandboxes as test parameters, and what is counted around them.

`fork` and `none` run in the default lane, the others in lanes of their own. A backend that does not work here is
skipped by name, with the reason that it gives a user.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentrl import registry
from agentrl.sandbox import Sandbox

BACKENDS = [
    pytest.param("fork", id="fork"),
    pytest.param("none", id="none"),
    pytest.param("bubblewrap", id="bubblewrap", marks=pytest.mark.bubblewrap),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
]


WITH_POOL = frozenset({"docker"})
"""Backends that keep sessions ready: their connections come and go, and their own tests count them."""


def opened(name: str) -> Iterator[Sandbox]:
    """A fixture's body: the backend of that name, closed afterwards."""
    backend = registry.sandboxes.get(name)
    if reason := backend.why_not():
        pytest.skip(f"{name}: {reason}")
    sandbox: Sandbox = backend()
    try:
        yield sandbox
    finally:
        sandbox.close()


def descriptors() -> set[tuple[str, str]]:
    """This process's descriptors, with what they are; the one that reads them is not among them."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
        except OSError:
            continue
    return found


def processes_with(mark: str) -> list[int]:
    """Ids of processes of this machine that are named `mark` or have it in their command line or environment."""
    found, wanted = [], mark.encode()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            if _state(name) != "Z" and any(wanted in (Path("/proc") / name / kind).read_bytes() for kind in _PLACES):
                found.append(int(name))
        except OSError:
            continue  # it ended meanwhile
    return found


_PLACES = ("comm", "cmdline")


def _state(pid: str) -> str:
    return (Path("/proc") / pid / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
