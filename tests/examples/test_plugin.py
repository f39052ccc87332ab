"""The example package: installed, it is found by its entry points and its environment keeps the contract."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[2] / "examples" / "plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the package was installed, from a copy: a build writes into its tree."""
    folder = tmp_path_factory.mktemp("plugin")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "agentrl_dice.py"):
        (source / name).write_bytes((PLUGIN / name).read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "site")]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *options, str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


def agentrl(site: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-m", "agentrl.cli", *arguments], capture_output=True, text=True, env=environment, cwd=site
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_environment_is_found_and_keeps_the_contract(site: Path) -> None:
    assert "dice/Odds-v0" in agentrl(site, "envs", "list")
    report = json.loads(agentrl(site, "envs", "check", "dice/Odds-v0", "--json"))[0]
    assert {finding["holds"] for finding in report["findings"]} == {True}, report["findings"]


def test_the_tool_is_found_and_answers(site: Path) -> None:
    tools = {tool["name"]: tool for tool in json.loads(agentrl(site, "tools", "list", "--json"))}
    assert tools["dice"]["from"] == "agentrl_dice:dice"
    ways = json.loads(agentrl(site, "tools", "call", "dice", '{"count": 2}'))
    assert ways["7"] == 6 and sum(ways.values()) == 36
