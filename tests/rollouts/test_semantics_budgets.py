"""The rules of the rollout manager, 29 to 32: budgets of a whole episode, and what it cost.

A test that fails here means that a rule is broken: do not "fix" the test, and read the rule again.

29. An episode samples at most `max_tokens`; the turn that would exceed them is cut there, and then the environment
    judges what there is.
    So in every engine's pace, and in branches, which have sampled what they copied.
30. At most `tool_calls` calls are executed. They may be used up; a message that calls beyond them ends the episode, its
    first calls executed and the others not. Malformed calls are none.
31. Without token ids both hold by what the endpoint counts; one that counts nothing cannot be held to `max_tokens`.
    What the record says of tokens and answers is the policy's.
32. What cannot be sampled as asked is refused before the first episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from agentrl.config import load_config
from agentrl.engines.base import Capabilities, Completion, Engine, FinishReason, Reply, Sampling
from agentrl.env import ListedTasks, Task
from agentrl.errors import ConfigError
from agentrl.messages import Message, ToolCall, assistant, user
from agentrl.replay import first_difference
from agentrl.rollouts.branching import BranchAtTurns
from agentrl.tool_env import Episode, ToolEnv, Verdict
from agentrl.trajectory import StopReason, Trajectory
from tests.rollouts.fakes import FakeEngine, LockstepEngine, World, context_of, requests
from tests.rollouts.semantics import TimedEngine, TimedEnv, in_virtual_time, only, play


class Talker(Engine):
    """Says what it is given, turn by turn, and counts each message as ten tokens after a hundred per message before."""

    capabilities = Capabilities(tokens=False, logprobs=False)

    def __init__(self, messages: Sequence[Message], counts: bool = True) -> None:
        self.messages = list(messages)
        self.counts = counts
        self.asked: list[Sampling] = []

    async def generate(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("takes messages")

    async def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        sampling: Sampling,
        *,
        session: str | None = None,
    ) -> Reply:
        self.asked.append(sampling)
        turn = sum(message.role == "assistant" for message in messages)
        prompt, sampled = (100 * len(messages), 10) if self.counts else (None, None)
        return Reply(self.messages[turn], FinishReason.STOP, prompt, sampled)


class Counter(ToolEnv):
    """Its tool counts how often it was called."""

    def __init__(self) -> None:
        self.called: list[int] = []

        async def add(number: int) -> str:
            """Add a number.

            Args:
                number: what is added.
            """
            self.called.append(number)
            return f"total {sum(self.called)}"

        self.tools = [add]  # type: ignore[misc]
        super().__init__()

    def tasks(self, split: str) -> ListedTasks:
        return ListedTasks(split, [Task(f"{split}:0", split, (user("Count."),))])

    def judge(self, episode: Episode) -> Verdict:
        return Verdict(float(sum(self.called)), {"correct": float(episode.answer == "done")})


def calls(*numbers: int | str) -> Message:
    arguments = [f'{{"number": {number}}}' for number in numbers]
    return assistant("", tuple(ToolCall(id=f"c{at}", name="add", arguments=text) for at, text in enumerate(arguments)))


async def counted(engine: Talker, **limits: Any) -> tuple[Trajectory, Counter]:
    env = Counter()
    context = context_of(World(), engine, lambda: env, **limits)
    return only(await play(context, requests(1, 1))), env


async def branched(engine: Engine, make_env: Any, **limits: Any) -> list[Trajectory]:
    """A member that begins at the start, and one that branches off it after the first turn."""
    rollout = BranchAtTurns(context_of(World(), engine, make_env, **limits), turns=[1], roots=1)
    return [episode async for group in rollout.run(requests(1, 2)) for episode in group.trajectories]


class Long(TimedEnv):
    turns = 50

    async def asnapshot(self) -> Any:
        return self.left, self.turn, self.seed

    async def arestore(self, state: Any) -> None:
        self.left, self.turn, self.seed = state


# -- 29 ----------------------------------------------------------------------------------------------------------------


@in_virtual_time
@pytest.mark.parametrize("budget", [1, 7, 20])
async def test_29_no_episode_samples_more_than_its_tokens(budget: int) -> None:
    world, engine = World(), FakeEngine()
    make = lambda: Long(world)  # noqa: E731
    episode = only(await play(context_of(world, engine, make, max_tokens=budget, max_turns=40), requests(1, 1)))
    assert episode.completion_tokens == budget
    assert episode.stop_reason is StopReason.TOKEN_BUDGET
    assert episode.stop_reason.cut and not episode.aborted
    assert episode.turns[-1].reward == -0.5  # what the environment says of one that is cut
    assert [sampling.max_tokens for sampling in engine.sampling] == [
        budget - sum(len(turn.sampled_ids) for turn in episode.turns[:at]) for at in range(len(episode.turns))
    ]
    assert episode.prompt_tokens == sum(len(prompt) for _, prompt, _ in engine.calls)
    assert episode.context_lengths() == [len(prompt) for _, prompt, _ in engine.calls]


@in_virtual_time
@pytest.mark.parametrize("engine", [FakeEngine, LockstepEngine, TimedEngine])
async def test_29_at_every_engines_pace(engine: type[FakeEngine]) -> None:
    world = World(latency=0.5)
    limits = {"max_tokens": 20, "max_turns": 40, "concurrency": 3}
    groups = await play(context_of(world, engine(), lambda: Long(world), **limits), requests(4, 2))
    episodes = [episode for group in groups for episode in group.trajectories]
    assert len(episodes) == 8
    assert all((one.completion_tokens, one.stop_reason) == (20, StopReason.TOKEN_BUDGET) for one in episodes)


async def test_29_a_branch_has_sampled_what_it_copied() -> None:
    world, engine = World(), FakeEngine()
    parent, branch = await branched(engine, lambda: Long(world), max_tokens=20, max_turns=40)
    assert branch.branch is not None and branch.turns[0].sampled_ids == parent.turns[0].sampled_ids
    assert len(parent.turns) > 1 and branch.turns[1].sampled_ids != parent.turns[1].sampled_ids
    for episode in (parent, branch):
        assert (episode.completion_tokens, episode.stop_reason) == (20, StopReason.TOKEN_BUDGET)


@pytest.mark.parametrize("limit", ["max_tokens", "max_context"])
async def test_29_nothing_branches_off_an_episode_that_cannot_go_on(limit: str) -> None:
    """It would be a copy: the seat is played from the start."""
    world, engine = World(), FakeEngine()
    episodes = await branched(engine, lambda: Long(world), **{limit: {"max_tokens": 1, "max_context": 20}[limit]})
    assert [(len(one.turns), one.branch) for one in episodes] == [(1, None)] * 2
    assert episodes[0].turns[0].sampled_ids != episodes[1].turns[0].sampled_ids


# -- 30 ----------------------------------------------------------------------------------------------------------------


async def test_30_calls_may_be_used_up_and_the_answer_still_counts() -> None:
    episode, env = await counted(Talker([calls(1), calls(2), assistant("done")]), tool_calls=2)
    assert env.called == [1, 2]
    assert episode.stop_reason is StopReason.TERMINATED
    assert episode.metrics == {"correct": 1.0}
    assert episode.info["answer"] == "done"


async def test_30_a_message_beyond_the_calls_ends_the_episode() -> None:
    episode, env = await counted(Talker([calls(1), calls(2, 3, 4), assistant("done")]), tool_calls=3)
    assert env.called == [1, 2, 3]
    assert episode.stop_reason is StopReason.CALL_BUDGET
    last = episode.turns[-1]
    assert [call.arguments for call in last.message.tool_calls] == ['{"number": 2}', '{"number": 3}', '{"number": 4}']
    assert [record.result for record in last.tool_calls] == ["total 3", "total 6"]
    assert len(last.observation) == 2
    assert last.reward == 6.0
    assert episode.metrics == {"correct": 0.0}
    assert "answer" not in episode.info
    assert await first_difference(Counter(), episode) is None  # replayed with as many calls


async def test_30_no_call_at_all() -> None:
    episode, env = await counted(Talker([calls(1), assistant("done")]), tool_calls=0)
    assert env.called == []
    assert episode.stop_reason is StopReason.CALL_BUDGET
    assert (len(episode.turns), episode.turns[0].observation, episode.turns[0].tool_calls) == (1, [], [])
    assert await first_difference(Counter(), episode) is None
    text = assistant('<tool_call>{"name": "add", "arguments": {"number": 1}}</tool_call>')
    episode, env = await counted(Talker([text, assistant("done")]), tool_calls=0)
    assert (env.called, episode.stop_reason) == ([], StopReason.CALL_BUDGET)


async def test_30_the_environment_may_end_it_with_the_calls_that_are_left() -> None:
    class Closing(Counter):
        def __init__(self) -> None:
            super().__init__()
            self.max_turns = 1

    env = Closing()
    context = context_of(World(), Talker([calls(1, 2, 3)]), lambda: env, tool_calls=2)
    episode = only(await play(context, requests(1, 1)))
    assert (env.called, episode.stop_reason) == ([1, 2], StopReason.MAX_TURNS)
    assert await first_difference(Closing(), episode) is None


async def test_30_a_branch_has_used_the_calls_that_it_copied() -> None:
    messages = [calls(1), calls(2), calls(3), assistant("done")]
    for episode in await branched(Talker(messages), Counter, tool_calls=2):
        assert sum(len(turn.tool_calls) for turn in episode.turns) == 2
        assert (len(episode.turns), episode.stop_reason) == (3, StopReason.CALL_BUDGET)


async def test_30_malformed_calls_are_none() -> None:
    episode, env = await counted(Talker([calls('"x"'), calls(1), calls(2), assistant("done")]), tool_calls=2)
    assert env.called == [1, 2]
    assert episode.stop_reason is StopReason.TERMINATED
    assert [record.error for turn in episode.turns for record in turn.tool_calls] == ["invalid_arguments", None, None]


# -- 31 ----------------------------------------------------------------------------------------------------------------


async def test_31_an_endpoint_is_held_to_what_it_counts() -> None:
    engine = Talker([calls(1)] * 9)
    episode, _ = await counted(engine, max_tokens=25, max_turns=9)
    assert episode.stop_reason is StopReason.TOKEN_BUDGET
    assert (episode.completion_tokens, episode.prompt_tokens) == (30, 100 + 300 + 500)
    assert [sampling.max_tokens for sampling in engine.asked] == [25, 15, 5]
    assert episode.info["usage"] == {"prompt_tokens": 900, "completion_tokens": 30}
    episode, _ = await counted(Talker([calls(1)] * 9), max_context=400, max_turns=9)
    assert episode.stop_reason is StopReason.MAX_TOKENS
    assert len(episode.turns) == 3


async def test_31_a_branch_counts_for_itself() -> None:
    engine = Talker([calls(1), calls(2), assistant("done")])
    parent, branch = await branched(engine, Counter, max_context=600)
    assert branch.branch is not None
    for episode in (parent, branch):
        assert episode.info["usage"] == {"prompt_tokens": 100 + 300 + 500, "completion_tokens": 30}
    engine.asked.clear()
    await branched(engine, Counter, max_context=350, max_turns=2)
    assert sorted(sampling.max_tokens for sampling in engine.asked) == [240, 240, 256]


async def test_31_a_branch_has_its_own_entropies() -> None:
    class Surprised(FakeEngine):
        def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
            completion = super().complete(prompt_ids, sampling)
            return replace(completion, entropies=[float(token) for token in completion.ids])

    world = World()
    for episode in await branched(Surprised(), lambda: Long(world), max_turns=3):
        means = [sum(turn.sampled_ids) / len(turn.sampled_ids) for turn in episode.turns]
        assert episode.info["token_entropy"] == means and len(means) == 3


async def test_31_one_that_counts_nothing() -> None:
    episode, _ = await counted(Talker([calls(1), assistant("done")], counts=False))
    assert (episode.completion_tokens, episode.prompt_tokens) == (None, None)
    with pytest.raises(ConfigError, match=r"does not say how many tokens .*; lift that limit \(max_tokens=null\)"):
        await counted(Talker([assistant("done")], counts=False), max_tokens=100)


async def test_31_what_the_environment_calls_an_answer_is_not_the_policys() -> None:
    class Teller(Counter):
        def _record(self, task: Task) -> dict[str, Any]:
            return {**super()._record(task), "answer": "the gold one", "usage": {}}

    episode = only(await play(context_of(World(), Talker([calls(1)] * 9), Teller, max_turns=1), requests(1, 1)))
    assert episode.info == {
        "id": "train:0", "split": "train", "level": 1, "usage": {"prompt_tokens": 100, "completion_tokens": 10}
    }  # fmt: skip


# -- 32 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_tokens": 0}, "rollout.max_tokens=0 must be at least 1"),
        ({"tool_calls": -1}, "rollout.tool_calls=-1 must be 0 or more"),
        ({"top_p": 0.0}, "rollout.top_p=0.0 must be above 0 and at most 1"),
        ({"top_p": 1.5}, "rollout.top_p=1.5 must be above 0"),
        ({"top_p": 0.9}, "top_p=0.9: engine FakeEngine cannot sample a nucleus"),
    ],
)
async def test_32_what_cannot_be_is_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await play(context_of(World(), FakeEngine(), **limits), requests(1, 1))


def test_32_training_has_budgets_and_no_nucleus() -> None:
    from agentrl.assembly import limits_of

    limits = limits_of(load_config(overrides=["rollout.max_tokens=99", "rollout.tool_calls=3"]).rollout)
    assert (limits.max_tokens, limits.tool_calls, limits.top_p) == (99, 3, 1.0)
    with pytest.raises(ConfigError, match=r"rollout\.top_p: unknown key"):
        load_config(overrides=["rollout.top_p=0.9"])
