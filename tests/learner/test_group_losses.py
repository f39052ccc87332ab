"""PACS, ROVER, RAPO and DSDR through the learner: the cut changes nothing, and each recipe takes a step."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agentrl import advantages, assembly
from agentrl.advantages import attribute, credited_batch, tables_of
from agentrl.config import LoraConfig, OptimiserConfig, load_config
from agentrl.errors import ConfigError
from agentrl.learner import Learner, Policy
from agentrl.learner.batch import PackedTokens, flatten
from agentrl.learner.divergence import forward_kl
from agentrl.needs import union
from agentrl.objectives import build_objective, build_regulariser
from agentrl.trajectory import Trajectory
from tests.learner.tiny_models import make_model, make_trajectory

DSDR_LOCAL = {"name": "dsdr_local", "coefficient": 0.1}
RAPO_EXACT = {"name": "rapo", "alpha": 0.3, "kl_mode": "exact"}
RAPO_SAMPLED = {"name": "rapo", "alpha": 0.3}


def episodes(groups: int = 3, size: int = 4, seed: int = 0) -> list[list[Trajectory]]:
    """Groups of one to three turns, some rewritten, with the first group's rewards all equal."""
    rng = random.Random(seed)
    found = []
    for group in range(groups):
        members = []
        for member in range(size):
            item = make_trajectory(rng, turns=1 + (group + member) % 3, fork=member == 2)
            item.task_id, item.member = f"task-{group}", member
            good = group == 0 or (group + member) % 2
            item.turns[-1].reward, item.metrics = float(good), {"correct": float(good)}
            members.append(item)
        found.append(members)
    return found


def learner(loss: Any, *, lora: LoraConfig | None = None, **options: Any) -> Learner:
    settings = {"lr": 1e-2, "grad_clip": 1e9} | {
        name: options.pop(name) for name in list(options) if name in OptimiserConfig.model_fields
    }
    policy = Policy(make_model(), lora=lora, precision="fp32")
    return Learner(
        policy,
        objective=build_objective(loss),
        regularisers=[build_regulariser(spec) for spec in options.pop("regularisers", [])],
        optimiser=OptimiserConfig(**settings),
        **options,
    )


def trained(own: Learner, specs: list[Any]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights after one update of the batch, and what it reported."""
    groups = episodes()
    transforms = advantages.build(specs)
    flat = [member for members in groups for member in members]
    columns = iter(own.score(flat, union(item.needs for item in transforms)))
    credits = attribute(transforms, [tables_of(members, [next(columns) for _ in members]) for members in groups])
    batch = credited_batch(credits)
    metrics = own.update(batch.trajectories, batch.advantages, columns=batch.columns)
    return {name: weight.detach().clone() for name, weight in own.policy.trainable().items()}, metrics


def largest_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


CASES: dict[str, tuple[Any, list[Any], dict[str, Any]]] = {
    "pacs": ("pacs", ["rloo", "drop_equal"], {"reduction": "seq_mean_token_mean", "minibatches": 1}),
    "pacs_keep": ("pacs", ["rloo"], {"reduction": "seq_mean_token_mean"}),
    "rover": ("rover", ["dr_grpo"], {}),
    "rapo_sampled": ("clip", ["grpo"], {"regularisers": [RAPO_SAMPLED, "entropy"]}),
    "rapo_exact": ("clip", ["grpo"], {"regularisers": [RAPO_EXACT]}),
    "dsdr": ("clip", ["dsdr", "grpo"], {"regularisers": [DSDR_LOCAL]}),
}


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_change_nothing(case: str) -> None:
    """Several inner steps with SGD-like updates, so that every step's gradient is in what is compared."""
    loss, specs, options = CASES[case]
    shared = {"minibatches": 2, "epochs": 2, "eps": 1e3, "lr": 100.0, **options}
    whole, report = trained(learner(loss, micro_batch_tokens=10_000, **shared), specs)
    cut, other = trained(learner(loss, micro_batch_tokens=1, **shared), specs)
    start = {name: weight.detach() for name, weight in learner(loss, **options).policy.trainable().items()}
    moved = largest_difference(whole, start)
    assert moved > 1e-3
    assert largest_difference(whole, cut) < 1e-4 * moved
    assert other["loss"] == pytest.approx(report["loss"], abs=1e-5)
    assert other["update/micro_batches"] > report["update/micro_batches"]


def test_a_group_stays_whole_in_every_micro_batch_of_pacs() -> None:
    own = learner("pacs", reduction="seq_mean_token_mean", micro_batch_tokens=1)
    assert trained(own, ["rloo"])[1]["update/micro_batches"] == 3
    assert trained(own, ["rloo", "drop_equal"])[1]["update/micro_batches"] == 2


def test_forks_of_rovers_trajectories_are_one_sequence_of_states() -> None:
    """At old = new nothing bootstraps; after a step the targets differ from the advantages, by the next state alone."""
    own = learner("rover", epochs=2)
    _, metrics = trained(own, ["dr_grpo"])
    assert abs(metrics["rover/next_value"]) > 1e-6
    assert metrics["rover/target"] != pytest.approx(0.0, abs=1e-7)
    frozen = learner("rover", behaviour="recomputed")
    _, metrics = trained(frozen, ["dr_grpo"])
    assert metrics["rover/q"] == pytest.approx(0.0, abs=1e-7)
    assert metrics["rover/next_value"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)])
def test_the_exact_divergence_is_that_of_whole_logits(lora: LoraConfig | None) -> None:
    """Value and gradient of KL(pihat || policy) against plain autograd, in the learner and under adapters."""
    own = learner("clip", lora=lora, regularisers=[{**RAPO_EXACT, "alpha": 1.0}], temperature=0.7)
    with torch.no_grad():  # move away from the reference
        for index, weight in enumerate(own.policy.trainable().values()):
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(index))
    rows = flatten([episodes()[1][1]], [np.zeros(episodes()[1][1].num_policy_tokens)])[:1]
    tokens = PackedTokens.of(rows)
    phi = torch.linspace(0.2, 1.0, len(tokens.targets))

    states = own.policy.states(tokens)
    value = own.policy.forward_kl(tokens, states, phi, 0.7)
    value.sum().backward()  # type: ignore[no-untyped-call]
    found = {name: weight.grad.clone() for name, weight in own.policy.trainable().items() if weight.grad is not None}
    assert found
    for weight in own.policy.trainable().values():
        weight.grad = None

    def whole_logits(model: Any) -> Tensor:
        logits: Tensor = model(input_ids=tokens.input_ids, use_cache=False).logits[0][tokens.sources] / 0.7
        return logits

    with own.policy.reading(reference=True) as reader:
        log_q = (phi[:, None] * whole_logits(reader.model)).log_softmax(-1).clone()
    log_p = whole_logits(own.policy.model).log_softmax(-1)
    plain = (log_q.exp() * (log_q - log_p)).sum(-1)
    assert value.tolist() == pytest.approx(plain.tolist(), abs=1e-5)
    assert float(plain.detach().min()) > 1e-3
    plain.sum().backward()  # type: ignore[no-untyped-call]
    expected = {name: weight.grad for name, weight in own.policy.trainable().items() if weight.grad is not None}
    assert found.keys() == expected.keys()
    assert largest_difference(found, expected) < 1e-4


def test_chunks_of_the_vocabulary_head_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head, other = torch.nn.Linear(6, 11), torch.nn.Linear(6, 11)
    hidden, reference, phi = torch.randn(7, 6, requires_grad=True), torch.randn(7, 6), torch.rand(7)

    def run() -> tuple[Tensor, Tensor, Tensor]:
        value = forward_kl(hidden, head, reference, other, phi, 1.3)
        return value.detach(), *torch.autograd.grad(value.square().sum(), [hidden, head.weight])

    whole = run()
    monkeypatch.setattr("agentrl.learner.divergence.CHUNK_ELEMENTS", 22)
    for left, right in zip(whole, run(), strict=True):
        assert torch.allclose(left, right, atol=1e-6)


def test_phi_follows_the_reward_of_the_trajectory() -> None:
    """Trajectories that differ in nothing but the reward are drawn to different references."""
    (member, *_), *_ = episodes()
    members = [replace(member, member=index, turns=[replace(turn) for turn in member.turns]) for index in range(2)]
    members[1].turns[-1].reward = 0.0
    own = learner("clip", regularisers=[RAPO_SAMPLED])
    scores = own.score(members, own.needs)
    (name,) = own.needs
    low, high = scores[1][name], scores[0][name]
    assert np.abs(low - high).max() > 0.01
    plain = own.score(members[:1], frozenset({"reference"}))[0]["reference"]
    assert high == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("name", ["pacs", "rover", "rapo", "dsdr"])
def test_the_recipe_takes_a_step(name: str) -> None:
    config = load_config(recipe=name)
    assert assembly.check(config)
    config.model.precision, config.loss.mismatch_bound = "fp32", None
    policy = Policy(make_model(), precision="fp32")
    own = assembly.build_learner(config, policy)
    before = {key: weight.detach().clone() for key, weight in policy.trainable().items()}
    after, metrics = trained(own, config.advantages)
    assert own.steps > 0
    assert largest_difference(before, after) > 0
    own_metrics = {"pacs": "pacs/accuracy", "rover": "rover/error", "rapo": "rapo/kl", "dsdr": "dsdr/local"}
    assert np.isfinite(metrics[own_metrics[name]])


def test_the_local_term_without_its_transform_is_refused_at_start() -> None:
    with pytest.raises(ConfigError, match="diversity_weight"):
        assembly.check(load_config(recipe="dsdr", overrides=["advantages=[grpo]"]))


def test_pacs_with_another_reduction_is_refused_at_start() -> None:
    with pytest.raises(ConfigError, match="seq_mean_token_mean"):
        assembly.check(load_config(recipe="pacs", overrides=["loss.reduction=token_mean"]))


def test_a_current_quantity_that_no_pass_computes_is_refused() -> None:
    objective = build_objective("clip")
    objective.current = frozenset({"backward_kl"})
    with pytest.raises(ConfigError, match="backward_kl"):
        Learner(Policy(make_model(), precision="fp32"), objective=objective)
