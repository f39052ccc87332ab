"""Updates: gradients that do not depend on the cut, tokens without influence, refusals, and that it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agentrl.config import LoraConfig, OptimiserConfig
from agentrl.errors import ConfigError, TrainingError
from agentrl.learner import Learner, Policy
from agentrl.objectives.base import Objective, Reduction, Regulariser, TokenBatch, TokenLoss
from agentrl.objectives.clip import ClippedRatio
from agentrl.objectives.kl import KL
from agentrl.trajectory import Trajectory
from tests.learner.tiny_models import Batch, make_batch, make_model


class Recorder(Objective):
    """A ratio objective that keeps the batches it saw."""

    def __init__(self) -> None:
        self.batches: list[TokenBatch] = []

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        self.batches.append(batch)
        return TokenLoss(-(batch.logprobs - batch.behaviour).clamp(-20, 20).exp() * batch.advantages)


class EntropyBonus(Regulariser):
    current = frozenset({"entropy"})

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        return TokenLoss(-0.1 * batch.now("entropy"))


def learner(objective: Objective | None = None, lora: LoraConfig | None = None, **options: Any) -> Learner:
    names = OptimiserConfig.model_fields
    settings = {"lr": 1e-2, "grad_clip": 1e9} | {name: options.pop(name) for name in list(options) if name in names}
    policy = Policy(make_model(), lora=lora, precision=options.pop("precision", "fp32"))
    return Learner(policy, objective=objective or ClippedRatio(), optimiser=OptimiserConfig(**settings), **options)


def gradient(own: Learner, batch: Batch) -> dict[str, torch.Tensor]:
    """What the optimiser was given in one update."""
    seen: dict[str, torch.Tensor] = {}
    step = own.optimiser.step

    def spy(*args: Any) -> Any:
        seen.update({name: weight.grad.clone() for name, weight in own.policy.trainable().items()})
        return step(*args)

    own.optimiser.step = spy  # type: ignore[method-assign]
    own.update(*batch)
    return seen


def weights(own: Learner) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in own.policy.trainable().items()}


def largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    assert left
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.parametrize("reduction", list(Reduction))
def test_gradients_do_not_depend_on_micro_batches(reduction: Reduction) -> None:
    norm = 20.0 if reduction is Reduction.SEQ_MEAN_TOKEN_SUM_NORM else None
    found = [
        gradient(
            learner(micro_batch_tokens=tokens, reduction=reduction, norm=norm, regularisers=[EntropyBonus()]),
            make_batch(),
        )
        for tokens in (10_000, 60, 1)
    ]
    assert largest_difference(found[0], found[1]) < 1e-6 * max(1, *(float(g.abs().max()) for g in found[0].values()))
    assert largest_difference(found[0], found[2]) < 1e-6 * max(1, *(float(g.abs().max()) for g in found[0].values()))


def test_gradient_is_that_of_plain_autograd_over_single_rows() -> None:
    trajectories, advantages = make_batch()
    packed = gradient(learner(reduction="seq_mean_token_mean"), (trajectories, advantages))
    model = make_model()
    total = torch.zeros(())
    for trajectory, values in zip(trajectories, advantages, strict=True):
        starts = np.cumsum([0, *(len(turn.sampled_ids) for turn in trajectory.turns)])
        for index, turn in enumerate(trajectory.turns):
            ids, n = torch.tensor(trajectory.full_ids(index)), len(turn.sampled_ids)
            log_p = torch.log_softmax(model(ids[None]).logits[0], -1)[-n - 1 : -1]
            ratio = (log_p.gather(1, ids[-n:, None])[:, 0] - torch.tensor(turn.logprobs)).exp()
            a = torch.tensor(values[starts[index] : starts[index + 1]]).float()
            clipped = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
            total = total - clipped.sum() / trajectory.num_policy_tokens / len(trajectories)
    total.backward()
    plain = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert largest_difference(packed, plain) < 1e-5


def test_the_order_of_trajectories_does_not_matter() -> None:
    trajectories, advantages = make_batch()
    forward = gradient(learner(), (trajectories, advantages))
    backward = gradient(learner(), (trajectories[::-1], advantages[::-1]))
    assert largest_difference(forward, backward) < 1e-6


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)])
def test_the_same_inputs_give_the_same_bits(lora: LoraConfig | None) -> None:
    runs = []
    for _ in range(2):
        own = learner(lora=lora, regularisers=[KL(beta=0.1)], micro_batch_tokens=60, minibatches=2, epochs=2)
        metrics = [own.update(*make_batch(seed)) for seed in (0, 1)]
        numbers = [{k: v for k, v in m.items() if not k.startswith("seconds/")} for m in metrics]
        runs.append((numbers, weights(own)))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])


def test_only_sampled_tokens_reach_the_objective() -> None:
    recorder = Recorder()
    trajectories, advantages = make_batch()
    learner(recorder, micro_batch_tokens=60).update(trajectories, advantages)
    seen = torch.cat([batch.behaviour for batch in recorder.batches]).tolist()
    recorded = [value for item in trajectories for turn in item.turns for value in turn.logprobs]
    assert sorted(seen) == pytest.approx(sorted(recorded))
    given = torch.cat([batch.advantages for batch in recorder.batches]).tolist()
    assert sorted(given) == pytest.approx(sorted(np.concatenate(advantages).tolist()))
    assert float(sum(batch.weights.sum() for batch in recorder.batches)) == pytest.approx(1.0)


def test_observation_positions_get_no_gradient() -> None:
    """At the last layer, loss reaches exactly the states that predict a sampled token."""
    own = learner(Recorder())
    states: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: torch.Tensor) -> None:
        output.retain_grad()
        states.append(output)

    own.policy.model.model.norm.register_forward_hook(keep)
    trajectories, advantages = make_batch(size=2)
    own.update(trajectories[1:], advantages[1:])
    (row,) = trajectories[1].rows()
    predicts = torch.tensor([turn > 0 for turn in row.turn_ids[1:]] + [False])
    touched = states[0].grad[0].abs().sum(-1) > 0
    assert 0 < int(predicts.sum()) < len(predicts) - 2
    assert torch.equal(touched, predicts)


def test_what_an_observation_says_after_the_last_sampled_token_changes_no_bit() -> None:
    runs = []
    for trailing in (None, [5, 6, 7]):
        own = learner()
        trajectories, advantages = make_batch(size=1)
        if trailing:  # a last turn that sampled nothing: its context is trailing observation
            last = trajectories[0].turns[-1]
            trajectories[0].turns.append(type(last)(trailing, len(trajectories[0].turns) - 1, [], [], last.message))
        own.update(trajectories, advantages)
        runs.append(weights(own))
    assert largest_difference(*runs) < 1e-6


def test_recomputed_behaviour_starts_at_ratio_one_whatever_was_recorded() -> None:
    for several in (1, 3):
        recorder = Recorder()
        own = learner(recorder, behaviour="recomputed", precision="bf16", minibatches=several, micro_batch_tokens=60)
        metrics = own.update(*make_batch())
        first = recorder.batches[0]
        assert torch.equal(first.logprobs.detach(), first.behaviour)
        assert metrics["mismatch/mean_abs"] > 0.1  # the records are made up, and the metric says so
        last = recorder.batches[-1]
        assert torch.equal(last.logprobs.detach(), last.behaviour) == (several == 1)


def test_mismatch_is_zero_where_the_records_are_the_policys_own() -> None:
    trajectories, advantages = make_batch(size=3)
    own = learner()
    for trajectory in trajectories:
        for index, turn in enumerate(trajectory.turns):
            ids, n = torch.tensor(trajectory.full_ids(index)), len(turn.sampled_ids)
            with torch.no_grad():
                log_p = torch.log_softmax(own.policy.model(ids[None]).logits[0], -1)[-n - 1 : -1]
            turn.logprobs = log_p.gather(1, ids[-n:, None])[:, 0].tolist()
    metrics = own.update(trajectories, advantages)
    assert metrics["mismatch/max_abs"] < 1e-5
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-6)


def test_kl_to_the_reference_is_zero_before_the_first_step_and_positive_after() -> None:
    for lora in (None, LoraConfig(rank=4)):
        own = learner(lora=lora, regularisers=[KL(beta=0.1)])
        assert own.update(*make_batch())["kl"] == pytest.approx(0.0, abs=1e-9)
        assert own.update(*make_batch())["kl"] > 1e-5


def test_trajectories_without_credit_are_left_out_and_still_count() -> None:
    trajectories, advantages = make_batch()
    advantages[1] = np.zeros_like(advantages[1])

    class Everything(ClippedRatio):
        zero_without_advantage = False

    lean, full = learner(), learner(Everything())
    assert (
        largest_difference(gradient(lean, (trajectories, advantages)), gradient(full, (trajectories, advantages)))
        < 1e-6
    )
    assert lean.update(trajectories, advantages)["update/skipped_rows"] == len(trajectories[1].rows())


def test_a_batch_without_credit_takes_no_step_unless_a_regulariser_acts() -> None:
    trajectories, advantages = make_batch()
    zeros = [np.zeros_like(values) for values in advantages]
    own = learner()
    before = weights(own)
    metrics = own.update(trajectories, zeros)
    assert metrics["update/skipped_steps"] == 1
    assert metrics["loss"] == 0.0
    assert largest_difference(before, weights(own)) == 0
    regularised = learner(regularisers=[EntropyBonus()])
    assert regularised.update(trajectories, zeros)["entropy"] > 0
    assert largest_difference(before, weights(regularised)) > 0


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nothing_is_stepped_on_what_is_not_finite(where: str) -> None:
    class Broken(Objective):
        def __call__(self, batch: TokenBatch) -> TokenLoss:
            if where == "loss":
                return TokenLoss(batch.logprobs * float("nan"))
            return TokenLoss((batch.logprobs - batch.logprobs.detach()).clamp(min=0).sqrt())  # 0 with slope infinity

    own = learner(Broken())
    before = weights(own)
    with pytest.raises(TrainingError, match="nothing was stepped"):
        own.update(*make_batch())
    assert largest_difference(before, weights(own)) == 0
    assert own.steps == 0
    assert all(weight.grad is None for weight in own.policy.trainable().values())


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=8)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_credit_moves_probability_its_way(lora: LoraConfig | None, precision: str) -> None:
    trajectories, _ = make_batch(size=2)
    advantages = [np.full(item.num_policy_tokens, sign) for item, sign in zip(trajectories, (1.0, -1.0), strict=True)]
    recorder = Recorder()
    own = learner(recorder, lora=lora, precision=precision, behaviour="recomputed", lr=3e-3)
    for _ in range(6):
        own.update(trajectories, advantages)

    def mean(batch: TokenBatch, sign: float) -> float:
        return float(batch.logprobs.detach()[batch.advantages == sign].mean())

    first, last = recorder.batches[0], recorder.batches[-1]
    assert mean(last, 1.0) > mean(first, 1.0) + 0.1
    assert mean(last, -1.0) < mean(first, -1.0) - 0.1


def test_minibatches_epochs_and_progress_are_counted() -> None:
    calls: list[tuple[int, int]] = []
    own = learner(minibatches=2, epochs=3, micro_batch_tokens=60)
    metrics = own.update(*make_batch(), progress=lambda done, total: calls.append((done, total)))
    assert own.steps == 6
    total = 3 * int(metrics["update/micro_batches"])
    assert calls == [(done, total) for done in range(1, total + 1)]
    assert metrics["update/policy_tokens"] == sum(item.num_policy_tokens for item in make_batch()[0])
    assert 0 < metrics["update/packing_efficiency"] <= 1


def test_warm_up_is_linear_and_then_constant() -> None:
    own = learner(lr=1e-3, warmup_steps=2)
    assert [own.update(*make_batch())["lr"] for _ in range(3)] == pytest.approx([5e-4, 1e-3, 1e-3])


def test_a_reduction_without_its_constant_is_refused_at_start() -> None:
    with pytest.raises(ConfigError, match="norm"):
        learner(reduction="seq_mean_token_sum_norm")


def test_an_empty_batch_changes_nothing() -> None:
    own = learner()
    before = weights(own)
    empty: list[Trajectory] = []
    assert own.update(empty, [])["update/rows"] == 0
    assert largest_difference(before, weights(own)) == 0
