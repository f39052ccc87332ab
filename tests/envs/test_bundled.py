"""Every bundled environment keeps the contract, as it is and without its tools."""

from __future__ import annotations

import pytest

from agentrl.conformance import check_environment
from agentrl.env import make
from agentrl.registration import env_ids

IDS = [name for name in env_ids() if name.startswith("agentrl/")]


def test_the_bundled_environments_are_found() -> None:
    families = {"Arithmetic", "Math", "ReasoningGym", "Code", "SQL", "Search", "FunctionCalling"}
    assert {f"agentrl/{family}-v0" for family in families} <= set(IDS)


@pytest.mark.parametrize("name", IDS)
def test_it_keeps_the_contract(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.conformance.LEAK_EPISODES", 8)
    report = check_environment(lambda: make(name), name, tasks=2)
    assert not report.failures, report.failures


@pytest.mark.parametrize("name", [name for name in IDS if "FunctionCalling" not in name])  # there, they are the task
def test_its_oracle_answers_without_tools(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.conformance.LEAK_EPISODES", 4)
    report = check_environment(lambda: make(name, tools=()), name, tasks=1)
    assert not report.failures, report.failures
    assert any("bad tool call" in finding.rule and finding.holds is None for finding in report.findings)
