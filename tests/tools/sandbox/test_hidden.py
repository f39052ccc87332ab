"""Judges, generators and the solutions of benchmarks are out of a tenant's reach, wherever they are installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from agentrl.sandbox import get_sandbox
from agentrl.tools.sandbox.hidden import PACKAGES, hidden_folders
from tests.tools.sandbox.backends import BACKENDS

TRY = """
import importlib
found = []
for name in {packages!r}:
    try:
        found.append(importlib.import_module(name).__file__)
    except ImportError:
        pass
[path for path in found if path]
"""


@pytest.mark.parametrize("name", [backend for backend in BACKENDS if "none" not in str(backend)])
async def test_they_cannot_be_imported(name: str) -> None:
    done = await get_sandbox(name).run(TRY.format(packages=PACKAGES))
    assert (done.value, done.stderr) == ("[]", "")


async def test_the_check_would_find_one_that_is_shown() -> None:
    done = await get_sandbox("fork").run(TRY.format(packages=(*PACKAGES, "sympy")))
    assert done.value is not None and "sympy" in done.value


def test_what_is_installed_is_listed() -> None:
    installed = {name for name in PACKAGES if find_spec(name)}
    assert {path.rsplit("/", 1)[1] for path in hidden_folders()} == installed
    assert "agentrl" in installed
