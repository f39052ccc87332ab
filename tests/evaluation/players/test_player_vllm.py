"""Players over a real vLLM: in a process of its own, and behind its server, which is asked as a local policy is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from agentrl.engines.vllm_server import VllmServer
from agentrl.engines.weights import module_hash
from agentrl.evaluation.players import PlayerKind, PlayerSettings, resolve_player
from agentrl.models.tiny import build_tiny
from tests.engines.vllm_small import descendants
from tests.evaluation.players.playing import play, play_model, records, requests, said, source, tiny_folder

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

SMALL = {"max_slots": 8, "max_context": 1000, "cache_gib": 0.25}
GREEDY = {"temperature": 0.0, "max_turn_tokens": 10, "max_turns": 2, "max_context": 900, "tool_prompt": "signature"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("models") / "served", seed=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(folder: Path) -> AsyncIterator[VllmServer]:
    options = {
        "dtype": "float32", "max_model_len": 1000, "max_num_seqs": 8, "enforce_eager": True,
        "kv_cache_memory_bytes": 2**28, "logprobs_mode": "processed_logprobs", "generation_config": "vllm",
        "enable_auto_tool_choice": True, "tool_call_parser": "hermes", "enable_chunked_prefill": False,
        "max_num_batched_tokens": 4096,
    }  # fmt: skip
    made = VllmServer(options, compiled=False)
    await made.start(folder)
    yield made
    await made.close()
    assert not descendants()


async def test_a_local_model_is_served_by_vllm_as_by_transformers(folder: Path) -> None:
    player = resolve_player(str(folder), PlayerSettings(engine="vllm", engine_options=SMALL, **GREEDY))
    assert player.kind is PlayerKind.VLLM
    by_vllm = await play(player, [source("arithmetic")], requests("arithmetic"))
    assert {turn.weights_hash for each in records(by_vllm) for turn in each.turns} == {module_hash(build_tiny(1)[0])}
    assert said(by_vllm) == said(await play_model(str(folder), **GREEDY))
    assert not descendants()


async def test_its_server_exchanges_ids_and_says_the_same(server: VllmServer, folder: Path) -> None:
    settings = PlayerSettings(endpoint=f"{server.address}/v1", **GREEDY)
    player = resolve_player("policy", settings)
    by_server = await play(player, [source("arithmetic")], requests("arithmetic"))
    assert player.describe()["mode"] == "tokens"
    assert said(by_server) == said(await play_model(str(folder), **GREEDY))
    assert all(each.completion_tokens == each.num_policy_tokens > 0 for each in records(by_server))


async def test_its_server_chats(server: VllmServer) -> None:
    settings = PlayerSettings(endpoint=f"{server.address}/v1", mode="chat", max_turn_tokens=10, top_p=0.9)
    played = await play(resolve_player(None, settings), [source("arithmetic")], requests("arithmetic"))
    for episode in records(played):
        assert not episode.aborted, episode.error
        assert episode.completion_tokens and episode.completion_tokens <= 10 * len(episode.turns)
        assert episode.prompt_tokens and episode.prompt_tokens > 50
        assert episode.num_policy_tokens == 0
