"""The policy: exactness of scoring, references, precision, what is refused, what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
)

from agentrl.config import LoraConfig
from agentrl.errors import ModelError
from agentrl.learner import Policy
from agentrl.learner.batch import PackedTokens, flatten
from tests.learner.tiny_models import make_batch, make_model

LORA = LoraConfig(rank=4, alpha=8.0)


def tokens() -> PackedTokens:
    return PackedTokens.of(flatten(*make_batch()))


def plain_logprobs(model: PreTrainedModel, temperature: float = 1.0) -> torch.Tensor:
    """The policy tokens' log-probabilities by transformers' own forward pass, one row at a time."""
    model.set_attn_implementation("sdpa")
    pieces = []
    for row in flatten(*make_batch()):
        ids, positions = torch.from_numpy(row.ids), torch.from_numpy(row.positions)
        with torch.no_grad():
            log_p = torch.log_softmax(model(ids[None]).logits[0].float() / temperature, -1)
        pieces.append(log_p[positions - 1, ids[positions]])
    return torch.cat(pieces)


def reference_logprobs(policy: Policy) -> torch.Tensor:
    packed = tokens()
    with policy.reading(reference=True) as reader:
        ((_, logits),) = reader.logits(reader.hidden(packed)[packed.sources], 1.0)
    return logits.log_softmax(-1).gather(1, packed.targets[:, None])[:, 0]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_scores_are_those_of_the_models_own_forward_pass(family: str) -> None:
    own = Policy(make_model(family), precision="fp32").score(tokens(), temperature=0.7).logprobs
    assert (own - plain_logprobs(make_model(family), 0.7)).abs().max() < 1e-5


def test_bf16_autocast_is_close_keeps_float32_weights_and_gradients() -> None:
    policy = Policy(make_model(), precision="bf16")
    scores = policy.score(tokens())
    scores.logprobs.sum().backward()
    difference = (scores.logprobs - plain_logprobs(make_model())).abs().max()
    assert 1e-5 < difference < 0.2
    assert scores.logprobs.dtype == torch.float32
    assert {weight.dtype for weight in policy.trainable().values()} == {torch.float32}
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in policy.trainable().values())


def test_a_half_precision_model_gets_float32_weights() -> None:
    policy = Policy(make_model().bfloat16(), precision="fp32")
    assert {weight.dtype for weight in policy.trainable().values()} == {torch.float32}


def test_lora_trains_adapters_only_and_its_reference_is_the_base_model() -> None:
    policy = Policy(make_model(), lora=LORA, precision="fp32")
    assert policy.trainable()
    assert all("lora_" in name for name in policy.trainable())
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(0.1)
    base = plain_logprobs(make_model())
    assert (reference_logprobs(policy) - base).abs().max() < 1e-5
    moved = policy.score(tokens()).logprobs
    assert (moved - base).abs().max() > 0.01
    assert all(weight.requires_grad for weight in policy.trainable().values())
    moved.sum().backward()
    assert all(weight.grad is None for name, weight in policy.model.named_parameters() if "lora_" not in name)


def test_adapters_start_the_same_in_every_process_and_leave_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    first, second = (Policy(make_model(), lora=LORA, precision="fp32").trainable() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_full_policys_reference_stays_where_it_was_kept() -> None:
    policy = Policy(make_model(), precision="fp32")
    policy.keep_reference()
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.mul_(1.5)
    policy.keep_reference()
    assert (reference_logprobs(policy) - plain_logprobs(make_model())).abs().max() < 1e-5


def test_gradient_checkpointing_changes_no_bit_and_leaves_evaluation_mode() -> None:
    gradients = []
    for checkpointing in (False, True):
        policy = Policy(make_model(), precision="fp32", gradient_checkpointing=checkpointing)
        policy.score(tokens()).logprobs.sum().backward()
        assert not policy.model.training
        gradients.append([weight.grad for weight in policy.trainable().values()])
    assert all(torch.equal(left, right) for left, right in zip(*gradients, strict=True))


def test_gradient_checkpointing_does_recompute() -> None:
    policy = Policy(make_model(), precision="fp32", gradient_checkpointing=True)
    calls = []
    policy.model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    policy.score(tokens()).logprobs.sum().backward()
    assert len(calls) == 2


def test_dropout_is_removed() -> None:
    policy = Policy(make_model(attention_dropout=0.5), precision="fp32", gradient_checkpointing=True)
    assert torch.equal(policy.score(tokens()).logprobs, policy.score(tokens()).logprobs)
    assert all(module.p == 0 for module in policy.model.modules() if isinstance(module, nn.Dropout))


SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "initializer_range": 0.5}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}


@pytest.mark.parametrize(
    "model",
    [
        Gemma2ForCausalLM(Gemma2Config(**SMALL, **HEADS, final_logit_softcapping=None)),
        Gemma2ForCausalLM(Gemma2Config(**SMALL, **HEADS, attn_logit_softcapping=None, final_logit_softcapping=1.0)),
        GraniteForCausalLM(GraniteConfig(**SMALL, num_attention_heads=2, num_key_value_heads=1, logits_scaling=8.0)),
        MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4)),
    ],
    ids=["capped attention", "capped logits", "scaled logits", "recurrent"],
)
def test_models_that_packing_would_change_are_refused_in_one_line(model: PreTrainedModel) -> None:
    with pytest.raises(ModelError, match=type(model).__name__) as caught:
        Policy(model, precision="fp32")
    assert "\n" not in str(caught.value)


def test_unknown_target_modules_are_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match="target_modules") as caught:
        Policy(make_model(), lora=LoraConfig(target_modules=["nowhere"]))
    assert "\n" not in str(caught.value)


def test_other_architectures_with_the_attention_interface_are_exact() -> None:
    config = GPT2Config(vocab_size=97, n_embd=16, n_layer=2, n_head=2, n_positions=128, initializer_range=0.2)
    model = GPT2LMHeadModel(config).eval()
    own = Policy(model, precision="fp32").score(tokens()).logprobs.detach()
    assert (own - plain_logprobs(model)).abs().max() < 1e-5


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_saved_policy_loads_like_any_model(tmp_path: Path, lora: LoraConfig | None) -> None:
    policy = Policy(make_model(), lora=lora, precision="fp32")
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(0.05)
    policy.save_pretrained(tmp_path)
    own = policy.score(tokens()).logprobs.detach()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert (plain_logprobs(loaded) - own).abs().max() < 1e-5
    assert (tmp_path / "adapter" / "adapter_config.json").exists() == (lora is not None)
    assert not (tmp_path / "adapter_config.json").exists()
