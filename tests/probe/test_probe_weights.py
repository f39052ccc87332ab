"""Checkpoints of every kind, read tensor by tensor: the same numbers as the whole model has."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from agentrl.config import LoraConfig
from agentrl.errors import ConfigError, ModelError
from agentrl.learner.policy import Policy
from agentrl.models import load_model, resolve
from agentrl.observe import Observer
from agentrl.probe import probe
from agentrl.probe.layers import place_of
from agentrl.probe.weights import Weights, open_weights
from tests.learner.tiny_models import make_model
from tests.models.conftest import _write_gguf as write_gguf


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    make_model().save_pretrained(folder)
    return folder


def copy_of(folder: Path, target: Path, change: float = 0.0, only: str = "", **replaced: Tensor) -> Path:
    """A copy of a model with noise of size `change` on the tensors whose name holds `only`."""
    target.mkdir(parents=True)
    (target / "config.json").write_text((folder / "config.json").read_text())
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(folder / "model.safetensors")
    noisy = {
        name: tensor + change * torch.randn(tensor.shape, generator=generator) if only in name else tensor
        for name, tensor in tensors.items()
    }
    save_file(noisy | replaced, target / "model.safetensors")
    return target


def contents(name: str | Path) -> dict[str, Tensor]:
    with open_weights(str(name)) as weights:
        return {key: weights.read(key) for key in weights.entries}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert set(left) == set(right)
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


# ------------------------------------------------------------------------------------------------------ kinds of files


def test_a_folder_in_either_format_whole_or_in_shards(base: Path, tmp_path: Path) -> None:
    expected = contents(base)
    assert all(tensor.dtype == torch.float32 for tensor in expected.values())
    assert "lm_head.weight" not in expected, "tied embeddings are one tensor"
    model = make_model()
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert_same(contents(tmp_path / "shards"), expected)
    older = tmp_path / "older"
    older.mkdir()
    (older / "config.json").write_text((base / "config.json").read_text())
    torch.save(model.state_dict(), older / "pytorch_model.bin")
    assert_same(contents(older), expected)


def test_a_gguf_file_is_the_model_that_it_converts_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "small.gguf")
    found = contents(tmp_path / "small.gguf")
    model = load_model(resolve(str(tmp_path / "small.gguf")))
    for name, tensor in found.items():
        assert torch.equal(tensor, model.get_parameter(name)), name
    assert "model.layers.0.self_attn.q_proj.weight" in found


def test_a_model_stored_in_bfloat16_has_no_hidden_updates(base: Path, tmp_path: Path) -> None:
    served = tmp_path / "served"
    make_model().bfloat16().save_pretrained(served)
    report = probe(str(base), str(served))
    found = report.total().figures()
    assert report.after["stored"] == ["bfloat16"]
    assert found["sparsity_bf16"] == 1
    assert found["sparsity_fp32"] < 0.1
    assert found["hidden"] > 0.9


def test_a_run_is_its_policy_and_a_checkpoint_its_weights(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    copy_of(base, run / "policy", 1e-2)
    (run / "config.yaml").write_text("name: run\n")
    assert_same(contents(run), contents(run / "policy"))
    step = run / "checkpoints" / "step-00000001"
    step.mkdir(parents=True)
    (step / "manifest.json").write_text("{}")
    save_file(load_file(run / "policy" / "model.safetensors"), step / "model.safetensors")
    assert_same(contents(step), contents(run / "policy"))
    assert probe(str(run), str(step)).total().figures()["sparsity_fp32"] == 1


def test_an_adapter_is_merged_as_peft_merges_it(base: Path, tmp_path: Path) -> None:
    """Rank and alpha by pattern, a rank-stabilised scale, a module trained as a whole, and none of it by accident."""
    for number, settings in enumerate(
        (
            {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]},
            {"r": 4, "target_modules": "all-linear", "use_rslora": True, "modules_to_save": ["embed_tokens"]},
            {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"0.*v_proj": 3}},
        )
    ):
        model = make_model()
        model.name_or_path = str(base)
        with torch.random.fork_rng():
            torch.manual_seed(number)
            adapted = peft.get_peft_model(model, peft.LoraConfig(init_lora_weights=False, **settings))
            folder = tmp_path / f"adapter-{number}"
            adapted.save_pretrained(str(folder))
        merged = adapted.merge_and_unload()
        expected = {key: value for key, value in merged.state_dict().items() if key != "lm_head.weight"}
        found = contents(folder)
        assert_same(found, expected)
        query = "model.layers.0.self_attn.q_proj.weight"
        assert not torch.equal(found[query], contents(base)[query])


def test_a_policys_adapter_is_its_merged_model(base: Path, tmp_path: Path) -> None:
    model = make_model()
    model.name_or_path = str(base)
    policy = Policy(model, lora=LoraConfig(rank=2), precision="fp32")
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(0.01)
    policy.save_pretrained(tmp_path / "policy")
    assert_same(contents(tmp_path / "policy" / "adapter"), contents(tmp_path / "policy"))
    types = probe(str(base), str(tmp_path / "policy" / "adapter")).by_type()
    assert types["embedding"].figures()["sparsity_fp32"] == 1
    assert types["q"].figures()["sparsity_fp32"] == 0


# ----------------------------------------------------------------------------------------------------- what is reported


def test_figures_by_type_and_depth_add_up(base: Path, tmp_path: Path) -> None:
    after = copy_of(base, tmp_path / "after", 1e-2, only="layers.1.mlp")
    report = probe(str(base), str(after))
    types, tree = report.by_type(), report.to_dict()
    assert list(types) == ["q", "k", "v", "o", "gate", "up", "down", "embedding", "vector"]
    assert sum(sums.entries for sums in types.values()) == report.total().entries == tree["model"]["entries"]
    moved = {kind for kind, sums in types.items() if sums.changed_bf16}
    assert moved == {"gate", "up", "down"}
    assert report.depths() == [0, 1]
    assert tree["depths"]["0"]["sparsity_fp32"] == 1
    assert tree["depths"]["1"]["sparsity_fp32"] < 1
    assert tree["types"]["up"]["nss"] <= tree["types"]["up"]["frobenius_ratio"]
    assert all(item["sparsity_fp32"] <= item["sparsity_bf16"] for item in tree["tensors"])


def test_a_second_run_that_changed_the_same_entries_agrees(base: Path, tmp_path: Path) -> None:
    first, second = (
        copy_of(base, tmp_path / name, 1e-2, only=part) for name, part in (("a", "q_proj"), ("b", "_proj"))
    )
    found = probe(str(base), str(first), str(second))
    assert found.by_type()["q"].figures()["agreement"] > found.by_type()["k"].figures()["agreement"] == 0
    assert probe(str(base), str(first), str(first)).total().figures()["agreement"] == 1
    assert probe(str(base), str(first)).total().figures()["agreement"] is None


def test_one_tensor_of_each_checkpoint_is_read_at_a_time(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loads and the progress interleave: before, after, advance, before, after, advance ..."""
    events: list[str] = []
    read = Weights.read

    def watched(self: Weights, name: str) -> Tensor:
        events.append(name)
        return read(self, name)

    class Watch(Observer):
        def phase(self, name: str, total: int | None = None) -> None:
            events.append(f"total {total}")

        def advance(self, count: int = 1, **values: float) -> None:
            events.append("done")

    monkeypatch.setattr(Weights, "read", watched)
    report = probe(str(base), str(base), observer=Watch())
    names = [item.name for item in report.tensors]
    assert events == [f"total {len(names)}", *(event for name in names for event in (name, name, "done"))]


@pytest.mark.parametrize(
    ("name", "shape", "kind", "depth"),
    [
        ("model.layers.12.self_attn.q_proj.weight", (4, 4), "q", 12),
        ("model.layers.3.mlp.experts.7.down_proj.weight", (4, 4), "down", 3),
        ("model.layers.3.mlp.experts.gate_up_proj", (8, 4, 4), "vector", 3),
        ("model.layers.0.self_attn.qkv_proj.weight", (4, 4), "other", 0),
        ("model.layers.0.self_attn.q_proj.bias", (4,), "vector", 0),
        ("model.layers.0.self_attn.q_norm.weight", (4,), "vector", 0),
        ("model.embed_tokens.weight", (9, 4), "embedding", None),
        ("lm_head.weight", (9, 4), "embedding", None),
        ("transformer.h.5.mlp.fc_in.weight", (4, 4), "up", 5),
        ("model.norm.weight", (4,), "vector", None),
    ],
)
def test_the_place_of_a_tensor(name: str, shape: tuple[int, ...], kind: str, depth: int | None) -> None:
    place = place_of(name, shape)
    assert (place.kind, place.depth) == (kind, depth)


# ---------------------------------------------------------------------------------------------------------- mistakes


def test_checkpoints_of_two_architectures(base: Path, tmp_path: Path) -> None:
    make_model("qwen3").save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"other' is a qwen3 model, .*base' a llama one"):
        probe(str(base), str(tmp_path / "other"))
    make_model(intermediate_size=40).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ConfigError, match=r"down_proj.weight is \(32, 48\) in .*base' and \(32, 40\) in .*narrow'"):
        probe(str(base), str(tmp_path / "narrow"))


def test_tensors_that_one_side_lacks(base: Path, tmp_path: Path) -> None:
    make_model(num_hidden_layers=1).save_pretrained(tmp_path / "shallow")
    with pytest.raises(ConfigError, match=r"shallow' lacks 9 of the tensors of .*base', the first model.layers.1"):
        probe(str(base), str(tmp_path / "shallow"))
    with pytest.raises(ConfigError, match=r"shallow' lacks 9 of the tensors of .*base'"):
        probe(str(tmp_path / "shallow"), str(base))


def test_quantised_files(base: Path, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    codes = copy_of(base, tmp_path / "codes", **{name: torch.zeros(48, 32, dtype=torch.int8)})
    with pytest.raises(ModelError, match=rf"quantised: {name} is stored as I8"):
        probe(str(base), str(codes))
    config = json.loads((base / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (codes / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"codes' is quantised \(gptq\)"):
        probe(str(base), str(codes))


def test_weights_that_are_not_finite(base: Path, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    broken = copy_of(base, tmp_path / "broken", **{name: torch.full((48, 32), torch.nan)})
    with pytest.raises(ModelError, match=f"{name} has entries that are not finite"):
        probe(str(base), str(broken))


def test_damaged_files(base: Path, tmp_path: Path) -> None:
    broken = copy_of(base, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(ModelError, match=r"model.safetensors cannot be read"):
        probe(str(base), str(broken))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LOHA"}, "of the kind LOHA"),
        ({"use_dora": True}, "of the kind DoRA"),
        ({"init_lora_weights": "pissa"}, "initialised by pissa, which changes the base"),
        ({"base_model_name_or_path": None}, "names no base model"),
    ],
)
def test_adapters_that_are_more_than_lora(base: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    settings = {"peft_type": "LORA", "lora_alpha": 4, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(settings | change))
    save_file({"base_model.model.stray.lora_A.weight": torch.zeros(2, 4)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=message):
        open_weights(str(folder))
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"stray.lora_A.weight fits nothing in its base"):
        open_weights(str(folder))


def test_adapters_that_do_not_fit_their_base(base: Path, tmp_path: Path) -> None:
    folder, place = tmp_path / "adapter", "base_model.model.model.layers.0.self_attn.q_proj"
    folder.mkdir()
    settings = {"peft_type": "LORA", "lora_alpha": 4, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    for a, b in (((2, 64), (32, 2)), ((2, 32), (64, 2)), ((2, 32), (32, 3))):
        pair = {f"{place}.lora_A.weight": torch.zeros(a), f"{place}.lora_B.weight": torch.zeros(b)}
        save_file(pair, folder / "adapter_model.safetensors")
        with pytest.raises(ModelError, match=r"q_proj.lora_A.weight fits nothing in its base"):
            open_weights(str(folder))
    save_file({f"{place}.lora_B.weight": torch.zeros(32, 2)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"q_proj.lora_B.weight fits nothing in its base"):
        open_weights(str(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{bad", r"adapter_config.json cannot be read \(Expecting property name"),
        ("[]", "adapter_config.json is no configuration of peft's"),
        ('{"peft_type": "LORA", "lora_alpha": "much"}', "adapter_config.json is no configuration of peft's"),
        (
            '{"peft_type": "LORA", "base_model_name_or_path": "/nowhere/x"}',
            "adapter': base model '/nowhere/x': there is",
        ),
        ('{"peft_type": "LORA", "base_model_name_or_path": "FOLDER"}', "its base .*adapter' is an adapter itself"),
    ],
)
def test_a_wrong_adapter_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(text.replace("FOLDER", str(folder)))
    save_file({"x.lora_A.weight": torch.zeros(2, 4)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=message):
        open_weights(str(folder))
