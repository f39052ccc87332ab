"""Weighted GRPO: the numbers of section 06, the choice of the pair, and that the sampler runs in a training run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agentrl.advantages import Credit, TurnTable, WeightedGRPO
from agentrl.errors import ConfigError, TrainingError
from agentrl.pair_sampler import PairSampler, choose_pair


def group(*correct: bool | None) -> Credit:
    # the total reward says the opposite: the verdict decides
    return Credit.zeros(
        [TurnTable(rewards=np.array([-float(bool(one))]), lengths=np.array([1]), correct=one) for one in correct]
    )


RARE = group(True, *[False] * 7)
BRITTLE = group(False, *[True] * 7)


@pytest.mark.parametrize(
    ("options", "hard", "easy"),
    [
        ({"ddof": 0, "eps": 1e-12}, (2.645751, -0.377964), (-2.645751, 0.377964)),
        ({}, (2.474870, -0.353553), (-2.474870, 0.353553)),
        ({"normaliser": "mean_only"}, (1.75, -0.25), (-1.75, 0.25)),
        ({"normaliser": "mean_only", "penalty": 2.0}, (2.625, -0.375), (-2.625, 0.375)),
        ({"normaliser": "post_scale", "penalty": 2.0}, (2.474870, -0.707107), (-4.949740, 0.353553)),
    ],
)
def test_06a(options: dict[str, object], hard: tuple[float, float], easy: tuple[float, float]) -> None:
    first, second = WeightedGRPO(**options)([RARE, BRITTLE])  # type: ignore[arg-type]
    assert first.trajectory[:2] == pytest.approx(hard, abs=1e-5)
    assert second.trajectory[:2] == pytest.approx(easy, abs=1e-5)


def test_06b_the_pair_is_the_rare_success_and_the_rare_failure() -> None:
    rates = dict(enumerate([0, 0.0625, 0.125, 0.5, 0.875, 0.9375, 1]))
    assert choose_pair(rates, group=8, spread=2) == (2, 4)


def test_06b_a_rare_event_weighs_2_4_times_what_the_variance_pair_gives() -> None:
    half = WeightedGRPO()([group(*[True] * 4, *[False] * 4)])[0].trajectory
    assert np.abs(WeightedGRPO()([RARE])[0].trajectory).max() / np.abs(half).max() >= 2.4


def test_ties_go_by_index_and_a_pool_without_such_tasks_is_an_error() -> None:
    assert choose_pair({5: 0.125, 3: 0.125, 9: 0.875, 7: 0.875}, 8, 2) == (3, 7)
    with pytest.raises(
        TrainingError, match=r"no probed task is solved at a rate of 0.12 to 0.25; rates seen: 0.00, 0.88"
    ):
        choose_pair({0: 0.0, 1: 0.875}, 8, 2)


def test_groups_are_not_pooled_and_equal_ones_stay_at_zero() -> None:
    equal = group(*[True] * 8)
    alone = WeightedGRPO()([RARE])[0].trajectory
    beside, zero = WeightedGRPO()([RARE, equal])
    assert beside.trajectory.tolist() == alone.tolist()
    assert not zero.trajectory.any()


def test_a_penalty_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="no effect on a z-score"):
        WeightedGRPO(penalty=2.0)


def test_an_environment_without_verdicts_is_an_error() -> None:
    with pytest.raises(TrainingError, match="wgrpo needs a verdict"):
        WeightedGRPO()([group(None, None)])


def test_few_probes_are_refused() -> None:
    with pytest.raises(ConfigError, match="misplace the bounds"):
        PairSampler(probes=8, group=8)


def test_the_pair_survives_a_checkpoint() -> None:
    first, second = PairSampler(), PairSampler()
    first.pair = (4, 2)
    second.load_state_dict(first.state_dict())
    drawn = second.draw(None, 3, 4, 0)  # type: ignore[arg-type]
    assert [next(drawn) for _ in range(5)] == [4, 2, 4, 2, 4]


def test_a_run_probes_once_trains_on_the_pair_and_resumes_without_probing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentrl.config import load_config
    from agentrl.store import RunStore
    from agentrl.trainer import Trainer, train

    probed: list[list[int]] = []

    async def probe(self: Trainer, indices: list[int], episodes: int) -> list[float]:
        probed.append(list(indices))
        return [0.125 if place == 1 else 0.875 for place in range(len(indices))]

    monkeypatch.setattr(Trainer, "_probe", probe)  # a policy that is rarely right takes long to train
    overrides = ["steps=1", "eval.episodes=0", "warm_start=null", "rollout.groups_per_step=2", "rollout.group_size=8"]
    sampler = {"name": "pair", "candidates": 4}
    config = load_config(recipe="tiny", overrides=overrides, out=str(tmp_path), advantages=["wgrpo"], sampler=sampler)
    train(config)
    train(config.model_copy(update={"steps": 2}), resume=True)
    assert len(probed) == 1
    with RunStore(config.folder / "store.sqlite") as store:
        (run,) = store.runs()
        episodes = list(store.episodes(run.id, phase="train"))
    assert len({episode.trajectory.task_id for episode in episodes}) == 2
    assert len(episodes) == 2 * 2 * 8


@pytest.mark.slow
def test_the_real_probe_plays_each_candidate_and_gives_its_success_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentrl.config import load_config
    from agentrl.trainer import train

    seen: dict[int, float] = {}

    def choose(rates: dict[int, float], group: int, spread: float) -> tuple[int, int]:
        seen.update(rates)
        first, second, *_ = sorted(rates)
        return first, second

    monkeypatch.setattr("agentrl.pair_sampler.choose_pair", choose)
    overrides = ["steps=0", "eval.episodes=0", "warm_start.steps=40", "warm_start.episodes_per_step=16"]
    sampler = {"name": "pair", "candidates": 5, "probes": 16, "group": 4, "spread": 1.5}
    train(load_config(recipe="tiny", overrides=overrides, out=str(tmp_path), sampler=sampler))
    assert len(seen) == 5
    assert all(0 <= rate <= 1 and (rate * 16).is_integer() for rate in seen.values())
    assert any(rate > 0 for rate in seen.values())
