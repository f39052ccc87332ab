"""Evaluation of the oracle and of a real policy."""

from pathlib import Path

import pytest

from agentrl.errors import ConfigError
from agentrl.evaluation import evaluate, summarise
from agentrl.messages import assistant
from agentrl.store import RunStore
from agentrl.trajectory import StopReason, Trajectory, Turn


def test_the_oracle_is_right(tmp_path: Path) -> None:
    result = evaluate("oracle", env_options={"levels": [1, 2, 3, 4]}, episodes=40, out=tmp_path)
    assert result.accuracy.value == 1.0
    assert result.episodes == 40
    with RunStore(tmp_path / "store.sqlite") as store:
        assert len(list(store.episodes(store.runs()[0].id))) == 40


def test_a_policy_is_evaluated_twice_alike() -> None:
    first, second = (evaluate("tiny", episodes=6, config=None, seed=3) for _ in range(2))
    assert first.accuracy == second.accuracy
    assert first.tokens == second.tokens > 0


def test_wrong_split_and_environment() -> None:
    with pytest.raises(ConfigError, match="split"):
        evaluate("oracle", split="tset")
    with pytest.raises(ConfigError, match="Arithmetic"):
        evaluate("oracle", "agentrl/Arithmetic-v1")


def test_aborted_episodes_stay_out_of_the_shares() -> None:
    def episode(correct: float, reason: StopReason = StopReason.TERMINATED) -> Trajectory:
        turn = Turn([1], None, [2], [-0.5], assistant("x"), reward=correct)
        return Trajectory("t", turns=[turn], metrics={"correct": correct, "depth": 3.0}, stop_reason=reason)

    episodes = [episode(1.0), episode(0.0), episode(0.0, StopReason.ENV_ERROR)]
    result = summarise(episodes, model="m", env="e", split="test", temperature=1.0, seed=0, seconds=1.0)
    assert result.accuracy.value == 0.5
    assert (result.episodes, result.aborted, result.tokens) == (2, 1, 3)
    assert "depth" not in result.shares
    assert result.means["depth"].value == 3.0
    assert result.to_metrics()["accuracy_high"] == result.accuracy.high
