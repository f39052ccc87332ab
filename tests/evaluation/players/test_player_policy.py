"""Local models: names, folders, runs, adapters; what they record, and what is refused before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from agentrl.config import LoraConfig, RunConfig
from agentrl.engines.weights import module_hash
from agentrl.errors import ConfigError
from agentrl.evaluation.players import PlayerKind, PlayerSettings, resolve_player, run_of
from agentrl.evaluation.players.runs import with_run
from agentrl.learner import Policy
from agentrl.models.tiny import build_tiny
from tests.evaluation.players.playing import play, play_model, records, requests, said, source, tiny_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("models") / "seed1", seed=1)


def lora_on(base: Path, target: Path, **options: Any) -> torch.nn.Module:
    """A random adapter of the model in `base`; returns the merged model."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", **options)
    adapted = peft.get_peft_model(model, settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(0.0, 0.2, generator=generator)
    adapted.save_pretrained(str(target))
    return adapted.merge_and_unload(safe_merge=True)  # type: ignore[no-any-return]


# -- what is played ----------------------------------------------------------------------------------------------------


async def test_a_model_plays_several_environments_with_the_tools_of_each(folder: Path) -> None:
    settings = PlayerSettings(max_turn_tokens=10, max_context=1000, tool_prompt="signature", top_p=0.9)
    player = resolve_player(str(folder), settings)
    assert (player.kind, player.weights_hash) == (PlayerKind.POLICY, None)
    played = await play(
        player, [source("arithmetic"), source("search")], [*requests("arithmetic"), *requests("search")]
    )
    assert len(played) == 4
    hashes = {turn.weights_hash for episode in records(played) for turn in episode.turns}
    assert hashes == {module_hash(build_tiny(1)[0])}
    for request, episode in played:
        shown = build_tiny()[1].decode(episode.context_ids(0))
        assert ("search(" in shown, "calculator(" in shown) == (
            request.entry == "search",
            request.entry == "arithmetic",
        )
        assert episode.prompt_tokens == sum(episode.context_lengths()) > 0
        assert episode.completion_tokens == episode.num_policy_tokens > 0
        assert "token_entropy" not in episode.info


async def test_the_hash_is_known_once_it_is_loaded(folder: Path) -> None:
    player = resolve_player(str(folder))
    await player.start()
    await player.start()
    assert player.weights_hash == module_hash(build_tiny(1)[0])
    described = player.describe()
    assert described["weights_hash"] == player.weights_hash
    assert (described["engine"], described["precision"], described["tool_prompt"]) == ("transformers", "fp32", "schema")
    json.dumps(described)
    await player.close()
    await player.close()


async def test_twice_the_same_and_the_name_does_not_matter(folder: Path) -> None:
    first, again = [await play_model(str(folder)) for _ in range(2)]
    assert said(first) == said(again)
    assert said(await play_model("tiny")) != said(first)


async def test_token_entropy_is_the_mean_of_each_turn() -> None:
    played = await play_model("tiny", token_entropy=True, temperature=0.7)
    for episode in records(played):
        entropies = episode.info["token_entropy"]
        assert len(entropies) == len(episode.turns) > 0
        assert all(3.0 < entropy < 5.1 for entropy in entropies)  # an untrained model, 132 tokens: at most 4.88 nats


async def test_a_precision_is_what_is_served(folder: Path) -> None:
    played = await play_model(str(folder), precision="bf16")
    model = build_tiny(1)[0].to(torch.bfloat16)
    hashes = {turn.weights_hash for episode in records(played) for turn in episode.turns}
    assert hashes == {module_hash(model)}


# -- adapters and runs -------------------------------------------------------------------------------------------------


async def test_an_adapter_is_played_as_the_merged_model(folder: Path, tmp_path: Path) -> None:
    merged = lora_on(folder, tmp_path / "adapter")
    played = await play_model(str(tmp_path / "adapter"))
    hashes = {turn.weights_hash for episode in records(played) for turn in episode.turns}
    assert hashes == {module_hash(merged)} != {module_hash(build_tiny(1)[0])}
    player = resolve_player(str(tmp_path / "adapter"))
    assert player.describe()["base"] == str(folder)


async def test_the_base_of_an_adapter_that_has_moved(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    lora_on(moved, tmp_path / "adapter")
    shutil.rmtree(moved)
    with pytest.raises(ConfigError, match=r"adapter '.*' needs its base model, give it with --base: .*no such folder"):
        resolve_player(str(tmp_path / "adapter"))
    assert records(await play_model(str(tmp_path / "adapter"), base=str(folder)))
    broken = tmp_path / "adapter" / "adapter_config.json"
    settings = json.loads(broken.read_text())
    broken.write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    with pytest.raises(ConfigError, match="names no base model: give it with --base"):
        resolve_player(str(tmp_path / "adapter"))
    broken.write_text("{")
    with pytest.raises(ConfigError, match=r"its adapter_config.json cannot be read"):
        resolve_player(str(tmp_path / "adapter"))
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    broken.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="has no weights"):
        resolve_player(str(tmp_path / "adapter"))


async def test_an_adapter_of_another_model_is_one_line(folder: Path, tmp_path: Path) -> None:
    lora_on(folder, tmp_path / "adapter")
    from transformers import Qwen3Config, Qwen3ForCausalLM

    other = tmp_path / "other"
    config = Qwen3Config(**{**json.loads((folder / "config.json").read_text()), "hidden_size": 64})
    Qwen3ForCausalLM(config).save_pretrained(other)
    build_tiny()[1].save_pretrained(other)
    with pytest.raises(ConfigError, match="does not fit its base model") as caught:
        await play_model(str(tmp_path / "adapter"), base=str(other))
    assert "\n" not in str(caught.value)


def run_folder(place: Path, **model: Any) -> Path:
    """A finished run as the trainer leaves it."""
    from agentrl.store import RunStore

    config = RunConfig.model_validate(
        {"name": place.name, "out": str(place.parent), "model": {"name": "tiny", **model},
         "engine": {"name": "transformers", "options": {"dtype": "bfloat16", "max_slots": 3}}}
    )  # fmt: skip
    place.mkdir(parents=True)
    (place / "config.yaml").write_text(config.to_yaml())
    RunStore(place / "store.sqlite").close()
    return place


async def test_a_run_is_played_as_it_was_trained(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", tool_prompt="signature", history="keep", tool_format="hermes")
    with pytest.raises(ConfigError, match=r"holds a run without a trained policy; agentrl train --resume"):
        resolve_player(str(run))
    tiny_folder(run / "policy", seed=2)
    for name in (run, run / "policy"):
        player = resolve_player(str(name), PlayerSettings(engine_options={"max_slots": 2}))
        described = player.describe()
        assert (described["tool_prompt"], described["history"], described["tool_format"]) == (
            "signature",
            "keep",
            "hermes",
        )
        assert (described["precision"], described["engine_options"]) == ("bf16", {"max_slots": 2})
    found = run_of(str(run))
    assert found is not None and found[1].model.name == "tiny"
    played = await play_model(str(run), tool_prompt="none")
    hashes = {turn.weights_hash for episode in records(played) for turn in episode.turns}
    assert hashes == {module_hash(build_tiny(2)[0].to(torch.bfloat16))}
    assert "calculator(" not in build_tiny()[1].decode(records(played)[0].context_ids(0))


def test_a_run_in_a_shared_database_is_one_as_well(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", tool_prompt="signature")
    (run / "store.sqlite").rename(tmp_path / "shared.sqlite")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("store: null", f"store: sqlite:///{tmp_path / 'shared.sqlite'}"))
    tiny_folder(run / "policy")
    for name in (run, run / "policy"):
        assert resolve_player(str(name)).describe()["tool_prompt"] == "signature"
    (run / "suite.yaml").touch()  # what an evaluation into a shared database leaves is no run
    assert run_of(str(run)) is None


async def test_the_adapter_of_a_run_and_its_merged_policy_are_one(folder: Path, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", lora={"rank": 4})
    from transformers import AutoModelForCausalLM

    policy = Policy(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), lora=LoraConfig(rank=4))
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(0.1)
    policy.save_pretrained(run / "policy")
    build_tiny()[1].save_pretrained(run / "policy")
    assert run_of(str(run / "policy" / "adapter")) is not None
    whole, adapter = [await play_model(str(run / "policy" / part), precision="fp32") for part in ("", "adapter")]
    assert said(whole) == said(adapter)


def test_a_run_with_another_engine_lends_its_chat_options_only() -> None:
    config = RunConfig.model_validate({"engine": {"name": "vllm", "options": {"cache_gib": 2.0}}})
    settings = with_run(PlayerSettings(engine="transformers", tool_prompt="none"), config)
    assert (settings.engine, dict(settings.engine_options), settings.tool_prompt) == ("transformers", {}, "none")
    assert dict(with_run(PlayerSettings(), config).engine_options) == {"cache_gib": 2.0}


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("tinny", {}, "model 'tinny' is unknown; did you mean 'tiny'"),
        ("./nothing/here", {}, "there is no such folder"),
        (None, {}, "name a model, or an endpoint"),
        ("tiny", {"engine": "vlm"}, "engine 'vlm' is unknown; did you mean 'vllm'"),
        ("tiny", {"engine": "openai"}, "engine='openai' serves no local model"),
        ("tiny", {"base": "tiny"}, "base='tiny' has no meaning for 'tiny', which is no adapter"),
        ("tiny", {"api_key_env": "X"}, "api_key_env='X' has no meaning for a local model"),
        ("tiny", {"tokenizer": "tiny"}, "tokenizer='tiny' has no meaning for a local model"),
        ("oracle", {"engine": "vllm"}, "engine='vllm' has no meaning for the oracle player"),
        ("random", {"token_entropy": True}, "token_entropy=True has no meaning for the random player"),
        ("random", {"precision": "bf16"}, "precision='bf16' has no meaning for the random player"),
        ("tiny", {"engine": "vllm", "token_entropy": True}, "token_entropy: engine 'vllm' does not record it"),
        ("tiny", {"engine": "vllm", "device": "cuda"}, "device='cuda' has no meaning for vLLM"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(model: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve_player(model, PlayerSettings(**settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be 0 or more"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0 and at most 1"),
        ({"max_tokens": 0}, "max_tokens=0 must be at least 1"),
        ({"tool_calls": -1}, "tool_calls=-1 must be at least 0"),
        ({"episode_seconds": 0.0}, "episode_seconds=0.0 must be above 0"),
        ({"max_context": 1}, "max_context=1 must be at least 2"),
        ({"concurrency": 0}, "concurrency=0 must be at least 1"),
    ],
)
def test_limits_that_cannot_be_kept(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PlayerSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine_options": {"slots": 3}}, "engine 'transformers' has no option 'slots'"),
        ({"device": "tpu"}, "device 'tpu' cannot be used here"),
        ({"tool_format": "hermess"}, "'hermess' is unknown; did you mean 'hermes'"),
    ],
)
async def test_what_is_refused_at_the_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        await resolve_player("tiny", PlayerSettings(**settings)).start()
    assert "\n" not in str(caught.value)
