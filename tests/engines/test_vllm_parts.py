"""What needs no vLLM of its engines: files and digests, reading fused and packed layers, processes, the first error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from agentrl.config import LoraConfig
from agentrl.engines import vllm_process
from agentrl.engines.vllm import VllmEngine
from agentrl.engines.vllm_policy import PolicyFiles
from agentrl.engines.vllm_worker import WeightsExtension
from agentrl.engines.weights import module_hash, tensor_digests
from agentrl.errors import ConfigError, EngineError
from agentrl.learner.policy import Policy
from tests.engines.small import make_model

PROMPT = [[7, 20, 33, 8, 61]]


def adapted(**changes: Any) -> Policy:
    policy = Policy(make_model(**changes), lora=LoraConfig(rank=4, alpha=8), precision="fp32")
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.1)
    return policy


def test_without_vllm_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm.platforms", None)
    with pytest.raises(ConfigError, match=r"pip install 'agentrl\[vllm\]'"):
        VllmEngine.for_policy(make_model(), stop_ids=[5])


# -- files and digests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_a_written_policy_loads_as_the_same_weights_with_the_same_hash(tmp_path: Path, tied: bool) -> None:
    model = make_model(tie_word_embeddings=tied)
    published = PolicyFiles(model, torch.float32).write(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert module_hash(again) == module_hash(model) == published.check(dict(published.expected))
    assert "lm_head.weight" in published.expected
    assert ("lm_head.weight" in published.distinct) is not tied


def test_adapters_are_merged_into_what_is_written(tmp_path: Path) -> None:
    policy = adapted()
    PolicyFiles(policy.model, torch.float32).write(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.tensor(PROMPT)
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, policy.model(ids).logits, atol=1e-4, rtol=0)
        assert float((again(ids).logits - make_model()(ids).logits).abs().max()) > 0.1


def test_an_adapter_is_written_as_peft_reads_it(tmp_path: Path) -> None:
    from peft import PeftModel

    policy = adapted()
    files = PolicyFiles(policy.model, torch.float32, "adapter")
    base = files.write(tmp_path / "base")
    published = files.write_adapter(tmp_path / "adapter", base)
    assert files.rank == 8
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    ids = torch.tensor(PROMPT)
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, policy.model(ids).logits, atol=1e-5, rtol=0)
    assert published.check(dict(published.expected)) != base.check(dict(base.expected))


@pytest.mark.parametrize("change", ["other numbers", "missing", "a stray adapter"])
def test_an_engine_that_serves_anything_else_is_found_out(tmp_path: Path, change: str) -> None:
    published = PolicyFiles(make_model(), torch.float32).write(tmp_path / "model")
    served = dict(published.expected)
    if change == "other numbers":
        served["model.layers.1.mlp.up_proj.weight"] = "0" * 64
    elif change == "missing":
        del served["lm_head.weight"]
    else:
        served["model.layers.1.mlp.up_proj.lora_B"] = "0" * 64
    with pytest.raises(EngineError, match=r"not the published ones: it .* '(lm_head|model\.layers\.1\.mlp\.up_proj)"):
        published.check(served)


@pytest.mark.parametrize(
    ("lora", "message"), [(None, "needs a policy with LoRA"), (LoraConfig(rank=513), "holds ranks up to 512")]
)
def test_an_adapter_that_vllm_cannot_hold_is_refused(lora: LoraConfig | None, message: str) -> None:
    policy = Policy(make_model(), lora=lora, precision="fp32")
    with pytest.raises(ConfigError, match=message):
        PolicyFiles(policy.model, torch.float32, "adapter")


# -- in the worker -----------------------------------------------------------------------------------------------------


class Packed:
    """Applies a matrix that the layer no longer shows, as vLLM's layers do on a CPU."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    def apply(self, layer: Any, rows: torch.Tensor, bias: Any) -> torch.Tensor:
        return rows @ self.weight.t()


def served_model(packed: bool) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A fused projection with a bias, a padded head, a norm; and the checkpoint that it was made from."""
    draw = torch.Generator().manual_seed(0)
    parts = {f"mix.{name}_proj.weight": torch.randn(size, 6, generator=draw) for name, size in (("q", 4), ("k", 2))}
    biases = {f"mix.{name}_proj.bias": torch.randn(size, generator=draw) for name, size in (("q", 4), ("k", 2))}
    head = torch.randn(5, 6, generator=draw)
    model = nn.Module()
    model.mix, model.norm, model.lm_head = nn.Module(), nn.LayerNorm(6, bias=False), nn.Module()
    model.mix.qk_proj = layer(torch.cat(list(parts.values())), packed, hidden=True)
    model.mix.qk_proj.bias = nn.Parameter(torch.cat(list(biases.values())))
    model.mix.qk_proj.output_sizes = [4, 2]
    padded = layer(torch.cat([head, torch.zeros(3, 6)]), packed, hidden=False)
    padded.org_vocab_size = 5
    model.lm_head = padded
    model.packed_modules_mapping = {"qk_proj": ["q_proj", "k_proj"]}
    return model, {**parts, **biases, "norm.weight": model.norm.weight, "lm_head.weight": head}


def layer(weight: torch.Tensor, packed: bool, hidden: bool) -> nn.Module:
    made = nn.Module()
    made.weight = nn.Parameter(torch.empty(0) if packed and hidden else weight)
    made.input_size, made.params_dtype, made.quant_method = weight.shape[1], weight.dtype, Packed(weight)
    if packed:
        made.cpu_linear = True
    return made


def digests(model: nn.Module) -> dict[str, str]:
    extension = WeightsExtension()
    extension.model_runner = SimpleNamespace(get_model=lambda: model)
    return extension.agentrl_digests()


@pytest.mark.parametrize("packed", [True, False])
def test_served_weights_are_read_as_the_checkpoints_tensors(packed: bool) -> None:
    model, checkpoint = served_model(packed)
    assert digests(model) == tensor_digests(checkpoint)


def test_a_head_whose_packed_copy_is_old_does_not_pass_for_the_new_one() -> None:
    model, checkpoint = served_model(packed=True)
    with torch.no_grad():
        model.lm_head.weight[:5] += 1.0  # the rows that are looked up; the packed copy stays
    found = digests(model)["lm_head.weight"]
    assert found not in tensor_digests({"new": checkpoint["lm_head.weight"] + 1.0, "old": checkpoint["lm_head.weight"]})


# -- processes ---------------------------------------------------------------------------------------------------------


def test_a_whole_tree_is_ended() -> None:
    parent = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60 & wait"])
    while len(family := vllm_process.tree(parent.pid)) < 3:
        assert parent.poll() is None
    assert all(process.alive for process in family)
    vllm_process.end(family)
    assert not any(process.alive for process in family)
    parent.wait()
    assert vllm_process.tree(parent.pid) == []


def test_an_id_that_was_given_to_another_process_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        stale = vllm_process.Process(child.pid, "1")
        assert not stale.alive
        vllm_process.end([stale])
        assert child.poll() is None
        child.kill()


def test_a_start_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)
    before = dict(os.environ)
    with vllm_process.environment(compiled=False):
        assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
        assert os.environ["VLLM_NO_USAGE_STATS"] == os.environ["TORCH_COMPILE_DISABLE"] == "1"
    assert dict(os.environ) == before
    with vllm_process.environment(compiled=True):
        assert "TORCH_COMPILE_DISABLE" not in os.environ


def test_written_configurations_name_the_architecture(tmp_path: Path) -> None:
    PolicyFiles(make_model(), torch.bfloat16).write(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
