"""LoRA that begins with the top singular directions (PiSSA): the same model, the right reference, a plain adapter."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from agentrl.config import CriticConfig, LoraConfig, OptimiserConfig
from agentrl.learner import Learner, Policy, load_checkpoint, save_checkpoint
from agentrl.learner.batch import PackedTokens, flatten
from agentrl.objectives.clip import ClippedRatio
from agentrl.objectives.kl import KL
from agentrl.probe import probe
from agentrl.probe.weights import open_weights
from tests.learner.tiny_models import make_batch, make_model

PISSA = LoraConfig(rank=3, alpha=6.0, init="pissa")
TOKENS = PackedTokens.of(flatten(*make_batch()))


def make_policy(lora: LoraConfig | None = PISSA) -> Policy:
    return Policy(make_model(), lora=lora, precision="fp32")


def make_learner(**options: object) -> Learner:
    settings = OptimiserConfig(lr=1e-2, micro_batch_tokens=60)
    return Learner(
        make_policy(),
        objective=ClippedRatio(),
        regularisers=[KL(beta=0.1)],
        optimiser=settings,
        **options,  # type: ignore[arg-type]
    )


def move(policy: Policy) -> Policy:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return policy


def reference(policy: Policy) -> Tensor:
    with policy.reading(reference=True) as reader:
        return torch.cat([logits for _, logits in reader.logits(reader.hidden(TOKENS), 1.0)])


def close(left: Tensor, right: Tensor) -> bool:
    return float((left - right).detach().abs().max()) < 1e-4


def test_the_adapters_begin_with_the_top_singular_directions() -> None:
    policy, name = make_policy(), "model.layers.0.mlp.up_proj"
    layer = policy.model.get_submodule(name)
    product = layer.get_delta_weight("default")
    u, s, vh = torch.linalg.svd(make_model().get_submodule(name).weight.detach())
    assert close(product, (u[:, :3] * s[:3]) @ vh[:3])
    assert close(layer.base_layer.weight + product, make_model().get_submodule(name).weight)


def test_the_policy_begins_as_the_base_model_and_its_reference_stays_there() -> None:
    policy, plain = make_policy(), make_policy(None)
    base = reference(plain)
    assert close(plain.score(TOKENS).logprobs, policy.score(TOKENS).logprobs)
    move(policy)
    assert not close(plain.score(TOKENS).logprobs, policy.score(TOKENS).logprobs)
    assert close(reference(policy), base), "asked for after the first step, and right all the same"


def test_the_base_alone_would_have_been_a_wrong_reference() -> None:
    policy = make_policy()
    with policy._adapters.wrapper.disable_adapter():  # type: ignore[union-attr]
        off = policy.model(input_ids=TOKENS.input_ids).logits
    assert not torch.allclose(off, make_model()(input_ids=TOKENS.input_ids).logits, atol=1e-2)


def test_ordinary_adapters_still_need_no_copy_for_their_reference() -> None:
    policy = make_policy(LoraConfig(rank=3))
    policy.keep_reference()
    assert policy._reference is None


def test_a_critics_own_trunk_begins_as_the_model_did() -> None:
    policy = make_policy()
    move(policy)
    start = policy.copy_of_start().state_dict()
    for name, weight in make_model().state_dict().items():
        assert close(start[name], weight), name
    learner = make_learner(critic=CriticConfig(kind="own"))
    assert learner.critic is not None


def test_a_saved_policy_is_the_merged_model_and_its_adapter_an_ordinary_one(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path / "base")
    model = make_model()
    model.name_or_path = str(tmp_path / "base")
    policy = move(Policy(model, lora=PISSA, precision="fp32"))
    policy.save_pretrained(tmp_path / "policy")
    merged = load_file(tmp_path / "policy" / "model.safetensors")
    adapted = peft.PeftModel.from_pretrained(make_model(), str(tmp_path / "policy" / "adapter"))
    assert adapted.peft_config["default"].r == 6
    loaded = adapted.merge_and_unload().state_dict()
    with open_weights(str(tmp_path / "policy" / "adapter")) as probed:
        for name, weight in merged.items():
            assert close(loaded[name], weight), name
            assert close(probed.read(name), weight), name
    assert probe(str(tmp_path / "base"), str(tmp_path / "policy" / "adapter")).by_type()["q"].changed_bf16 > 0


def test_resumed_training_equals_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    straight = make_learner()
    for seed in range(3):
        straight.update(*make_batch(seed))
    first = make_learner()
    first.update(*make_batch(0))
    path = save_checkpoint(tmp_path, first, 1, {})
    second = make_learner()
    load_checkpoint(path, second)
    for seed in (1, 2):
        second.update(*make_batch(seed))
    assert torch.equal(reference(straight.policy), reference(second.policy))
    left, right = straight.policy.trainable(), second.policy.trainable()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("init", ["default", "pissa"])
def test_adapters_start_the_same_in_every_process_and_leave_the_random_state_alone(init: str) -> None:
    state = torch.get_rng_state()
    lora = LoraConfig(rank=3, init=init)  # type: ignore[arg-type]
    first, second = (make_policy(lora).trainable() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
