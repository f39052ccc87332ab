"""The limits that episodes of a rollout share: order, waits, sandboxes kept and freed, and no deadlock."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any, ClassVar

import pytest

from agentrl.bridge import in_thread, run_sync
from agentrl.env import GeneratedTasks, Task, TaskSet
from agentrl.errors import ConfigError
from agentrl.messages import ToolCall, assistant, user
from agentrl.sandbox import get_sandbox, run_apart
from agentrl.task import Episode
from agentrl.throttle import (
    Places,
    Throttle,
    current_episode,
    in_turn,
    sandbox_slot,
    sandbox_ticket,
    tool_slot,
    waited,
)
from agentrl.tool import Tool, call_tool, tool
from agentrl.tool_env import ToolEnv, Verdict
from tests.tools.sessions import needs

HANG = 20.0
"""Seconds after which a test counts as stuck."""


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


class Gauge:
    """How many are inside at one time."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.order: list[int] = []

    def __enter__(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        self.now -= 1


async def in_episode(throttle: Throttle, play: Callable[[], Awaitable[Any]]) -> Any:
    async with throttle.episode():
        return await play()


# -- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("key", ["tools", "sandboxes"])
def test_a_limit_below_one_is_refused(key: str, number: int) -> None:
    with pytest.raises(ConfigError, match=rf"rollout.{key}={number} must be at least 1"):
        Throttle(**{key: number})


async def test_places_go_to_who_asked_first() -> None:
    places, gauge = Places(2), Gauge()

    async def visit(number: int) -> None:
        holder = object()
        await places.take(holder)
        with gauge:
            gauge.order.append(number)
            await asyncio.sleep(0)
        places.give_back(holder)

    await asyncio.gather(*(visit(number) for number in range(9)))
    assert gauge.order == list(range(9))
    assert gauge.most == 2


async def test_a_newcomer_does_not_pass_those_who_wait() -> None:
    places = Places(1)
    await places.take("a")
    waiting = asyncio.create_task(places.take("b"))
    await settle()
    places.give_back("a")
    late = asyncio.create_task(places.take("c"))  # b has the place, but its task has not run yet
    await settle()
    assert waiting.done() and not late.done()
    places.give_back("b")
    await late


@pytest.mark.parametrize("granted", [False, True])
async def test_a_cancelled_wait_loses_no_place(granted: bool) -> None:
    """Also where the place came in the moment of the cancellation."""
    throttle = Throttle(tools=1)
    entered = asyncio.Event()

    async def call() -> None:
        async with throttle.episode(), tool_slot():
            entered.set()
            await asyncio.Event().wait()

    first, second = asyncio.create_task(call()), asyncio.create_task(call())
    await settle()
    if granted:
        first.cancel()
        while not first.done():
            await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    await asyncio.wait({first, second})
    entered.clear()
    third = asyncio.create_task(call())
    await asyncio.wait_for(entered.wait(), HANG)
    third.cancel()
    await asyncio.wait({third})


async def test_random_cancellations_lose_no_place() -> None:
    import random

    chance, places, gauge = random.Random(3), Places(3), Gauge()

    async def visit() -> None:
        holder = object()
        try:
            await places.take(holder)
            with gauge:
                await asyncio.sleep(0)
        finally:
            places.give_back(holder)

    tasks = [asyncio.create_task(visit()) for _ in range(300)]
    while not all(task.done() for task in tasks):
        chance.choice(tasks).cancel()
        await asyncio.sleep(0)
    assert gauge.most == 3
    for number in range(3):
        await asyncio.wait_for(places.take(number), HANG)


async def test_a_limit_holds_over_threads_and_event_loops() -> None:
    throttle, gauge, lock = Throttle(tools=2), Gauge(), threading.Lock()

    async def work() -> None:
        async with tool_slot():
            with lock:
                gauge.now += 1
                gauge.most = max(gauge.most, gauge.now)
            await asyncio.sleep(0.002)
            with lock:
                gauge.now -= 1

    async def blocking() -> None:
        async with throttle.episode():
            await in_thread(lambda: run_sync(work()))

    here = [in_episode(throttle, work) for _ in range(6)]
    await asyncio.wait_for(asyncio.gather(*here, *(blocking() for _ in range(6))), HANG)
    assert gauge.most == 2


# -- episodes ----------------------------------------------------------------------------------------------------------


async def test_the_episode_reaches_tasks_threads_and_blocking_calls_and_nobody_else() -> None:
    async def look() -> object:
        return current_episode()

    throttle = Throttle()
    outside = asyncio.create_task(asyncio.sleep(0))
    async with throttle.episode() as tickets:
        assert current_episode() is tickets
        assert await asyncio.create_task(look()) is tickets
        assert await in_thread(current_episode) is tickets
        assert await in_thread(lambda: run_sync(look())) is tickets
        async with throttle.episode() as inner:
            assert current_episode() is inner
        assert current_episode() is tickets
    await outside
    assert current_episode() is None


async def test_without_a_rollout_nothing_is_limited_and_nothing_waits() -> None:
    async with AsyncExitStack() as stack:
        slots = [await stack.enter_async_context(tool_slot()) for _ in range(50)]
        for _ in range(50):
            await stack.enter_async_context(sandbox_slot())
            await sandbox_ticket()
        assert [slot.waits.seconds() for slot in slots] == [0.0] * 50
        assert waited() == 0.0


async def test_what_an_episode_leaves_behind_neither_waits_nor_holds_a_place() -> None:
    throttle = Throttle(tools=1, sandboxes=1)
    over = asyncio.Event()

    async def straggler() -> None:
        await over.wait()
        await sandbox_ticket()
        async with tool_slot():
            await asyncio.Event().wait()

    async with throttle.episode():
        left = asyncio.create_task(straggler())
        await settle()
    over.set()
    await settle()

    async def play() -> None:
        async with tool_slot():
            await sandbox_ticket()

    await asyncio.wait_for(in_episode(throttle, play), HANG)
    left.cancel()
    await asyncio.wait({left})


async def test_a_ticket_is_kept_to_the_end_and_a_slot_to_the_end_of_its_block() -> None:
    throttle = Throttle(sandboxes=1)

    async with throttle.episode() as tickets:
        async with sandbox_slot():
            async with sandbox_slot():  # of another tool of the same episode
                assert throttle.sandboxes.holds(tickets)
            assert throttle.sandboxes.holds(tickets)
        assert not throttle.sandboxes.holds(tickets)
        await sandbox_ticket()
        await sandbox_ticket()
        async with sandbox_slot():
            pass
        assert throttle.sandboxes.holds(tickets)
    assert not throttle.sandboxes.holds(tickets)


async def test_an_episode_that_ends_while_it_waits_leaves_the_queue() -> None:
    throttle = Throttle(sandboxes=1)
    async with AsyncExitStack() as first:
        await first.enter_async_context(throttle.episode())
        await sandbox_ticket()
        async with throttle.episode() as second:
            waiting = asyncio.create_task(sandbox_ticket())
            await settle()
            assert not waiting.done()
        await asyncio.wait_for(waiting, HANG)
        assert not throttle.sandboxes.holds(second)
    await asyncio.wait_for(in_episode(throttle, sandbox_ticket), HANG)


# -- calls and sandboxes -----------------------------------------------------------------------------------------------


class Kept(Tool):
    """Has a sandbox that is kept."""

    name = "kept"
    concurrency = 2
    gauge: ClassVar[Gauge]

    async def call(self) -> str:
        await sandbox_ticket()
        with self.gauge:
            await asyncio.sleep(0)
        return "done"


@pytest.mark.parametrize(("tools", "concurrency"), [(1, None), (None, 1), (1, 1), (2, 2)])
async def test_who_waits_for_a_sandbox_holds_no_slot_that_its_holders_need(
    tools: int | None, concurrency: int | None
) -> None:
    """The circle: all slots held by calls that wait for a sandbox, all sandboxes by episodes that wait for a slot."""
    throttle, gauge = Throttle(tools, sandboxes=1), Gauge()
    Kept.gauge = gauge
    made = Kept().configured(concurrency=concurrency, timeout=HANG)

    async def play() -> list[str]:
        results = []
        for _ in range(3):  # between its calls an episode has no slot, but keeps its sandbox
            result, _ = await call_tool({"kept": made}, ToolCall(id="c", name="kept", arguments="{}"))
            results.append(result.text)
            await asyncio.sleep(0)
        return results

    played = await asyncio.wait_for(asyncio.gather(*(in_episode(throttle, play) for _ in range(8))), HANG)
    assert played == [["done"] * 3] * 8
    assert gauge.most == 1


async def test_two_stateful_tools_of_an_episode_need_one_place() -> None:
    throttle = Throttle(tools=2, sandboxes=1)

    async def both() -> None:
        async def one() -> None:
            async with tool_slot():
                await sandbox_ticket()
                await asyncio.sleep(0)

        await asyncio.gather(one(), one(), one())

    await asyncio.wait_for(asyncio.gather(*(in_episode(throttle, both) for _ in range(4))), HANG)


async def test_a_call_within_a_call_needs_no_slot_of_its_own_and_steps_aside_with_it() -> None:
    throttle = Throttle(tools=1, sandboxes=1)

    async def play() -> None:
        async with tool_slot(), tool_slot():
            await sandbox_ticket()
            await asyncio.sleep(0)
        async with tool_slot():
            await asyncio.sleep(0)

    await asyncio.wait_for(asyncio.gather(*(in_episode(throttle, play) for _ in range(4))), HANG)


async def test_a_call_that_got_its_sandbox_has_its_slot_again() -> None:
    throttle, gauge = Throttle(tools=1, sandboxes=3), Gauge()

    async def play() -> None:
        async with tool_slot():
            await sandbox_ticket()
            with gauge:
                await settle()

    async with AsyncExitStack() as holders:
        for _ in range(3):
            await holders.enter_async_context(throttle.episode())
            await sandbox_ticket()
        waiting = [asyncio.create_task(in_episode(throttle, play)) for _ in range(3)]
        await settle()
        assert gauge.most == 0
    await asyncio.wait_for(asyncio.gather(*waiting), HANG)  # all three got their sandboxes in the same moment
    assert gauge.most == 1


async def test_a_task_that_a_call_left_waiting_does_not_take_the_slot_of_the_call_again() -> None:
    throttle = Throttle(tools=1, sandboxes=1)
    async with throttle.episode():
        await sandbox_ticket()

        async def second() -> asyncio.Task[None]:
            async with throttle.episode(), tool_slot():
                left = asyncio.create_task(sandbox_ticket())
                await settle()
            return left

        left = await second()

    async def call() -> None:
        async with tool_slot():
            await sandbox_ticket()

    await asyncio.wait_for(left, HANG)
    await asyncio.wait_for(in_episode(throttle, call), HANG)


async def test_calls_that_wait_for_their_turn_hold_no_slot() -> None:
    """The circle: the only slot with a call that waits for its turn, the turn with one that waits for a slot."""
    throttle, turn, order = Throttle(tools=1, sandboxes=1), Places(1), list[int]()

    async def call(number: int) -> None:
        async with tool_slot(), in_turn(turn):
            await sandbox_ticket()
            order.append(number)

    async def other() -> None:
        await sandbox_ticket()
        for _ in range(3):
            await settle()
            async with tool_slot():
                await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(*(call(number) for number in range(3)))

    await asyncio.wait_for(asyncio.gather(in_episode(throttle, other), in_episode(throttle, both)), HANG)
    assert order == [0, 1, 2]


async def test_a_cancelled_wait_for_a_sandbox_loses_nothing() -> None:
    throttle = Throttle(tools=1, sandboxes=1)

    async def call() -> None:
        async with tool_slot():
            await sandbox_ticket()
            await asyncio.sleep(0)

    async with throttle.episode():
        await call()
        waiting = [asyncio.create_task(in_episode(throttle, call)) for _ in range(3)]
        await settle()
        for task in waiting[:2]:
            task.cancel()
        await asyncio.wait(set(waiting[:2]))
        assert not waiting[2].done()
    await asyncio.wait_for(waiting[2], HANG)
    await asyncio.wait_for(in_episode(throttle, call), HANG)


async def test_waits_of_calls_at_one_time_count_once_for_the_episode() -> None:
    throttle, loop = Throttle(tools=1), asyncio.get_running_loop()

    async def call() -> None:
        async with tool_slot():
            await asyncio.sleep(0.02)

    async with throttle.episode() as tickets:
        began = loop.time()
        await asyncio.gather(call(), call(), call())
        assert 0 < waited() <= loop.time() - began
        assert not tickets.waits.under_way


# -- what the records say ----------------------------------------------------------------------------------------------


async def test_waiting_for_a_slot_or_a_sandbox_is_no_work_and_no_timeout() -> None:
    throttle = Throttle(tools=1, sandboxes=1)

    @tool(timeout=0.1)
    async def boxed() -> str:
        """Needs a sandbox."""
        await sandbox_ticket()
        return "done"

    async def play() -> Any:
        return await call_tool({"boxed": boxed}, ToolCall(id="c", name="boxed", arguments="{}"))

    async with throttle.episode():
        await sandbox_ticket()
        waiting = [asyncio.create_task(in_episode(throttle, play)) for _ in range(2)]
        await asyncio.sleep(0.3)  # three times its timeout
    for result, record in await asyncio.gather(*waiting):
        assert (result.text, record.error) == ("done", None)
        assert record.queued_seconds > 0.25
        assert record.seconds < record.queued_seconds


async def test_after_its_wait_a_call_has_its_timeout_and_not_more() -> None:
    throttle = Throttle(sandboxes=1)

    @tool(timeout=0.1)
    async def boxed() -> str:
        """Needs a sandbox, and then too long."""
        await sandbox_ticket()
        await asyncio.sleep(HANG)
        return "done"

    async def play() -> Any:
        return await call_tool({"boxed": boxed}, ToolCall(id="c", name="boxed", arguments="{}"))

    async with throttle.episode():
        await sandbox_ticket()
        waiting = asyncio.create_task(in_episode(throttle, play))
        await asyncio.sleep(0.15)
    result, record = await asyncio.wait_for(waiting, HANG / 2)
    assert result.error == "timeout"
    assert record.queued_seconds > 0.1


# -- real sandboxes ----------------------------------------------------------------------------------------------------


class Programs(ToolEnv):
    """Counts up in the session of `python`; the judge runs code, too."""

    tools: ClassVar = ("python",)

    def tasks(self, split: str) -> TaskSet:
        return GeneratedTasks(split, 100, lambda index: Task(f"{split}:{index}", split, (user("count"),)))

    async def judge(self, episode: Episode) -> Verdict:
        judged = await run_apart(get_sandbox("fork"), f"{episode.answer} == 3")
        return Verdict(float(judged.value == "True"))


def said(number: int, code: str) -> ToolCall:
    return ToolCall(id=f"call_{number}", name="python", arguments=json.dumps({"code": code}))


async def played(throttle: Throttle) -> tuple[float, list[str], dict[str, Any]]:
    """One episode: a message with two calls, then one with one, then the answer."""
    async with throttle.episode():
        env = Programs()
        try:
            await env.areset(seed=1)
            first = await env.astep(assistant(tool_calls=(said(0, "n = 1"), said(1, "n += 1; print(n)"))))
            await asyncio.sleep(0)
            second = await env.astep(assistant(tool_calls=(said(0, "print(n + 1)"),)))
            last = await env.astep("3")
        finally:
            await env.aclose()
        shown = [message.text for step in (first, second) for message in step.observation]
        return last.reward, shown, last.info


@pytest.fixture
def with_sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many episodes had a session of `fork` open, at each moment that one was opened."""
    backend = type(get_sandbox(needs("fork")))
    real, open_, seen = backend.open, Counter[object](), list[int]()

    async def opened(self: Any, **options: Any) -> Any:
        owner, session = current_episode(), await real(self, **options)
        close, kill, held = session.close, session.kill, ExitStack()
        held.callback(open_.subtract, [owner])

        async def closed() -> None:
            held.close()
            await close()

        def killed() -> None:
            held.close()
            kill()

        session.close, session.kill = closed, killed
        open_[owner] += 1
        seen.append(len(+open_))
        return session

    monkeypatch.setattr(backend, "open", opened)
    yield seen
    assert not +open_


@pytest.mark.parametrize("tools", [None, 1, 2])
async def test_sandboxes_are_limited_end_to_end(with_sessions: list[int], tools: int | None) -> None:
    throttle = Throttle(tools, sandboxes=2)
    episodes = await asyncio.wait_for(asyncio.gather(*(played(throttle) for _ in range(6))), 60)
    for reward, shown, info in episodes:
        assert (reward, shown) == (1.0, ["(no output)", "2", "3"])
        assert info["judge_seconds"] > 0
    assert len(with_sessions) == 12  # a tool's and a judge's of each
    assert max(with_sessions) == 2
    for number in range(2):
        assert throttle.sandboxes.try_take(number)


async def test_episodes_that_only_judge_in_sandboxes_take_turns(with_sessions: list[int]) -> None:
    throttle = Throttle(sandboxes=2)

    async def answered() -> float:
        async with throttle.episode():
            env = Programs(tools=())
            await env.areset(seed=1)
            return (await env.astep("__import__('time').sleep(0.2) or 3")).reward

    rewards = await asyncio.wait_for(asyncio.gather(*(answered() for _ in range(6))), 60)
    assert rewards == [1.0] * 6
    assert max(with_sessions) == 2


async def test_outside_of_a_rollout_the_info_is_the_same_every_time() -> None:
    needs("fork")
    env = Programs(tools=())
    await env.areset(seed=1)
    assert "judge_seconds" not in (await env.astep("3")).info
