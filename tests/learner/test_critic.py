"""The critic: what it reads, what its loss is, what it moves, and that it goes on from a checkpoint (B5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.config import CriticConfig, LoraConfig, OptimiserConfig
from agentrl.errors import CheckpointError, ConfigError, TrainingError
from agentrl.learner import Learner, Policy, load_checkpoint, save_checkpoint
from agentrl.learner.critic import explained_variance
from agentrl.learner.tally import Tally
from agentrl.objectives.clip import ClippedRatio
from agentrl.trajectory import Trajectory
from tests.learner.tiny_models import Batch, make_batch, make_model

LORA = LoraConfig(rank=4)
KINDS: list[dict[str, Any]] = [{"kind": "shared"}, {"kind": "own"}, {"kind": "own", "lora": LORA}]
VALUES = frozenset({"values", "values_after"})


def learner(policy: dict[str, Any] | None = None, settings: dict[str, Any] | None = None, **critic: Any) -> Learner:
    return Learner(
        Policy(make_model(), precision="fp32", **(policy or {})),
        objective=ClippedRatio(),
        optimiser=OptimiserConfig(**({"lr": 1e-2, "grad_clip": 1e9} | (settings or {}))),
        critic=CriticConfig(**critic),
    )


def scramble(own: Learner, scale: float = 0.3) -> Learner:
    """A head that is not zero, as after some training."""
    assert own.critic is not None
    with torch.no_grad():
        own.critic.head.weight.normal_(generator=torch.Generator().manual_seed(1)).mul_(scale)
        own.critic.head.bias.fill_(0.1)
    return own


def targets(batch: Batch, seed: int = 5, gaps: bool = False) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    found = [{"returns": rng.normal(size=item.num_policy_tokens)} for item in batch[0]]
    for column in found if gaps else ():
        column["returns"][::2] = np.nan
    return found


def update(own: Learner, batch: Batch, columns: list[dict[str, np.ndarray]] | None = None) -> dict[str, float]:
    return own.update(*batch, columns=targets(batch) if columns is None else columns)


def silent(batch: Batch) -> Batch:
    """The same trajectories without any credit."""
    return batch[0], [np.zeros_like(values) for values in batch[1]]


def weights(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in parameters.items()}


def moved(before: dict[str, torch.Tensor], parameters: dict[str, torch.nn.Parameter]) -> set[str]:
    return {name for name, weight in parameters.items() if not torch.equal(before[name], weight)}


def critic_gradient(own: Learner, batch: Batch, columns: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    assert own.critic is not None
    critic, step = own.critic, own.critic.step

    def spy() -> None:
        seen.update({name: w.grad.clone() for name, w in critic.trainable().items() if w.grad is not None})
        step()

    critic.step = spy  # type: ignore[method-assign]
    update(own, batch, columns)
    return seen


# -- what it reads -----------------------------------------------------------------------------------------------------


def expected_values(own: Learner, trajectory: Trajectory) -> tuple[list[float], float]:
    """By one plain forward pass for each token, over the tokens before it and nothing else."""
    assert own.critic is not None
    model = make_model()

    def value(ids: list[int]) -> float:
        hidden = model(torch.tensor(ids)[None], output_hidden_states=True).hidden_states[-1][0, -1]
        return float(own.critic.head(hidden.float()))  # type: ignore[union-attr]

    found = []
    for index, turn in enumerate(trajectory.turns):
        context = trajectory.context_ids(index)
        found += [value(context + turn.sampled_ids[:k]) for k in range(len(turn.sampled_ids))]
    return found, value(trajectory.full_ids(len(trajectory.turns) - 1))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@torch.no_grad()
def test_a_value_has_seen_the_tokens_before_its_own(kind: dict[str, Any]) -> None:
    """Forks, packing and micro-batches included; an observation's own state is read only where a turn begins."""
    own = scramble(learner(settings={"micro_batch_tokens": 60}, **kind))
    trajectories, _ = make_batch(size=4)
    for trajectory, scored in zip(trajectories, own.score(trajectories, VALUES), strict=True):
        before, after = expected_values(own, trajectory)
        assert scored["values"] == pytest.approx(before, abs=1e-5)
        assert float(scored["values_after"]) == pytest.approx(after, abs=1e-5)
        assert np.ptp(scored["values"]) > 0.1  # a constant would pass whatever it is read from


def test_it_starts_at_zero_from_the_policy_without_its_adapters() -> None:
    batch = make_batch(size=3)
    own = learner({"lora": LORA}, kind="own")
    assert own.critic is not None and own.critic.trunk is not None
    assert all(not column["values"].any() for column in own.score(batch[0], frozenset({"values"})))
    assert not any("lora" in name for name in own.critic.trainable())
    start, trunk = make_model().state_dict(), own.critic.trunk.model.state_dict()
    assert start.keys() == trunk.keys()
    assert all(torch.equal(start[name], trunk[name]) for name in start)


def test_one_pass_yields_the_policys_numbers_and_a_shared_critics_values() -> None:
    own, batch = scramble(learner()), make_batch(size=3)
    together = own.score(batch[0], frozenset({"values", "logprobs"}))
    for name in ("values", "logprobs"):
        alone = own.score(batch[0], frozenset({name}))
        assert all(np.array_equal(a[name], b[name]) for a, b in zip(together, alone, strict=True))


# -- the loss ----------------------------------------------------------------------------------------------------------


def one_loss(values: list[float], old: list[float], returns: list[float], **options: Any) -> tuple[float, Tally]:
    """The loss of tokens whose states give exactly `values`."""
    own = learner(**options)
    assert own.critic is not None
    with torch.no_grad():
        own.critic.head.weight[0, 0] = 1.0
    states = torch.zeros(len(values), own.policy.width)
    states[:, 0] = torch.tensor(values)
    columns = {"values": torch.tensor(old), "returns": torch.tensor(returns)}
    everything = torch.ones(len(values), dtype=torch.bool)
    tally = Tally()
    tokens: Any = None  # a shared critic reads the policy's states
    loss = own.critic.loss(tokens, states, columns, torch.arange(len(values)), everything, tally)
    return float(loss.detach()), tally


def test_the_clipped_value_loss_b5() -> None:
    # (V - ret)^2 = .25, .01, .04; V clipped to .4 +- .2: .5 -> .5, .9 -> .6, -.5 -> .2; so .25, .16, .25
    loss, tally = one_loss([0.5, 0.9, -0.5], [0.4, 0.4, 0.4], [1.0, 1.0, -0.3], clip=0.2)
    assert loss == pytest.approx(0.5 * (0.25 + 0.16 + 0.25) / 3, abs=1e-6)
    assert tally.metrics()["critic/clip_fraction"] == pytest.approx(2 / 3)
    loss, tally = one_loss([0.5, 0.9, -0.5], [0.4, 0.4, 0.4], [1.0, 1.0, -0.3], clip=None)
    assert loss == pytest.approx(0.5 * (0.25 + 0.01 + 0.04) / 3, abs=1e-6)
    assert "critic/clip_fraction" not in tally.metrics()


def test_tokens_without_a_target_are_not_in_the_mean() -> None:
    nan = float("nan")
    assert one_loss([0.5, 7.0, 0.0], [0.5, 7.0, 0.0], [1.0, nan, nan])[0] == pytest.approx(0.125)
    assert one_loss([0.5], [0.5], [nan])[0] == 0.0


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_gradient_does_not_depend_on_micro_batches(kind: dict[str, Any]) -> None:
    batch = make_batch()
    columns = targets(batch, gaps=True)
    found = [
        critic_gradient(scramble(learner(settings={"micro_batch_tokens": tokens}, **kind)), batch, columns)
        for tokens in (10_000, 60, 1)
    ]
    scale = max(1.0, *(float(gradient.abs().max()) for gradient in found[0].values()))
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        assert all(float((found[0][name] - other[name]).abs().max()) < 1e-6 * scale for name in other)


def test_the_update_reports_the_loss_of_the_whole_batch() -> None:
    batch = make_batch()
    own = scramble(learner(settings={"micro_batch_tokens": 60}, clip=None))
    columns = targets(batch, gaps=True)
    values = np.concatenate([item["values"] for item in own.score(batch[0], frozenset({"values"}))])
    returns = np.concatenate([item["returns"] for item in columns])
    metrics = update(own, batch, columns)
    assert metrics["critic/loss"] == pytest.approx(0.5 * float(np.nanmean((values - returns) ** 2)), rel=1e-5)
    known = np.isfinite(returns)
    share = 1 - np.var((returns - values)[known]) / np.var(returns[known])
    assert metrics["critic/explained_variance"] == pytest.approx(share, rel=1e-4)


def test_masked_tokens_teach_nothing_and_stay_in_the_mean() -> None:
    batch = make_batch(size=2)
    rng = np.random.default_rng(0)
    columns = [{**item, "masked": rng.integers(0, 2, len(item["returns"])).astype(float)} for item in targets(batch)]
    metrics = update(learner(clip=None), batch, columns)  # V = 0
    kept = np.concatenate([item["returns"] * (1 - item["masked"]) for item in columns])
    assert metrics["critic/loss"] == pytest.approx(0.5 * float(np.mean(kept**2)), rel=1e-5)


def test_explained_variance() -> None:
    returns = torch.tensor([1.0, 2.0, float("nan"), 3.0])
    assert explained_variance(returns, returns) == pytest.approx(1.0)
    assert explained_variance(torch.zeros(4), returns) == pytest.approx(0.0)
    assert explained_variance(-returns, returns) == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones(4)) is None


# -- what it moves -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_without_credit_the_critic_learns_and_the_policy_stands_still(kind: dict[str, Any]) -> None:
    own, batch = scramble(learner(settings={"weight_decay": 0.1}, **kind)), silent(make_batch(size=3))
    assert own.critic is not None
    policy, critic = weights(own.policy.trainable()), weights(own.critic.trainable())
    metrics = update(own, batch)
    assert not moved(policy, own.policy.trainable())
    assert {"head.weight", "head.bias"} <= moved(critic, own.critic.trainable())
    assert metrics["update/skipped_steps"] == 1 and "grad_norm" not in metrics
    assert (own.steps, own.critic.steps) == (0, 1)


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_coefficient_lets_the_value_loss_reach_the_trunk(lora: LoraConfig | None) -> None:
    batch = silent(make_batch(size=3))
    norms = []
    for coefficient in (0.1, 0.2):
        own = scramble(learner({"lora": lora}, coefficient=coefficient))
        before = weights(own.policy.trainable())
        norms.append(update(own, batch)["grad_norm"])
        assert moved(before, own.policy.trainable())
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-4)


def test_an_own_trunk_moves_by_itself_and_only_its_adapters_where_it_has_some() -> None:
    batch = make_batch(size=3)
    full, adapted = scramble(learner(kind="own")), scramble(learner(kind="own", lora=LORA))
    assert full.critic is not None and adapted.critic is not None
    before = weights(full.critic.trainable())
    update(full, batch)
    assert len(moved(before, full.critic.trainable())) > 10
    names = set(adapted.critic.trainable()) - {"head.weight", "head.bias"}
    assert names and all("lora" in name for name in names)
    frozen = {name: w for name, w in adapted.critic.trunk.model.named_parameters() if not w.requires_grad}  # type: ignore[union-attr]
    before = weights(frozen)
    update(adapted, batch)
    assert not moved(before, frozen)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_output_head_of_its_own_is_not_trained(kind: dict[str, Any]) -> None:
    policy = Policy(make_model("qwen2"), precision="fp32")
    own = Learner(policy, objective=ClippedRatio(), critic=CriticConfig(**kind))
    assert own.critic is not None
    assert not any("lm_head" in name for name in own.critic.trainable())


@pytest.mark.parametrize("kind", [{"kind": "shared"}, {"kind": "shared", "coefficient": 0.1}, {"kind": "own"}], ids=str)
def test_the_policys_own_gradient_is_that_without_a_critic(kind: dict[str, Any]) -> None:
    """A critic whose head is zero has no gradient for a trunk, so the policy's step is the same bits."""
    batch = make_batch()
    settings = OptimiserConfig(lr=1e-2)
    plain = Learner(Policy(make_model(), precision="fp32"), objective=ClippedRatio(), optimiser=settings)
    plain.update(*batch)
    own = learner(settings={"grad_clip": 1.0}, **kind)
    update(own, batch)
    assert not moved(weights(plain.policy.trainable()), own.policy.trainable())


@pytest.mark.parametrize("kind", [{"kind": "shared", "coefficient": 0.5}, {"kind": "own"}], ids=str)
def test_in_the_warm_up_only_the_critic_learns(kind: dict[str, Any]) -> None:
    batch = make_batch(size=4)
    own = scramble(learner(settings={"minibatches": 2}, warmup_steps=2, **kind))
    assert own.critic is not None
    alone = []
    for _ in range(3):
        policy, critic = weights(own.policy.trainable()), weights(own.critic.trainable())
        metrics = update(own, batch)
        alone.append((metrics["critic/alone"], bool(moved(policy, own.policy.trainable()))))
        assert moved(critic, own.critic.trainable())
        assert "mismatch/mean_abs" in metrics
    assert alone == [(1.0, False), (1.0, False), (0.0, True)]
    assert (own.steps, own.critic.steps) == (2, 6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_learns_what_it_is_told(kind: dict[str, Any]) -> None:
    """Returns that depend on the token before: a linear map of the states can find them."""
    batch = silent(make_batch(size=6))
    columns = [
        {"returns": np.concatenate([np.full(len(turn.sampled_ids), float(i)) for i, turn in enumerate(item.turns)])}
        for item in batch[0]
    ]
    own = learner(lr=0.02, clip=None, **kind)
    first = update(own, batch, columns)
    for _ in range(40):
        last = update(own, batch, columns)
    assert last["critic/loss"] < 0.3 * first["critic/loss"]
    assert last["critic/explained_variance"] > 0.5 > first["critic/explained_variance"]


# -- refusals and checkpoints ------------------------------------------------------------------------------------------


def test_what_is_missing_is_named() -> None:
    batch = make_batch(size=2)
    with pytest.raises(TrainingError, match="no returns to train the critic on"):
        learner().update(*batch)
    plain = Learner(Policy(make_model(), precision="fp32"), objective=ClippedRatio())
    with pytest.raises(ConfigError, match="come from a critic, and there is none"):
        plain.score(batch[0], frozenset({"values"}))


def test_neither_steps_where_one_gradient_is_not_finite() -> None:
    own, batch = scramble(learner(kind="own", clip=None)), make_batch(size=2)
    assert own.critic is not None
    policy, critic = weights(own.policy.trainable()), weights(own.critic.trainable())
    columns = targets(batch)
    columns[0]["returns"][0] = 1e30  # its square is no float32
    with pytest.raises(TrainingError, match="nothing was stepped"):
        update(own, batch, columns)
    assert not moved(policy, own.policy.trainable()) and not moved(critic, own.critic.trainable())
    assert all(weight.grad is None for weight in own.policy.trainable().values())


@pytest.mark.parametrize("kind", [*KINDS, {"kind": "shared", "coefficient": 0.5}], ids=str)
@pytest.mark.parametrize("lora", [None, LORA])
def test_resumed_training_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, kind: dict[str, Any], lora: LoraConfig | None
) -> None:
    def make() -> Learner:
        return learner({"lora": lora}, {"warmup_steps": 2, "micro_batch_tokens": 60}, warmup_steps=1, lr=1e-2, **kind)

    straight = make()
    for seed in range(3):
        update(straight, make_batch(seed, 4))
    first = make()
    update(first, make_batch(0, 4))
    path = save_checkpoint(tmp_path, first, 1, {})
    second = make()
    load_checkpoint(path, second)
    for seed in (1, 2):
        update(second, make_batch(seed, 4))
    assert straight.critic is not None and second.critic is not None
    assert not moved(weights(straight.policy.trainable()), second.policy.trainable())
    assert not moved(weights(straight.critic.trainable()), second.critic.trainable())
    assert (second.critic.steps, second.critic.updates) == (3, 3)


def test_a_checkpoint_with_another_critic_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, learner(kind="own"), 1, {})
    plain = Learner(Policy(make_model(), precision="fp32"), objective=ClippedRatio())
    bare = save_checkpoint(tmp_path / "bare", plain, 1, {})
    for where, own, message in [
        (path, plain, "has a critic"),
        (bare, learner(kind="own"), "has no critic"),
        (path, learner(kind="shared"), "of another critic"),
    ]:
        before = weights(own.policy.trainable())
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(where, own)
        assert not moved(before, own.policy.trainable())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "own", "coefficient": 0.1}, "kind=own has none"),
        ({"kind": "shared", "lora": LORA}, "set kind=own"),
        ({"clip": 0.0}, "greater than 0"),
    ],
)
def test_options_of_the_other_kind_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CriticConfig(**options)
