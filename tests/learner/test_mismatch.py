"""The run-time check of the engine's log-probabilities: an honest engine passes, one that lies stops before a step."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agentrl.config import OptimiserConfig, load_config
from agentrl.engines.base import Completion, Sampling
from agentrl.engines.transformers import TransformersEngine
from agentrl.errors import ConfigError, TrainingError
from agentrl.learner import Learner, Policy
from agentrl.objectives.clip import ClippedRatio
from agentrl.observe import Observer
from agentrl.trainer import Trainer, train
from agentrl.trajectory import Switch
from tests.learner.tiny_models import Batch, make_batch, make_model

BOUND = 0.1
Lie = Callable[[list[float]], list[float]]


def learner(**options: Any) -> Learner:
    names = OptimiserConfig.model_fields
    settings = {name: options.pop(name) for name in list(options) if name in names}
    policy = Policy(make_model(), precision="fp32")
    optimiser = OptimiserConfig(lr=1e-2, **settings)
    return Learner(policy, objective=ClippedRatio(), optimiser=optimiser, mismatch_bound=BOUND, **options)


def recorded_batch(lie: Lie = list, temperature: float = 1.0) -> Batch:
    """Episodes whose records are the policy's own log-probabilities, told through `lie`."""
    model = make_model()
    trajectories, advantages = make_batch()
    for trajectory in trajectories:
        for index, turn in enumerate(trajectory.turns):
            ids, n = torch.tensor(trajectory.full_ids(index)), len(turn.sampled_ids)
            with torch.no_grad():
                log_p = torch.log_softmax(model(ids[None]).logits[0] / temperature, -1)[-n - 1 : -1]
            turn.logprobs = lie(log_p.gather(1, ids[-n:, None])[:, 0].tolist())
    return trajectories, advantages


def test_honest_records_pass_and_are_measured() -> None:
    own = learner()
    metrics = own.update(*recorded_batch())
    assert metrics["mismatch/mean_abs"] < 1e-5
    assert own.steps == 1
    assert own.update(*make_batch_of(own))["mismatch/mean_abs"] < BOUND  # and after the weights moved


def make_batch_of(own: Learner) -> Batch:
    trajectories, advantages = recorded_batch()
    for trajectory in trajectories:
        for index, turn in enumerate(trajectory.turns):
            ids, n = torch.tensor(trajectory.full_ids(index)), len(turn.sampled_ids)
            with torch.no_grad():
                log_p = torch.log_softmax(own.policy.model(ids[None]).logits[0], -1)[-n - 1 : -1]
            turn.logprobs = log_p.gather(1, ids[-n:, None])[:, 0].tolist()
    return trajectories, advantages


@pytest.mark.parametrize(
    ("batch", "at_least"),
    [
        (lambda: recorded_batch(lambda values: [value + 0.5 for value in values]), 0.499),
        (lambda: recorded_batch(temperature=0.5), BOUND),
    ],
    ids=["shifted", "other-temperature"],
)
@pytest.mark.parametrize(
    "options",
    [{}, {"behaviour": "recomputed"}, {"behaviour": "recomputed", "minibatches": 3}, {"minibatches": 3, "epochs": 2}],
    ids=["recorded", "recomputed", "recomputed-minibatches", "minibatches"],
)
def test_a_lie_stops_before_the_weights_move(
    batch: Callable[[], Batch], at_least: float, options: dict[str, Any]
) -> None:
    own = learner(**options)
    before = {name: weight.detach().clone() for name, weight in own.policy.trainable().items()}
    with pytest.raises(TrainingError, match=r"mismatch_bound=0.1; nothing was stepped.*temperature") as caught:
        own.update(*batch())
    assert float(str(caught.value).split(" by ")[1].split()[0]) >= at_least
    assert own.steps == 0
    for name, weight in own.policy.trainable().items():
        assert torch.equal(weight, before[name])
        assert weight.grad is None


def test_a_rollout_at_the_learners_temperature_passes_whatever_it_is() -> None:
    assert learner(temperature=0.5).update(*recorded_batch(temperature=0.5))["mismatch/mean_abs"] < 1e-5


def test_a_step_that_is_skipped_leaves_the_next_one_fresh() -> None:
    own = learner(minibatches=2)
    trajectories, advantages = recorded_batch(lambda values: [value + 0.5 for value in values])
    for index in range((len(trajectories) + 1) // 2):
        advantages[index][:] = 0.0
    with pytest.raises(TrainingError, match="nothing was stepped"):
        own.update(trajectories, advantages)


# -- a whole run -------------------------------------------------------------------------------------------------------

SMALL = [
    *("steps=2", "eval.episodes=0", "warm_start=null", "checkpoint.every=1"),
    *("rollout.groups_per_step=2", "rollout.group_size=4"),
    "loss.regularisers=[{name: kl, beta: 0.1}]",  # acts on every episode, also where all rewards are equal
]


def lines(folder: Path) -> list[dict[str, float]]:
    """The metrics of the training steps that were finished."""
    file = folder / "metrics.jsonl"
    read = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in read if line["phase"] == "train"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_honest_run_is_far_below_the_bound(tmp_path: Path, precision: str) -> None:
    overrides = [f"model.precision={precision}"]
    if precision == "bf16":
        overrides.append("engine.options={dtype: bfloat16}")
    config = load_config(recipe="tiny", overrides=[*SMALL, *overrides], out=str(tmp_path))
    assert config.loss.mismatch_bound == BOUND
    train(config)
    measured = [line["mismatch/mean_abs"] for line in lines(config.folder) if "mismatch/mean_abs" in line]
    assert measured
    assert max(measured) < (1e-4 if precision == "fp32" else BOUND / 2)


def shifted(completion: Completion) -> Completion:
    return replace(completion, logprobs=[value - 0.5 for value in completion.logprobs])


@pytest.mark.parametrize(
    ("sampling", "answer"),
    [
        (lambda given: given, shifted),
        (lambda given: replace(given, temperature=0.4), lambda completion: completion),
    ],
    ids=["shifted", "other-temperature"],
)
def test_an_engine_that_lies_stops_the_run_at_its_first_step(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sampling: Callable[[Sampling], Sampling],
    answer: Callable[[Completion], Completion],
) -> None:
    honest = TransformersEngine.generate

    async def generate(self: TransformersEngine, prompt: Any, given: Sampling, **session: Any) -> Completion:
        return answer(await honest(self, prompt, sampling(given), **session))

    monkeypatch.setattr(TransformersEngine, "generate", generate)
    config = load_config(recipe="tiny", overrides=SMALL, out=str(tmp_path))
    with pytest.raises(TrainingError, match=r"loss.mismatch_bound=0\.1"):
        train(config)
    assert [path.name for path in (config.folder / "checkpoints").glob("step-*")] == ["step-00000000"]
    assert not lines(config.folder)


def test_the_bound_can_be_switched_off_and_must_be_positive() -> None:
    assert load_config(recipe="tiny", overrides=["loss.mismatch_bound=null"]).loss.mismatch_bound is None
    with pytest.raises(ConfigError, match=r"loss\.mismatch_bound=0"):
        load_config(recipe="tiny", overrides=["loss.mismatch_bound=0"])


def test_weights_that_took_over_in_mid_turn_are_checked_too(tmp_path: Path) -> None:
    trainer = Trainer(load_config(recipe="tiny", overrides=SMALL, out=str(tmp_path)), Observer())
    trainer.weights_hash = "served"
    trajectories, _ = make_batch(size=2)
    for trajectory in trajectories:
        for turn in trajectory.turns:
            turn.weights_hash = "served"
    trainer.check_records(trajectories)
    trajectories[1].turns[-1].switches = [Switch(1, 1, "another")]
    with pytest.raises(TrainingError, match=r"sampled by weights.*another"):
        trainer.check_records(trajectories)
