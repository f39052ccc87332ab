"""The oracle and the random agent: the ceiling and the floor, under the limits and in the records of a policy."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import aclosing
from typing import Any

import jsonschema
import pytest

from agentrl.engines.base import Sampling
from agentrl.env import Env
from agentrl.errors import ConfigError
from agentrl.evaluation.players import PlayerKind, PlayerSettings, PlayLimits, PlayRequest, resolve_player
from agentrl.evaluation.players.random_agent import RandomEngine
from agentrl.messages import assistant, user
from agentrl.oracle import oracle_trajectory
from agentrl.trajectory import StopReason
from tests.evaluation.players.playing import ENVS, make_env, play, records, requests, said, source


async def test_the_oracle_is_right_everywhere_and_recorded_as_a_policy_is() -> None:
    entries = list(ENVS)
    player = resolve_player("oracle", PlayerSettings(concurrency=3))
    assert player.kind is PlayerKind.ORACLE
    played = await play(player, [source(entry) for entry in entries], [r for e in entries for r in requests(e, 2, 2)])
    assert Counter(request.entry for request, _ in played) == dict.fromkeys(entries, 4)
    for request, episode in played:
        assert episode.metrics["correct"] == 1.0
        assert episode.stop_reason is StopReason.TERMINATED
        assert (episode.task_id, episode.member) == (request.task_id, request.sample)
        assert episode.info["answer"]
        assert episode.seconds > 0
        assert [call.name for turn in episode.turns for call in turn.tool_calls]
        assert all(call.seconds > 0 and call.error is None for turn in episode.turns for call in turn.tool_calls)
        assert (episode.prompt_tokens, episode.completion_tokens) == (0, 0)
    assert "12 episodes" in player.account()[0]
    assert player.weights_hash is None


async def test_the_oracle_says_what_a_warm_start_is_taught() -> None:
    played = await play(resolve_player("oracle"), [source("arithmetic")], requests("arithmetic", 3))
    env = make_env("arithmetic")
    for _, episode in played:
        taught = await oracle_trajectory(env, None, episode.task_id, episode.seed)
        assert [m.text for m in taught.messages] == [m.text for m in episode.messages]
        assert (taught.info["answer"], taught.reward) == (episode.info["answer"], episode.reward)
        assert taught.stop_reason is episode.stop_reason
        assert taught.seconds > 0


@pytest.mark.parametrize(
    ("limits", "reason", "executed"),
    [
        ({"max_turns": 1}, StopReason.MAX_TURNS, 1),
        ({"tool_calls": 0}, StopReason.CALL_BUDGET, 0),
        ({"tool_calls": 1}, StopReason.CALL_BUDGET, 1),
    ],
)
async def test_limits_hold_for_the_oracle(limits: dict[str, Any], reason: StopReason, executed: int) -> None:
    """The second task takes two operations."""
    player = resolve_player("oracle", PlayerSettings(**limits))
    (played,) = await play(player, [source("arithmetic")], requests("arithmetic", 2)[1:])
    assert played.trajectory.stop_reason is reason
    assert sum(len(turn.tool_calls) for turn in played.trajectory.turns) == executed
    assert played.trajectory.metrics["correct"] == 0.0


async def test_an_environment_without_an_oracle_is_named_before_any_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(make_env("arithmetic").unwrapped), "oracle_action", Env.oracle_action)
    player = resolve_player("oracle")
    with pytest.raises(ConfigError, match="entry 'arithmetic': environment ArithmeticEnv has no oracle"):
        await play(player, [source("search"), source("arithmetic")], requests("search"))


async def test_an_entry_has_limits_of_its_own() -> None:
    player = resolve_player("oracle", PlayerSettings(max_turns=9))
    sources = [source("search"), source("arithmetic", PlayLimits(max_turns=1)), source("sql")]
    wanted = [*requests("search"), *requests("arithmetic"), *requests("sql")]
    played = await play(player, sources, wanted)
    reasons = {(request.entry, trajectory.stop_reason) for request, trajectory in played}
    assert reasons == {
        ("search", StopReason.TERMINATED),
        ("arithmetic", StopReason.MAX_TURNS),
        ("sql", StopReason.TERMINATED),
    }
    assert [request.entry for request, _ in played] == sorted(
        (request.entry for request in wanted), key=["search", "arithmetic", "sql"].index
    )


# -- random ------------------------------------------------------------------------------------------------------------


async def test_the_random_agent_is_determined_by_its_seeds() -> None:
    entries = list(ENVS)
    wanted = [request for entry in entries for request in requests(entry, 4, 2)]
    sources = [source(entry) for entry in entries]
    first = await play(resolve_player("random", PlayerSettings(concurrency=8)), sources, wanted)
    again = await play(resolve_player("random", PlayerSettings(concurrency=1)), sources, list(reversed(wanted)))
    assert said(first) == said(again)
    other = [PlayRequest(r.entry, r.index, r.task_id, r.sample, r.seed + 1) for r in wanted]
    assert said(await play(resolve_player("random"), sources, other)) != said(first)
    episodes = records(first)
    assert not [episode.error for episode in episodes if episode.aborted]
    calls = [call for episode in episodes for turn in episode.turns for call in turn.tool_calls]
    assert len(calls) > 10
    assert not {call.error for call in calls} & {"unknown_tool", "invalid_arguments", "parse"}
    assert any(episode.info.get("answer") for episode in episodes)


@pytest.mark.parametrize("entry", list(ENVS))
async def test_every_call_is_valid_under_the_tools_schema(entry: str) -> None:
    env, engine = make_env(entry), RandomEngine()
    tools = env.tool_schemas()
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    called = Counter[str]()
    for seed in range(120):
        reply = await engine.reply([user("Add 12 and 30 of the red apples.")], tools, Sampling(seed=seed))
        for call in reply.message.tool_calls:
            called[call.name] += 1
            jsonschema.validate(json.loads(call.arguments), schemas[call.name])
    assert called.keys() == schemas.keys()
    env.close()


async def test_answers_are_numbers_and_words_of_the_task() -> None:
    engine = RandomEngine()
    messages = [user("Add 1234 to the apples."), assistant("NEVER")]
    answers = {(await engine.reply(messages, [], Sampling(seed=seed))).message.text for seed in range(200)}
    assert {"1234", "apples", "Add"} <= answers
    assert "NEVER" not in answers
    assert {answer for answer in answers if answer.isdecimal()} - {"1234"} <= {str(number) for number in range(101)}


# -- both --------------------------------------------------------------------------------------------------------------


async def test_both_players_and_a_policy_meet_the_same_seeds() -> None:
    wanted = requests("arithmetic", 3, 2)
    seeds = []
    for model in ("oracle", "random", "tiny"):
        player = resolve_player(model, PlayerSettings(max_turn_tokens=4, max_context=1000))
        played = await play(player, [source("arithmetic")], wanted)
        seeds.append({(request.index, request.sample): trajectory.seed for request, trajectory in played})
    assert seeds[0] == seeds[1] == seeds[2]
    assert len(set(seeds[0].values())) == 6


async def test_requests_are_taken_as_places_become_free() -> None:
    """A supply that ends, because the money did, ends the evaluation with every episode that it gave."""
    player, given = resolve_player("random", PlayerSettings(concurrency=2)), []
    wanted = requests("arithmetic", 40)

    def supply() -> Any:
        for request in wanted:
            if len(out) >= 5:
                return
            given.append(request)
            yield request

    out: list[PlayRequest] = []
    await player.start()
    async with aclosing(player.play([source("arithmetic")], supply())) as episodes:
        async for request, _ in episodes:
            out.append(request)
    await player.close()
    assert sorted(request.index for request in out) == [request.index for request in given]
    assert 5 <= len(out) < 20


async def test_what_was_asked_wrongly_is_said() -> None:
    player = resolve_player("oracle")
    with pytest.raises(ConfigError, match="has not been started"):
        async for _ in player.play([source("sql")], requests("sql", 1)):
            pass
    wrong = [PlayRequest("sqll", 0, "test:0", 0, 0)]
    with pytest.raises(ConfigError, match="entry='sqll' has no environment; did you mean 'sql'"):
        await play(player, [source("sql")], wrong)
    with pytest.raises(ConfigError, match="asked for twice"):
        await play(player, [source("sql")], requests("sql", 1) * 2)
    with pytest.raises(ConfigError, match="two entries have the same name"):
        await play(player, [source("sql"), source("sql")], [])


@pytest.mark.parametrize(("written", "meant"), [("oracel", "oracle"), ("rnadom", "random")])
def test_a_misspelt_player_is_named(written: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"model '{written}' is unknown; .* did you mean the player '{meant}'"):
        resolve_player(written)
