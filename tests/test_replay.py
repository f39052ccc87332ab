"""Re-stepping a record: equal where nothing changed, and the first difference where something did."""

from __future__ import annotations

from dataclasses import replace

from agentrl.env import make
from agentrl.messages import user
from agentrl.oracle import oracle_trajectory
from agentrl.replay import first_difference
from agentrl.trajectory import StopReason, Trajectory

ENV = "agentrl/Arithmetic-v0"


async def recorded() -> Trajectory:
    return await oracle_trajectory(make(ENV, levels=(2,)), None, "test:3", seed=5)


async def test_a_record_comes_back_as_it_was_also_through_the_store() -> None:
    episode = await recorded()
    env = make(ENV, levels=(2,))
    assert await first_difference(env, episode) is None
    assert await first_difference(env, Trajectory.from_json(episode.to_json())) is None


async def test_the_first_difference_is_told() -> None:
    env = make(ENV, levels=(2,))
    episode = await recorded()
    episode.opening = [user("another question")]
    assert (await first_difference(env, episode) or "").startswith("opening: 2 messages, recorded 1")

    episode = await recorded()
    episode.turns[1] = replace(episode.turns[1], reward=0.5)
    assert await first_difference(env, episode) == "turn 2: reward 0, recorded 0.5"

    episode = await recorded()
    episode.turns[0].observation = [episode.turns[0].observation[0].model_copy(update={"content": "7"})]
    assert "turn 1, message 1:" in (await first_difference(env, episode) or "")


async def test_an_episode_that_was_cut_is_cut_again() -> None:
    episode = await recorded()
    episode.turns, episode.stop_reason = episode.turns[:1], StopReason.MAX_TURNS
    assert await first_difference(make(ENV, levels=(2,)), episode) is None
    episode.stop_reason = StopReason.TERMINATED
    assert "this one goes on" in (await first_difference(make(ENV, levels=(2,)), episode) or "")


async def test_an_episode_that_ends_too_soon_is_told() -> None:
    episode = await recorded()
    assert "the episode ends here" in (await first_difference(make(ENV, levels=(2,), max_turns=1), episode) or "")
