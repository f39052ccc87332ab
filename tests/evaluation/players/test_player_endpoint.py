"""A model behind an address, against a real server on loopback: modes, records, and every way to get it wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agentrl.errors import AgentRLError, ConfigError, EngineError
from agentrl.evaluation.players import PlayerKind, PlayerSettings, PlayLimits, resolve_player
from agentrl.models.tiny import build_tiny
from agentrl.trajectory import StopReason
from tests.engines import stub_server
from tests.engines.stub_server import MODEL, Exchange, Fault, StubServer, status
from tests.evaluation.players.playing import play, records, requests, source, tiny_folder

KEY = "sk-very-secret-0123456789"
QUICK = {"retries": 0, "backoff_seconds": 0.001}


@pytest.fixture
async def stub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StubServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with stub_server.stub_server() as server:
        yield server


def settings(stub: StubServer, **changes: Any) -> PlayerSettings:
    return PlayerSettings(**{"endpoint": stub.url, "engine_options": QUICK, **changes})


def by_path(**faults: Fault) -> Callable[[Exchange], Any]:
    """Another fault for `chat` than for `completions`."""

    async def fault(exchange: Exchange) -> None:
        kind = "chat" if exchange.asked.path.endswith("chat/completions") else "completions"
        await faults.get(kind, stub_server.good)(exchange)

    return fault


def always(stub: StubServer, fault: Fault) -> None:
    stub.faults.extend([fault] * 100)


# -- chat --------------------------------------------------------------------------------------------------------------


async def test_a_chat_is_played_recorded_and_counted(stub: StubServer) -> None:
    called: list[int] = []

    def talk(answer: dict[str, Any]) -> None:
        called.append(1)
        if len(called) == 2:  # the first answers the probe
            function = {"name": "calculator", "arguments": '{"expression": "1 + 1"}'}
            message = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": function}]}
            answer["choices"][0] |= {"message": message, "finish_reason": "tool_calls"}

    always(stub, stub_server.changed(talk))
    player = resolve_player(MODEL, settings(stub, concurrency=1, temperature=0.3, top_p=0.8, max_turn_tokens=77))
    assert player.kind is PlayerKind.ENDPOINT
    ((_, episode),) = await play(player, [source("arithmetic")], requests("arithmetic", 1))
    assert episode.stop_reason is StopReason.TERMINATED
    assert [call.result for call in episode.turns[0].tool_calls] == ["2"]
    assert episode.turns[0].tool_calls[0].seconds > 0
    assert episode.info["answer"] == ""  # what the judge goes by: "Hello." holds no number
    assert (episode.prompt_tokens, episode.completion_tokens) == (22, 6)
    assert (episode.num_policy_tokens, player.weights_hash) == (0, None)
    probe, first, second = stub.asked
    assert (first.body["max_tokens"], first.body["temperature"], first.body["top_p"]) == (77, 0.3, 0.8)
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert [tool["function"]["name"] for tool in first.body["tools"]] == ["calculator"]
    assert [message["role"] for message in second.body["messages"]][-2:] == ["assistant", "tool"]
    assert probe.body["max_tokens"] == 16


async def test_the_model_may_be_left_to_an_address_that_serves_one(stub: StubServer) -> None:
    for model, chosen in ((stub.url, {"endpoint": None}), (None, {}), (MODEL, {})):
        player = resolve_player(model, settings(stub, **chosen))
        assert len(await play(player, [source("arithmetic")], requests("arithmetic", 1))) == 1
        described = player.describe()
        assert described["endpoint"] == stub.url
        assert KEY not in json.dumps(described)
    stub.models = ("one", "two")
    with pytest.raises(ConfigError, match="name the model; valid: one, two"):
        await resolve_player(stub.url).start()


def test_what_decides_numbers_is_described_without_secrets() -> None:
    options = {"extra_body": {"reasoning_effort": "low"}, "headers": {"x-key": KEY}, "retries": 2}
    chosen = PlayerSettings(endpoint="http://127.0.0.1:1/v1", engine_options=options, tool_prompt="none")
    described = resolve_player("m", chosen).describe()
    assert described["engine_options"] == {"extra_body": {"reasoning_effort": "low"}}
    assert (described["tool_prompt"], described["mode"], described["model"]) == ("none", "auto", "m")


# -- tokens ------------------------------------------------------------------------------------------------------------


async def test_with_the_tokenizer_ids_are_exchanged(stub: StubServer) -> None:
    player = resolve_player(MODEL, settings(stub, tokenizer="tiny", tool_prompt="signature", max_turn_tokens=20))
    await player.start()
    described = player.describe()
    assert (described["mode"], described["served"], described["tool_prompt"]) == ("tokens", MODEL, "signature")
    stub.asked.clear()
    ((_, episode),) = await play(player, [source("arithmetic")], requests("arithmetic", 1))
    assert {asked.path for asked in stub.asked} == {"/v1/completions"}
    assert stub.asked[-1].body["prompt"] == episode.context_ids(len(episode.turns) - 1)
    assert "Tools: calculator(" in build_tiny()[1].decode(episode.context_ids(0))
    assert episode.completion_tokens == episode.num_policy_tokens > 0
    assert "usage" not in episode.info


async def test_auto_takes_tokens_where_the_served_model_is_on_this_disk(stub: StubServer, tmp_path: Any) -> None:
    player = resolve_player(MODEL, settings(stub))
    await player.start()
    assert (player.describe()["mode"], player.describe()["reason"]) == (
        "chat",
        "the tokenizer of the served model is not on this disk (give tokenizer=MODEL)",
    )
    await player.close()
    stub.root = str(tiny_folder(tmp_path / "served"))
    player = resolve_player(MODEL, settings(stub))
    await player.start()
    assert player.describe()["mode"] == "tokens"
    await player.close()
    player = resolve_player(MODEL, settings(stub, mode="chat"))
    await player.start()
    assert player.describe()["mode"] == "chat"
    await player.close()


@pytest.mark.parametrize("chosen", [{"temperature": 0.7}, {"top_p": 0.9}])
async def test_auto_falls_back_where_the_logprobs_are_not_those_of_the_sampling(
    stub: StubServer, tmp_path: Any, chosen: dict[str, float]
) -> None:
    stub.processed, stub.root = False, str(tiny_folder(tmp_path / "served"))
    player = resolve_player(MODEL, settings(stub, **chosen))
    await player.start()
    assert player.describe()["mode"] == "chat"
    assert "--logprobs-mode processed_logprobs" in player.describe()["reason"]
    await player.close()
    with pytest.raises(ConfigError, match="mode='tokens': its log-probabilities are not those"):
        await resolve_player(MODEL, settings(stub, mode="tokens", **chosen)).start()
    player = resolve_player(MODEL, settings(stub))  # at temperature 1 nothing is bent
    with pytest.raises(ConfigError, match=r"its log-probabilities are not those .*, or use mode='chat'"):
        await play(player, [source("arithmetic", PlayLimits(**chosen))], [])
    assert player.describe()["mode"] == "tokens"


async def test_a_server_that_keeps_its_tokens(stub: StubServer, tmp_path: Any) -> None:
    always(stub, by_path(completions=status(404, "no such route")))
    stub.root = str(tiny_folder(tmp_path / "served"))
    player = resolve_player(MODEL, settings(stub))
    assert len(records(await play(player, [source("arithmetic")], requests("arithmetic", 1)))) == 1
    assert player.describe()["mode"] == "chat"
    with pytest.raises(ConfigError, match="mode='tokens' needs an endpoint that takes and gives token ids"):
        await resolve_player(MODEL, settings(stub, mode="tokens")).start()
    with pytest.raises(ConfigError, match="tool_prompt='none' needs mode='tokens', and mode='tokens' needs"):
        await resolve_player(MODEL, settings(stub, tool_prompt="none")).start()


# -- wrong -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "chat", "tokens"])
async def test_a_model_that_is_not_served(stub: StubServer, mode: Any) -> None:
    await fails(
        resolve_player("stub-2", settings(stub, mode=mode)), "model='stub-2' is not served; did you mean 'stub-1'"
    )


async def test_a_wrong_key(stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.listing = status(401, "bad key")
    await fails(resolve_player(MODEL, settings(stub)), "the key in OPENAI_API_KEY was refused: .*status 401: bad key")
    with monkeypatch.context() as other:
        other.delenv("OPENAI_API_KEY")
        await fails(resolve_player(MODEL, settings(stub)), r"without a key \(OPENAI_API_KEY is not set\) was refused")
    stub.listing = None
    always(stub, status(401, "bad key"))
    await fails(resolve_player(MODEL, settings(stub)), "the key in OPENAI_API_KEY was refused: .*status 401: bad key")
    monkeypatch.delenv("OPENAI_API_KEY")
    await fails(resolve_player(MODEL, settings(stub)), r"without a key \(OPENAI_API_KEY is not set\) was refused")


async def test_a_key_that_is_not_set(stub: StubServer) -> None:
    with pytest.raises(ConfigError, match="api_key_env='MY_KEY': the environment has no such variable"):
        resolve_player(MODEL, settings(stub, api_key_env="MY_KEY"))


async def test_an_endpoint_without_a_list_of_models(stub: StubServer) -> None:
    stub.listing = status(404)
    always(stub, status(404, "no model of that name"))
    await fails(resolve_player("m", settings(stub)), "the endpoint does not serve model='m': .*no model of that name")
    await fails(resolve_player(None, settings(stub)), "it lists no models: name the model, or mend the address")


async def test_an_endpoint_that_wants_another_field(stub: StubServer) -> None:
    always(stub, status(400, "'max_tokens' is not supported, use 'max_completion_tokens'"))
    await fails(resolve_player(MODEL, settings(stub)), "wants engine option max_tokens_key=max_completion_tokens")
    stub.faults.clear()
    always(stub, status(400, "temperature must be 1"))
    await fails(resolve_player(MODEL, settings(stub)), "the endpoint refuses what it is asked: .*temperature must be 1")


async def test_an_address_where_nobody_listens() -> None:
    player = resolve_player("m", PlayerSettings(endpoint="http://127.0.0.1:9/v1", engine_options=QUICK))
    await fails(player, r"http://127.0.0.1:9/v1: no answer in 1 attempts.*connect", EngineError)


async def test_a_server_that_only_fails(stub: StubServer) -> None:
    always(stub, status(500, "out of memory"))
    await fails(resolve_player(MODEL, settings(stub)), "the endpoint does not answer: .*status 500", EngineError)


async def fails(player: Any, message: str, kind: type[AgentRLError] = ConfigError) -> None:
    """The start fails with one line, without the key."""
    with pytest.raises(kind, match=message) as caught:
        await player.start()
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    await player.close()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"endpoint": "localhost:80"}, "must be like http://127.0.0.1:8000/v1"),
        ({"endpoint": "http://u:p@x/v1"}, "base_url holds a password"),
        ({"engine": "vllm"}, "engine='vllm' has no meaning for an endpoint"),
        ({"precision": "bf16"}, "precision='bf16' has no meaning for an endpoint"),
        ({"token_entropy": True}, "an endpoint does not give its distributions"),
        ({"mode": "chat", "tokenizer": "tiny"}, "tokenizer='tiny' has no meaning for an endpoint with mode='chat'"),
        ({"mode": "token"}, "mode is 'token'; did you mean 'tokens'"),
        ({"tokenizer": "tinny"}, "model 'tinny' is unknown"),
        ({"engine_options": {"retry": 3}}, "engine 'openai' has no option 'retry'; did you mean 'retries'"),
        ({"engine_options": {"mode": "chat"}}, "engine_options: 'mode' is set by the player"),
    ],
)
def test_what_is_refused_before_a_connection(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_player("m", PlayerSettings(**{"endpoint": "http://127.0.0.1:1/v1", **chosen}))
