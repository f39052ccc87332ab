"""Environments: Gymnasium's contract, two faces, tools, limits, sessions, snapshots, registration."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.registration import registry as gymnasium_registry
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Discrete, Text
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit

import agentrl
from agentrl import registration
from agentrl.env import Env, GeneratedTasks, ListedTasks, Observation, Task, TaskSet, as_message, ensure_env
from agentrl.errors import AgentRLError, ConfigError, EnvError, UnknownNameError
from agentrl.messages import Message, Role, ToolCall, assistant, system, user
from agentrl.registration import env_ids, make, register
from agentrl.task import Episode, Verdict
from agentrl.tool import Tool, tool
from agentrl.tool_env import ToolEnv
from agentrl.trajectory import StopReason, ToolCallRecord


class Ledger(Tool):
    """Keeps a sum."""

    name = "ledger"
    events: list[str]

    def __init__(self) -> None:
        self.events = []
        self.total: int | None = None

    async def open(self, episode: Episode) -> None:
        self.events.append(f"open {episode.task.id}")
        if episode.task.data["fails"] == "open":
            raise OSError("no room")
        self.total = 0

    async def close(self) -> None:
        self.events.append("close")
        self.total = None

    async def call(self, add: int) -> int:
        if self.total is None:
            raise RuntimeError("the ledger is closed")
        await asyncio.sleep(0)
        self.total += add
        return self.total

    async def snapshot(self) -> Any:
        return self.total

    async def restore(self, state: Any) -> None:
        self.total = state


@tool(timeout=0.05)
async def slow() -> str:
    """Never come back."""
    await asyncio.sleep(60)
    return ""


@tool(inline=True)
def crash() -> str:
    """Crash."""
    raise RuntimeError("out of order")


@tool(inline=True, max_output=100)
def flood() -> str:
    """Say much."""
    return "a" * 1_000_000


class Shop(ToolEnv):
    """Reach the goal's sum."""

    tools = (Ledger, slow, crash, flood)

    def tasks(self, split: str) -> TaskSet:
        self.check_split(split)
        return GeneratedTasks(split, 50, lambda index: self._task(split, index))

    def _task(self, split: str, index: int) -> Task:
        fails = {48: "open", 49: "judge"}.get(index)
        return Task(f"{split}:{index}", split, (user(f"reach {index}"),), {"goal": index, "fails": fails})

    def judge(self, episode: Episode) -> Verdict:
        if episode.task.data["fails"] == "judge":
            raise RuntimeError("the judge is ill")
        ledger = episode.tools["ledger"]
        assert isinstance(ledger, Ledger)
        assert ledger.total is not None, "the judge sees sessions that are still open"
        return Verdict(float(ledger.total == episode.task.data["goal"]), {"total": float(ledger.total)})

    def turn_reward(self, episode: Episode, records: Sequence[ToolCallRecord]) -> float:
        return -0.25 * sum(record.error is not None for record in records)


class AsyncJudge(Shop):
    """Its judge is a coroutine."""

    async def judge(self, episode: Episode) -> Verdict:  # type: ignore[override]
        await asyncio.sleep(0)
        return Verdict(7.0)


class Plain(gymnasium.Env[str, str]):
    """A plain Gymnasium environment over text that knows nothing of agentrl."""

    def __init__(self) -> None:
        self.action_space = Text(100)
        self.observation_space = Text(100)
        self.closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.secret = str(self.np_random.integers(1000))
        return f"say {self.secret}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        assert isinstance(action, str)
        return "", float(action == self.secret), True, False, {}

    def close(self) -> None:
        self.closed = True


def calls(*pairs: tuple[str, Any]) -> Message:
    made = [
        ToolCall(id=f"call_{number}", name=name, arguments=text if isinstance(text, str) else json.dumps(text))
        for number, (name, text) in enumerate(pairs)
    ]
    return assistant("", tuple(made))


def add(number: int) -> Message:
    return calls(("ledger", {"add": number}))


def ledger(env: ToolEnv) -> Ledger:
    (found,) = [made for made in env._tools.values() if isinstance(made, Ledger)]
    return found


@pytest.fixture
def registered() -> Iterator[None]:
    """What a test registers is gone after it."""
    registries: list[dict[str, Any]] = [gymnasium_registry, registration._ours]
    before = [dict(registry) for registry in registries]
    yield
    for registry, contents in zip(registries, before, strict=True):
        registry.clear()
        registry.update(contents)


# -- Gymnasium ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_env", [Shop, lambda: gymnasium.make("agentrl/Arithmetic-v0")])
def test_check_env_passes_without_a_warning(make_env: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make_env(), skip_render_check=make_env is Shop)  # rendering is checked where there is a spec


@pytest.mark.parametrize("env_id", ["agentrl/Arithmetic-v0", "agentrl:agentrl/Arithmetic-v0"])
def test_gymnasium_makes_it_with_its_coroutines(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(env_id, levels=(2,), render_mode="ansi")
    assert isinstance(env, Env)
    env.reset(seed=0)
    assert str(env.render()).startswith("system: ")


def test_the_passive_checker_finds_nothing_either() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("agentrl/Arithmetic-v0", disable_env_checker=False)
        env.reset(seed=0)
        env.step(calls(("calculator", {"expression": "1 + 1"})))
        env.step("2")
        env.close()


def test_time_limit_and_statistics_wrap_it() -> None:
    env = RecordEpisodeStatistics(TimeLimit(Shop(), max_episode_steps=2))
    env.reset(seed=0, options={"task": "train:3"})
    env.step(add(1))
    _, _, terminated, truncated, info = env.step(add(2))
    assert (terminated, truncated) == (False, True)
    assert info["episode"]["l"] == 2
    env.reset(seed=0, options={"task": "train:3"})
    env.step(add(3))
    _, _, terminated, _, info = env.step("done")
    assert terminated
    assert info["episode"]["r"] == 1.0


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_sync_vector_runs_episode_after_episode(mode: AutoresetMode) -> None:
    vector = SyncVectorEnv([Shop] * 3, autoreset_mode=mode)
    observations, _ = vector.reset(seed=5)
    assert observations in vector.observation_space
    finished = 0
    for step in range(12):
        actions = tuple(add(1) if (step + number) % 3 else assistant("done") for number in range(3))
        observations, rewards, terminated, truncated, info = vector.step(actions)
        assert observations in vector.observation_space
        assert rewards.shape == (3,)
        assert not truncated.any()
        assert {"tool_calls", "metrics", "state_key"} & set(info) or mode is AutoresetMode.NEXT_STEP
        finished += int(terminated.sum())
    assert finished >= 6
    vector.step(vector.action_space.sample())
    vector.close()


def test_async_vector_runs_in_other_processes() -> None:
    Shop().reset(seed=0)  # the private loop's thread exists before the fork
    vector = AsyncVectorEnv([Shop] * 2, shared_memory=False)
    observations, _ = vector.reset(seed=5)
    assert observations in vector.observation_space
    observations, *_ = vector.step((add(1), add(2)))
    assert [messages[0].text for messages in observations] == ["1", "2"]
    vector.close()


def test_the_same_seed_draws_the_same_task() -> None:
    drawn = [Shop().reset(seed=seed)[1]["task"]["id"] for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3
    env = Shop(split="test")
    env.reset(seed=1)
    following = [env.reset()[1]["task"]["id"] for _ in range(3)]
    env.reset(seed=1)
    assert following == [env.reset()[1]["task"]["id"] for _ in range(3)]
    assert all(task_id.startswith("test:") for task_id in following)


def test_a_step_outside_an_episode_asks_for_a_reset() -> None:
    env = Shop()
    with pytest.raises(ResetNeeded):
        env.step("x")
    env.reset(seed=0)
    env.step("x")
    with pytest.raises(ResetNeeded):
        env.step("x")


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_task_sets_are_addressed_by_index_and_by_id() -> None:
    env = Shop()
    tasks = env.tasks("test")
    assert isinstance(tasks, TaskSet)
    assert len(tasks) == 50
    assert tasks[7] == env.task("test:7")
    listed = ListedTasks("test", [tasks[3], tasks[1]])
    assert listed[1] == listed.by_id("test:1")
    assert [task.id for task in listed] == ["test:3", "test:1"]
    for task_set in (tasks, listed):
        assert isinstance(task_set, TaskSet)
        for index in (-1, 50):
            with pytest.raises(IndexError):
                task_set[index]
        for wrong in ("test:50", "test:-1", "test:07", "test:x", "train:1", "test", "", "test:٣"):
            with pytest.raises(UnknownNameError):
                task_set.by_id(wrong)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "dev:1"}, "split='dev' is unknown"),
        ({"task": "train:50"}, "task 'train:50' is unknown"),
        ({"tsak": "train:1"}, "did you mean 'task'?"),
    ],
)
def test_wrong_reset_options_are_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Shop().reset(options=options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# -- actions -----------------------------------------------------------------------------------------------------------


def test_an_action_may_be_a_message_text_or_wire_form() -> None:
    wire = add(3).to_wire()
    for action in (add(3), wire, '<tool_call>\n{"name": "ledger", "arguments": {"add": 3}}\n</tool_call>'):
        env = Shop()
        env.reset(options={"task": "train:3"})
        observation, reward, terminated, truncated, info = env.step(action)
        assert [(message.role, message.text) for message in observation] == [(Role.TOOL, "3")]
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert [record.name for record in info["tool_calls"]] == ["ledger"]
        assert env.step("done").reward == 1.0


@pytest.mark.parametrize("action", [user("x"), 3, {"role": "user", "content": "x"}, {"content": 3}, None])
def test_what_is_no_assistants_message_is_an_error_of_the_caller(action: Any) -> None:
    with pytest.raises(EnvError) as caught:
        as_message(action)
    assert "\n" not in str(caught.value)


# -- tool calls --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (calls(("ledgre", {"add": 1})), "unknown_tool"),
        (calls(("ledger", '{"add": ')), "parse"),
        (calls(("ledger", {"add": "one"})), "invalid_arguments"),
        (calls(("slow", {})), "timeout"),
        (calls(("crash", {})), "failed"),
        ("<tool_call>\n{broken\n</tool_call>", "parse"),
    ],
)
async def test_whatever_goes_wrong_in_a_call_is_an_observation(message: Any, kind: str) -> None:
    env = Shop()
    await env.areset(options={"task": "train:1"})
    observation, reward, terminated, truncated, info = await env.astep(message)
    assert [record.error for record in info["tool_calls"]] == [kind]
    assert observation[0].role is Role.TOOL
    assert observation[0].text.startswith("Error")
    assert info["parse_error"] is (kind == "parse")
    assert (reward, terminated, truncated) == (-0.25, False, False)
    await env.astep(add(1))
    assert (await env.astep("done")).reward == 1.0


async def test_a_giant_output_is_cut() -> None:
    env = Shop()
    await env.areset(seed=0)
    observation, *_ = await env.astep(calls(("flood", {})))
    assert len(observation[0].text) == 100


async def test_calls_of_one_message_run_concurrently_and_answer_in_order() -> None:
    both = asyncio.Barrier(2)

    @tool(timeout=10)
    async def meet(name: str) -> str:
        """Wait for the other call."""
        await both.wait()
        return name

    class Meeting(Shop):
        """Two calls that need each other."""

        tools = (Ledger, meet)

    env = Meeting()
    await env.areset(seed=0)
    observation, _, _, _, info = await env.astep(calls(("meet", {"name": "a"}), ("meet", {"name": "b"})))
    assert [(message.text, message.tool_call_id) for message in observation] == [("a", "call_0"), ("b", "call_1")]
    assert [record.result for record in info["tool_calls"]] == ["a", "b"]


async def test_calls_beyond_the_limit_of_a_message_are_not_executed() -> None:
    env = Shop(max_calls=2)
    await env.areset(seed=0)
    observation, _, _, _, info = await env.astep(calls(*[("ledger", {"add": 1})] * 4))
    assert [record.error for record in info["tool_calls"]] == [None, None, "failed", "failed"]
    assert len(observation) == 4
    assert ledger(env).total == 2


def test_tool_options_reach_the_tools_and_wrong_ones_are_refused() -> None:
    assert Shop(tool_options={"slow": {"timeout": 9}})._tools["slow"].timeout == 9
    with pytest.raises(ConfigError, match="'slwo' is no tool here"):
        Shop(tool_options={"slwo": {}})


# -- the end of an episode ---------------------------------------------------------------------------------------------


async def test_an_answer_ends_the_episode_with_a_verdict() -> None:
    env = Shop()
    opening, info = await env.areset(seed=3, options={"task": "train:4"})
    assert opening == (user("reach 4"),)
    assert info["task"] == {"id": "train:4", "split": "train", "level": 1}
    await env.astep(add(4))
    observation, reward, terminated, truncated, info = await env.astep("done")
    assert (observation, reward, terminated, truncated) == ((), 1.0, True, False)
    assert info["metrics"] == {"total": 4.0}
    assert info["stop_reason"] == "terminated"
    assert env.episode.stop_reason is StopReason.TERMINATED
    assert env.episode.answer == "done"
    assert env.episode.seed == 3


async def test_a_judge_may_be_a_coroutine() -> None:
    env = AsyncJudge()
    await env.areset(seed=0)
    assert (await env.astep("done")).reward == 7.0


async def test_three_invalid_turns_in_a_row_end_the_episode_and_it_is_judged() -> None:
    env = Shop()
    await env.areset(options={"task": "train:2"})
    bad = calls(("nothing", {}), ("ledger", "{"))
    for action in (bad, bad, calls(("nothing", {}), ("ledger", {"add": 2})), bad, bad):
        step = await env.astep(action)
        assert not step.truncated
    step = await env.astep(bad)
    assert (step.terminated, step.truncated) == (False, True)
    assert step.info["stop_reason"] == "invalid_calls"
    assert step.info["metrics"] == {"total": 2.0}
    assert step.reward == 1.0 - 0.5
    assert len(step.observation) == 2


async def test_failures_of_a_tool_are_no_invalid_calls() -> None:
    env = Shop(max_invalid_turns=1)
    await env.areset(seed=0)
    for _ in range(3):
        assert not (await env.astep(calls(("crash", {})))).truncated


async def test_the_turn_limit_ends_the_episode_and_it_is_judged() -> None:
    env = Shop(max_turns=2)
    await env.areset(options={"task": "train:2"})
    await env.astep(add(1))
    step = await env.astep(add(1))
    assert (step.terminated, step.truncated, step.reward) == (False, True, 1.0)
    assert step.info["stop_reason"] == "max_turns"


async def test_whoever_drives_it_may_end_it() -> None:
    env = Shop()
    await env.areset(options={"task": "train:2"})
    await env.astep(add(2))
    assert await env.afinish(StopReason.MAX_TOKENS) == Verdict(1.0, {"total": 2.0})
    assert env.episode.stop_reason is StopReason.MAX_TOKENS
    assert ledger(env).events[-1] == "close"
    with pytest.raises(ResetNeeded):
        await env.astep("x")


async def test_the_state_key_names_what_the_policy_has_before_it() -> None:
    env = Shop()
    keys = []
    for said, number in (("a", 1), ("b", 1), ("a", 2)):
        _, info = await env.areset(options={"task": "train:2"})
        message = add(number).model_copy(update={"content": said})
        keys.append((info["state_key"], (await env.astep(message)).info["state_key"]))
    assert keys[0] == keys[1]
    assert keys[0][0] == keys[2][0]
    assert keys[0][1] != keys[2][1]
    assert (await env.areset(options={"task": "train:3"}))[1]["state_key"] != keys[0][0]


# -- sessions ----------------------------------------------------------------------------------------------------------


async def test_sessions_are_closed_whatever_happened() -> None:
    env = Shop()
    await env.areset(options={"task": "train:1"})
    await env.astep("done")
    assert ledger(env).events == ["open train:1", "close"]

    ledger(env).events.clear()
    await env.areset(options={"task": "train:2"})
    await env.areset(options={"task": "train:3"})
    await env.aclose()
    await env.aclose()
    assert ledger(env).events == ["open train:2", "close", "open train:3", "close"]

    ledger(env).events.clear()
    with pytest.raises(EnvError, match=r"ledger.*no room"):
        await env.areset(options={"task": "train:48"})
    assert ledger(env).events == ["open train:48", "close"]
    with pytest.raises(ResetNeeded):
        await env.astep("x")

    ledger(env).events.clear()
    await env.areset(options={"task": "train:49"})
    with pytest.raises(RuntimeError, match="ill"):
        await env.astep("done")
    assert ledger(env).events == ["open train:49", "close"]


async def test_a_cancelled_step_closes_the_sessions() -> None:
    env = Shop(tool_options={"slow": {"timeout": 60}})
    await env.areset(options={"task": "train:1"})
    task = asyncio.ensure_future(env.astep(calls(("slow", {}))))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ledger(env).events == ["open train:1", "close"]


async def test_a_session_that_cannot_be_closed_is_logged_and_the_others_are_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Sticky(Tool):
        """Sticks."""

        name = "sticky"

        async def open(self, episode: Episode) -> None:
            pass

        async def close(self) -> None:
            raise OSError("stuck")

        async def call(self) -> str:
            return ""

    class Both(Shop):
        """Two sessions."""

        tools = (Ledger, Sticky)

    env = Both()
    await env.areset(options={"task": "train:0"})
    assert (await env.astep("done")).reward == 1.0
    assert ledger(env).events[-1] == "close"
    assert "sticky" in caplog.text


async def test_environments_do_not_share_sessions() -> None:
    first, second = Shop(), Shop()
    await first.areset(seed=0)
    await second.areset(seed=0)
    await first.astep(add(5))
    assert ((await second.astep(add(1))).observation)[0].text == "1"


# -- snapshots ---------------------------------------------------------------------------------------------------------


async def test_a_snapshot_continues_here_and_elsewhere_and_stays_as_it_is() -> None:
    env = Shop()
    await env.areset(seed=1, options={"task": "train:6"})
    await env.astep(add(2))
    snapshot = await env.asnapshot()

    async def rest(from_env: Shop) -> list[Any]:
        steps = [await from_env.astep(action) for action in (add(4), "done")]
        for step in steps:
            for record in step.info["tool_calls"]:
                record.seconds = record.queued_seconds = 0.0
        return [*steps, from_env.episode.messages, from_env.episode.rewards]

    wanted = await rest(env)
    assert wanted[1].reward == 1.0
    other = Shop()
    for target in (env, other, other):
        await target.arestore(snapshot)
        assert await rest(target) == wanted
    assert await env.areset() == await other.areset(), "random numbers go on alike"


def test_snapshots_have_a_blocking_face() -> None:
    env = gymnasium.make("agentrl/Arithmetic-v0", levels=(2,))
    assert isinstance(env, Env)
    env.reset(seed=0)
    env.step(env.oracle_action())
    snapshot = env.snapshot()
    second = env.oracle_action()
    env.step("0")
    env.restore(snapshot)
    assert env.oracle_action() == second
    env.step(second)
    assert env.step(env.oracle_action())[1] == 1.0


async def test_what_cannot_be_copied_says_so() -> None:
    class Opaque(Ledger):
        """Cannot be copied."""

        name = "opaque"

        async def call(self, add: int) -> int:
            return add

        async def snapshot(self) -> Any:
            return await Tool.snapshot(self)

    class Closed(Shop):
        """One opaque tool."""

        tools = (Opaque,)

    env = Closed()
    await env.areset(seed=0)
    with pytest.raises(EnvError, match="opaque"):
        await env.asnapshot()
    with pytest.raises(EnvError, match="not a snapshot"):
        await env.arestore({})
    with pytest.raises(EnvError, match="ForeignEnv"):
        ensure_env(Plain()).snapshot()


# -- two faces ---------------------------------------------------------------------------------------------------------


async def test_both_faces_give_the_same_inside_a_running_loop() -> None:
    """As in a notebook: the blocking face works although a loop runs in this very thread."""
    actions = [add(1), calls(("nothing", {})), add(3), "done"]
    blocking, native = Shop(), Shop()
    assert blocking.reset(seed=4) == await native.areset(seed=4)
    for action in actions:
        first, second = blocking.step(action), await native.astep(action)
        for record in (*first.info["tool_calls"], *second.info["tool_calls"]):
            record.seconds = record.queued_seconds = 0.0
        assert first == second
    blocking.close()


async def test_a_blocking_call_that_would_wait_for_itself_is_an_error() -> None:
    inner = Shop()

    @tool(inline=True)
    def nested() -> str:
        """Drive another environment by its blocking face."""
        inner.reset(seed=0)
        return "done"

    class Outer(Shop):
        """Has a tool that blocks."""

        tools = (Ledger, nested)

    outer = Outer()
    outer.reset(seed=0)
    assert "await it" in outer.step(calls(("nested", {}))).observation[0].text
    outer.close()


async def test_errors_pass_through_the_blocking_face() -> None:
    env = Shop()
    with pytest.raises(EnvError, match="no room"):
        env.reset(options={"task": "train:48"})


async def test_a_blocking_environment_gets_its_coroutines() -> None:
    class Echo(Env):
        """Blocking by nature."""

        def tasks(self, split: str) -> TaskSet:
            return GeneratedTasks(split, 3, lambda index: Task(f"{split}:{index}", split, (user(str(index)),)))

        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[Observation, dict[str, Any]]:
            return self.choose_task(seed, options).messages, {}

        def step(self, action: Any) -> Any:
            return (), float(len(as_message(action).text)), True, False, {}

    env = Echo()
    assert ensure_env(env) is env
    assert (await env.areset(options={"task": "train:2"}))[0] == (user("2"),)
    assert (await env.astep("four")).reward == 4.0
    await env.aclose()
    check_env(env, skip_render_check=True)


async def test_a_plain_gymnasium_environment_becomes_one() -> None:
    env = ensure_env(Plain())
    opening, info = await env.areset(seed=1, options={"task": "train:5"})
    again, _ = await env.areset(seed=2, options={"task": "train:5"})
    other, _ = await env.areset(seed=1, options={"task": "test:5"})
    assert opening == again != other
    assert info["task"] == {"id": "train:5", "split": "train"}
    await env.areset(options={"task": "train:5"})
    step = await env.astep(opening[0].text.removeprefix("say "))
    assert (step.observation, step.reward, step.terminated) == ((), 1.0, True)
    assert step.info["stop_reason"] == "terminated"
    assert len(env.tasks("test")) > 10**6
    assert env.tool_schemas() == []
    with pytest.raises(NotImplementedError):
        env.oracle_action()
    await env.aclose()
    assert env.env.closed  # type: ignore[attr-defined]


async def test_a_wrapped_environment_keeps_what_the_inner_one_offers() -> None:
    env = ensure_env(RecordEpisodeStatistics(Shop()))
    await env.areset(seed=0, options={"task": "train:3"})
    await env.astep(add(3))
    step = await env.astep("done")
    assert step.reward == 1.0
    assert step.info["episode"]["l"] == 2
    assert env.task("test:1").data["goal"] == 1
    assert [schema["function"]["name"] for schema in env.tool_schemas()] == ["ledger", "slow", "crash", "flood"]
    await env.aclose()


async def test_what_a_wrapper_cuts_short_the_inner_environment_judges() -> None:
    env = ensure_env(TimeLimit(Shop(), max_episode_steps=1))
    await env.areset(seed=0, options={"task": "train:3"})
    step = await env.astep(add(3))
    assert (step.terminated, step.truncated, step.reward) == (False, True, 1.0)
    assert step.info["metrics"] == {"total": 3.0}
    assert step.info["stop_reason"] == "max_turns"
    assert step.info["answer"] is None
    await env.aclose()


async def test_of_what_a_wrapper_cuts_short_the_answer_is_known_and_the_task_as_before() -> None:
    class Guess(Shop):
        def judge(self, episode: Episode) -> Verdict:
            return Verdict(0.0, answer=f"{len(episode.calls)} calls")

        def fingerprint(self, task: Task) -> Any:
            return "what decides"

    env = ensure_env(TimeLimit(Guess(), max_episode_steps=1))
    assert env.fingerprint(env.task("train:3")) == "what decides"
    await env.areset(seed=0, options={"task": "train:3"})
    assert (await env.astep(add(3))).info["answer"] == "1 calls"
    await env.aclose()


async def test_an_observation_that_is_no_message_is_an_error() -> None:
    class Numbers(Plain):
        """Observes numbers."""

        def __init__(self) -> None:
            super().__init__()
            self.observation_space = Discrete(3)  # type: ignore[assignment]

        def reset(self, **_: Any) -> Any:
            return 1, {}

    with pytest.raises(EnvError, match="not int"):
        await ensure_env(Numbers()).areset()


def test_an_environment_without_tasks_or_judge_cannot_be_made() -> None:
    class Nothing(ToolEnv):
        """Says nothing."""

    with pytest.raises(TypeError, match="judge"):
        Nothing()  # type: ignore[abstract]


# -- registration ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("registered")
def test_register_is_a_decorator_and_a_function() -> None:
    register("test/Shop-v0", max_turns=3)(Shop)
    register("test/Limited-v0", f"{__name__}:Shop", max_episode_steps=2)
    shop = make("test/Shop-v0", max_calls=1)
    assert isinstance(shop, Shop)
    assert (shop.max_turns, shop.max_calls) == (3, 1)
    assert shop.spec is not None
    assert shop.spec.id == "test/Shop-v0"
    limited = make("test/Limited-v0")
    assert isinstance(limited.unwrapped, Shop) or isinstance(limited.env.unwrapped, Shop)  # type: ignore[attr-defined]
    assert env_ids()["test/Shop-v0"].endswith(":Shop")
    assert env_ids()["agentrl/Arithmetic-v0"] == "agentrl.envs.arithmetic:ArithmeticEnv"


@pytest.mark.usefixtures("registered")
def test_an_id_is_taken_by_one_environment_only() -> None:
    register("test/Shop-v0", Shop)
    register("test/Shop-v0", Shop)
    with pytest.raises(ConfigError, match="already registered by"):
        register("test/Shop-v0", AsyncJudge)
    with pytest.raises(ConfigError, match="cannot be registered"):
        register("no good id", Shop)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("env_id", "options", "said"),
    [
        ("agentrl/Arithmetik-v0", {}, "did you mean 'agentrl/Arithmetic-v0'"),
        ("agentrl/Arithmetic-v9", {}, "did you mean 'agentrl/Arithmetic-v0'"),
        ("no_such_module:a/B-v0", {}, "no_such_module"),
        ("test/Broken-v0", {}, "cannot be imported"),
        ("agentrl/Arithmetic-v0", {"level": 2}, "did you mean 'levels'?"),
        ("agentrl/Arithmetic-v0", {"levels": 2}, "levels: input should be a valid tuple (got 2)"),
        ("agentrl/Arithmetic-v0", {"levels": [9]}, "levels=(9,)"),
        ("agentrl/Arithmetic-v0", {"max_turns": 0}, "max_turns=0"),
        ("agentrl/Arithmetic-v0", {"split": "dev"}, "split='dev'"),
    ],
)
def test_wrong_names_and_options_are_one_line(env_id: str, options: dict[str, Any], said: str) -> None:
    register("test/Broken-v0", "agentrl.nowhere:Env")
    with pytest.raises(ConfigError) as caught:
        make(env_id, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_importing_agentrl_imports_no_environment_and_nothing_heavy() -> None:
    code = (
        "import sys, agentrl, gymnasium; agentrl.Message, agentrl.ToolEnv, agentrl.Trajectory\n"
        "assert 'agentrl/Arithmetic-v0' in gymnasium.registry\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'sqlalchemy', 'agentrl.envs', 'agentrl.tools'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_names_are_what_they_say() -> None:
    assert agentrl.Task is Task
    assert callable(agentrl.tool)
    assert "ToolEnv" in dir(agentrl)
    with pytest.raises(AttributeError, match="nothing"):
        agentrl.nothing  # noqa: B018
    assert issubclass(UnknownNameError, AgentRLError)


def test_the_system_message_may_be_part_of_a_task() -> None:
    assert Task("train:0", "train", (system("be brief"), user("x"))).messages[0].role is Role.SYSTEM
