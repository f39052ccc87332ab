"""The fault injection itself: planned faults happen as planned, are counted, and can be let go."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from agentrl.engines.base import Sampling
from agentrl.env import GeneratedTasks, Task, TaskSet
from agentrl.errors import EngineError
from agentrl.messages import ToolCall, assistant, user
from agentrl.tool import call_tool
from agentrl.tool_env import ToolEnv, Verdict
from agentrl.trajectory import StopReason
from tests.rollouts.fakes import FakeEngine
from tests.rollouts.faults import Books, Faults, FaultyBlockingEnv, FaultyEngine, FaultyEnv, FaultyTool, Kind

Faulty = type[FaultyEnv] | type[FaultyBlockingEnv]
both = pytest.mark.parametrize("kind", [FaultyEnv, FaultyBlockingEnv])


async def reset(env: Any, seed: int = 3) -> Any:
    return await env.areset(seed=seed, options={"task": "train:0"})


def test_what_goes_wrong_depends_on_the_seed_and_the_pass_alone() -> None:
    def drawn(seed: int, quiet: int = 0) -> list[Kind | None]:
        faults = Faults({"step.raise": 0.2, "step.hang": 0.1}, seed=seed, quiet_until=quiet)
        return [faults.draw("step") for _ in range(2000)]

    first = drawn(1)
    assert first == drawn(1) != drawn(2)
    assert 300 < first.count(Kind.RAISE) < 500
    assert 140 < first.count(Kind.HANG) < 260
    assert drawn(1, quiet=100) == [None] * 100 + first[100:]


def test_an_unknown_stage_or_kind_is_refused() -> None:
    with pytest.raises(KeyError):
        Faults({"sleep.raise": 0.1})
    with pytest.raises(ValueError, match="explode"):
        Faults({"step.explode": 0.1})


@both
async def test_an_episode_without_faults_balances_the_books(kind: Faulty) -> None:
    books = Books()
    env = kind(Faults(), books)
    await reset(env, seed=2)
    rewards = [(await env.astep("x")).reward for _ in range(3)]
    assert rewards == [0.0, 0.0, 1.0]
    await reset(env)
    state = await env.asnapshot()
    await env.astep("x")
    await env.arestore(state)
    assert env.script.state == state
    assert books.sessions == {1}
    await env.afinish(StopReason.MAX_TURNS)
    assert not books.sessions
    await env.aclose()
    await env.aclose()
    assert (books.made, books.closed, books.open, books.episodes) == (1, 1, set(), 3)


@both
@pytest.mark.parametrize("stage", ["make", "reset", "step", "finish", "close", "snapshot", "restore"])
async def test_every_stage_raises(kind: Faulty, stage: str) -> None:
    faults, books = Faults({f"{stage}.raise": 1.0}), Books()
    with pytest.raises(OSError, match=f"injected at {stage}"):
        env = kind(faults, books)
        await reset(env)
        await env.astep("x")
        await env.arestore(await env.asnapshot())
        await env.afinish(StopReason.MAX_TURNS)
        await env.aclose()
    assert faults.done == {f"{stage}.raise": 1}


async def test_what_hangs_ends_by_cancellation_and_what_is_stubborn_by_release() -> None:
    for kind, ends in (("hang", True), ("stubborn", False)):
        faults, books = Faults({f"step.{kind}": 1.0}), Books()
        env = FaultyEnv(faults, books)
        await reset(env)
        step = asyncio.create_task(env.astep("x"))
        await asyncio.sleep(0)
        step.cancel()
        await asyncio.wait({step}, timeout=0.05)
        assert step.done() is ends
        faults.release()
        await asyncio.wait({step}, timeout=10)
        assert step.done()
        assert step.cancelled() is ends
        assert (faults.done["swallowed"] > 0) is not ends


async def test_a_blocked_thread_is_let_go() -> None:
    faults, books = Faults({"reset.hang": 1.0}), Books()
    started = asyncio.create_task(reset(FaultyBlockingEnv(faults, books)))
    await asyncio.wait({started}, timeout=0.05)
    assert not started.done()
    faults.release()
    with pytest.raises(OSError, match="released at reset"):
        await asyncio.wait_for(started, 10)


async def test_a_stubborn_tool_is_a_timeout_of_its_call_and_not_of_the_episode() -> None:
    faults = Faults({"call.stubborn": 1.0})

    class Stuck(ToolEnv):
        tools: ClassVar = (FaultyTool(faults, timeout=0.02),)

        def tasks(self, split: str) -> TaskSet:
            return GeneratedTasks(split, 1, lambda index: Task(f"{split}:{index}", split, (user("?"),)))

        def judge(self, episode: Any) -> Verdict:
            return Verdict(1.0)

    env = Stuck()
    await env.areset(seed=1)
    step = await env.astep(assistant(tool_calls=(ToolCall(id="c", name="faulty", arguments="{}"),)))
    assert [record.error for record in step.info["tool_calls"]] == ["timeout"]
    assert (await env.astep("done")).reward == 1.0
    faults.release()
    await asyncio.sleep(0.05)


async def test_a_tool_without_faults_works() -> None:
    result, record = await call_tool(
        {"faulty": FaultyTool(Faults())}, ToolCall(id="c", name="faulty", arguments='{"text": "a"}')
    )
    assert (result.text, record.error) == ("A", None)


class Latent(FakeEngine):
    """Takes its time."""

    def __init__(self) -> None:
        super().__init__(self.wait)
        self.clients = 1

    async def wait(self, session: str) -> None:
        await asyncio.sleep(0.05)


async def test_a_dying_engine_takes_along_what_is_in_flight_and_comes_back() -> None:
    engine = FaultyEngine(Latent(), Faults(), down_seconds=0.02)
    calls = [asyncio.create_task(engine.generate([1], Sampling(seed=1), session=f"s{index}")) for index in range(3)]
    await asyncio.sleep(0.01)
    calls[2].cancel()  # by its caller, who is not to be told of a death
    engine.kill()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [EngineError, EngineError, asyncio.CancelledError]
    with pytest.raises(EngineError, match="restarted"):
        await engine.generate([1], Sampling(seed=1), session="s0")
    await asyncio.sleep(0.03)
    assert (await engine.generate([1], Sampling(seed=1), session="s0")).ids
    assert (engine.deaths, engine.lost, engine.sessions) == (1, 3, {"s0", "s1", "s2"})
    for session in list(engine.sessions):
        await engine.end_session(session)
    assert not engine.sessions and not engine.inner.sessions  # type: ignore[attr-defined]


async def test_planned_faults_of_an_engine_are_engine_errors() -> None:
    for kind, said in (("raise", "injected"), ("die", "died")):
        engine = FaultyEngine(Latent(), Faults({f"generate.{kind}": 1.0}))
        with pytest.raises(EngineError, match=said):
            await engine.generate([1], Sampling(seed=1), session="s")
    assert engine.deaths == 1
    with pytest.raises(EngineError, match="injected"):
        await FaultyEngine(Latent(), Faults({"end_session.raise": 1.0})).end_session("s")
