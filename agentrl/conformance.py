"""Does an environment keep the contract? One function a rule, for bundled environments and anybody's.

Every rule plays real episodes and gives a `Finding`: it holds, it does not (with what was seen and what to do), or it
does not apply (no tools, no oracle). Invariant: a rule's failure, also one that raises, is a finding; it never hides
the rules after it, and a rule that could not be tried is never counted as held.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gymnasium.utils.env_checker import check_env as gymnasium_check

from agentrl.env import Env, Step
from agentrl.errors import AgentRLError, ConfigError, EnvError
from agentrl.messages import ToolCall, assistant
from agentrl.oracle import oracle_trajectory
from agentrl.replay import first_difference
from agentrl.text import one_line
from agentrl.tool import TOOL_NAME
from agentrl.trajectory import StopReason, Trajectory

SHORTEST_LEAK = 3
"""Characters of a gold answer below which it may stand in a question by chance."""
LEAK_EPISODES = 12
"""Episodes whose descriptors and children must not add up."""


class ConformanceError(AgentRLError):
    """An environment breaks a rule of the contract; the message says which, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule found."""

    rule: str
    holds: bool | None
    """None: the rule does not apply to this environment."""
    seen: str = ""
    advice: str = ""


@dataclass(slots=True)
class Report:
    """The findings about one environment."""

    env_id: str
    findings: list[Finding] = field(default_factory=list)
    steps_per_second: float | None = None
    """Of the oracle's episodes stepped again, one after another; None without an oracle."""

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.holds is False]

    def raise_for_failures(self) -> None:
        """Raise `ConformanceError` for the first rule that is broken."""
        for finding in self.failures:
            raise ConformanceError(f"{self.env_id}: {finding.rule}: {finding.seen}; {finding.advice}")


class Broken(Exception):
    """A rule is broken: (what was seen, what to do)."""


class NotApplicable(Exception):
    """A rule has nothing to look at in this environment; the text says why."""


@dataclass(slots=True)
class Subject:
    """The environment under test: how to make one, and which tasks to try."""

    make: Callable[[], Env]
    tasks: list[str]
    """Ids, `split:name`, of every split."""
    seed: int
    episodes: list[Trajectory] = field(default_factory=list)
    """The oracle's episode of each task; empty without an oracle."""
    seconds: float = 0.0
    """In which those were stepped again, when all that environments share was open."""

    def played(self) -> list[Trajectory]:
        if not self.episodes:
            raise NotApplicable("the environment has no oracle (oracle_action)")
        return self.episodes


Rule = Callable[[Subject], Awaitable[str | None]]
"""Gives a remark, or raises `Broken` or `NotApplicable`."""


def check_environment(make: Callable[[], Env], env_id: str = "", *, tasks: int = 4, seed: int = 0) -> Report:
    """Try every rule on `tasks` tasks of each split; `make` makes a fresh environment at each call.

    Blocking; opens and closes environments of its own. Rules: see `RULES`.
    """
    report = Report(env_id)
    report.findings.append(_gymnasium(make))
    asyncio.run(_check(make, tasks, seed, report))
    return report


async def _check(make: Callable[[], Env], tasks: int, seed: int, report: Report) -> None:
    env = make()
    ids = [env.tasks(split)[index].id for split in env.splits for index in range(min(tasks, len(env.tasks(split))))]
    subject = Subject(make, ids, seed)
    await env.aclose()
    for rule in RULES:
        report.findings.append(await _tried(rule, subject))
    steps = sum(len(episode.turns) for episode in subject.episodes)
    report.steps_per_second = steps / subject.seconds if subject.seconds else None


async def _tried(rule: Rule, subject: Subject) -> Finding:
    name = (rule.__doc__ or "").splitlines()[0].rstrip(".")
    try:
        return Finding(name, True, await rule(subject) or "")
    except NotApplicable as reason:
        return Finding(name, None, str(reason))
    except Broken as broken:
        seen, advice = broken.args
        return Finding(name, False, one_line(seen, 300), advice)
    except Exception as error:  # the environment's own code: whatever it raises is the finding
        return Finding(name, False, one_line(f"{type(error).__name__}: {error}", 300), "nothing here may raise")


def _gymnasium(make: Callable[[], Env]) -> Finding:
    rule = "gymnasium's own check_env passes"
    env = make()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gymnasium_check(env, skip_render_check=True)
    except Exception as error:  # the checker raises what it likes
        seen = one_line(f"{type(error).__name__}: {error}", 300)
        return Finding(rule, False, seen, "see gymnasium.utils.env_checker.check_env")
    finally:
        env.close()
    return Finding(rule, True)


# -- the rules, in the order in which they are tried -------------------------------------------------------------------


async def the_gold_solution_scores_one(subject: Subject) -> str | None:
    """The oracle's episodes score 1."""
    env = subject.make()
    try:
        for task in subject.tasks:
            try:
                episode = await oracle_trajectory(env, None, task, subject.seed)
            except ConfigError as error:
                raise NotApplicable(str(error)) from None
            subject.episodes.append(episode)
            correct = episode.metrics.get("correct", 1.0 if episode.reward >= 1 else 0.0)
            if correct != 1.0:
                seen = f"{task}: correct {correct:g}, reward {episode.reward:g}, metrics {episode.metrics}"
                raise Broken(seen, "the judge must accept the gold solution; look at the task and at judge()")
    finally:
        await env.aclose()
    return f"{len(subject.tasks)} tasks"


async def an_empty_answer_scores_zero(subject: Subject) -> str | None:
    """An empty answer scores 0."""
    env = subject.make()
    abstaining = [task for task in subject.tasks if list(_texts(env.gold(env.task(task)))) == [""]]
    await env.aclose()
    for task in subject.tasks:
        if task in abstaining:  # to say nothing of use is right there, and the gold answer says so
            continue
        for text in ("", "I do not know."):
            step = await _last(subject, task, text)
            if step.reward > 0 or step.info["metrics"].get("correct", 0.0) != 0.0:
                raise Broken(f"{task}: {text!r} gave reward {step.reward:g}", "judge() must not reward nothing")
    return f"but in {len(abstaining)} of {len(subject.tasks)} tasks it is the gold one" if abstaining else None


async def tasks_are_addressable(subject: Subject) -> str | None:
    """A task is the same whenever it is asked for, and an unknown one is a ConfigError."""
    env, other = subject.make(), subject.make()
    for task in subject.tasks:
        if env.task(task) != other.task(task):
            raise Broken(f"{task} differs between two environments made alike", "make task i a function of its id")
        if env.gold(env.task(task)) is not None:
            json.dumps(env.gold(env.task(task)))
    for unknown in (f"{env.splits[0]}:no such task", "no such split:0"):
        try:
            env.task(unknown)
        except ConfigError:
            continue
        raise Broken(f"task {unknown!r} was given", "raise UnknownNameError for a task that is not there")
    await env.aclose()
    await other.aclose()
    return None


async def splits_are_disjoint(subject: Subject) -> str | None:
    """No question of one split is in another."""
    env, seen = subject.make(), dict[str, str]()
    if len([split for split in env.splits if len(env.tasks(split))]) < 2:
        raise NotApplicable("there is one split")
    for split in env.splits:
        tasks = env.tasks(split)
        for index in range(min(50, len(tasks))):
            task = tasks[index]
            text = json.dumps([message.to_wire() for message in task.messages])
            if task.messages and seen.setdefault(text, split) != split:
                raise Broken(f"{task.id} also stands in {seen[text]!r}", "split by a hash of the question")
    await env.aclose()
    return None


async def the_same_seed_gives_the_same_episode(subject: Subject) -> str | None:
    """The same seed gives the same episode."""
    env, other = subject.make(), subject.make()
    for seed in range(subject.seed, subject.seed + 4):
        first, _ = await env.areset(seed=seed)
        second, _ = await other.areset(seed=seed)
        if [message.to_wire() for message in first] != [message.to_wire() for message in second]:
            raise Broken(f"two resets with seed {seed} gave different openings", "draw from self.np_random only")
    await env.aclose()
    await other.aclose()
    return None


async def a_recorded_episode_can_be_stepped_again(subject: Subject) -> str | None:
    """A recorded episode re-steps to the same observations and rewards."""
    env = subject.make()
    try:
        for episode in subject.played():
            began = time.perf_counter()
            if difference := await first_difference(env, episode):
                raise Broken(f"{episode.task_id}: {difference}", "seed everything from the episode; no clock, no order")
            subject.seconds += time.perf_counter() - began
    finally:
        await env.aclose()
    return f"{len(subject.episodes)} episodes"


async def the_gold_answer_is_not_shown(subject: Subject) -> str | None:
    """No gold answer stands in what the agent sees at first."""
    env, leaks, looked = subject.make(), 0, 0
    for name in subject.tasks:
        task = env.task(name)
        shown = " ".join(message.text for message in task.messages)
        answers = [text for text in _texts(env.gold(task)) if len(text) >= SHORTEST_LEAK]
        looked += bool(answers)
        leaks += any(text in shown for text in answers)
    await env.aclose()
    if not looked:
        raise NotApplicable("the environment tells no gold answers that could be looked for")
    if leaks == looked:
        raise Broken(f"in all of {looked} tasks", "keep it in Task.data, which the policy never sees")
    return f"in {leaks} of {looked} tasks by chance" if leaks else None


async def tools_are_well_formed(subject: Subject) -> str | None:
    """An episode's tools have names and schemas that endpoints take."""
    env, offered = subject.make(), 0
    try:
        for task in subject.tasks:
            _, info = await env.areset(seed=subject.seed, options={"task": task})
            functions = [schema["function"] for schema in info.get("tools", env.tool_schemas())]
            json.dumps(functions)
            names = [function["name"] for function in functions]
            for name in names:
                if not TOOL_NAME.fullmatch(name) or names.count(name) > 1:
                    raise Broken(f"{task}: tool {name!r}", "1 to 64 letters, digits, '_' or '-', each name once")
            for function in functions:
                if function["parameters"].get("type") != "object":
                    raise Broken(f"{task}: tool {function['name']!r}", "parameters is a JSON schema of type object")
            offered += len(names)
    finally:
        await env.aclose()
    if not offered:
        raise NotApplicable("the environment offers no tools")
    return None


async def bad_calls_are_observations(subject: Subject) -> str | None:
    """A bad tool call is an observation."""
    env = subject.make()
    _, info = await env.areset(seed=subject.seed, options={"task": subject.tasks[0]})
    names = [schema["function"]["name"] for schema in info.get("tools", env.tool_schemas())]
    if not names:
        raise NotApplicable("the environment offers no tools")
    bad = [("no_such_tool", "{}"), (names[0], "{"), (names[0], '{"no such argument": 1}'), (names[0], "\x00" * 1000)]
    for name, arguments in bad:
        await env.areset(seed=subject.seed, options={"task": subject.tasks[0]})
        step = await env.astep(assistant(tool_calls=(ToolCall(id="call_0", name=name, arguments=arguments),)))
        errors = [record.error for record in step.info["tool_calls"]]
        if not step.observation or errors == [None]:
            raise Broken(f"{name}({arguments[:20]!r}): tool errors {errors}", "answer with a tool message")
        if not (step.terminated or step.truncated):
            await env.afinish(StopReason.MAX_TURNS)
    await env.aclose()
    return None


async def no_message_raises(subject: Subject) -> str | None:
    """No text of the agent's raises."""
    texts = ("x" * 100_000, "\x00\ud800\u202e", "<tool_call>" * 50, "{" * 5000, "\\boxed{" * 500, "9" * 10_000)
    for text in texts:
        step = await _last(subject, subject.tasks[0], text)
        if step.info["metrics"].get("correct", 0.0):
            raise Broken(f"{text[:20]!r}... counts as correct", "look at how the answer is read")
    return None


async def a_snapshot_branches(subject: Subject) -> str | None:
    """An episode continues from its snapshot as it would have."""
    for episode in subject.played():
        env, branch = subject.make(), subject.make()
        try:
            await env.areset(seed=episode.seed, options={"task": episode.task_id})
            middle = len(episode.turns) // 2
            for turn in episode.turns[:middle]:
                await env.astep(turn.message)
            await branch.arestore(await env.asnapshot())
            for turn in episode.turns[middle:]:
                step = await branch.astep(turn.message)
                if list(step.observation) != turn.observation or abs(step.reward - turn.reward) > 1e-9:
                    raise Broken(f"{episode.task_id} goes on differently", "copy all state of the episode by value")
        except EnvError as error:
            raise NotApplicable(one_line(str(error))) from None
        finally:
            await env.aclose()
            await branch.aclose()
    return None


async def close_frees_everything(subject: Subject) -> str | None:
    """Close frees everything."""
    counts = []
    for _ in range(3):  # the first rounds open what all environments of a process share
        for index in range(LEAK_EPISODES):
            env = subject.make()
            await env.areset(seed=subject.seed, options={"task": subject.tasks[index % len(subject.tasks)]})
            if subject.episodes:
                await env.astep(subject.episodes[index % len(subject.tasks)].turns[0].message)
            await env.aclose()
            await env.aclose()
        counts.append(await _settled())
    (descriptors, children), (before, had) = counts[-1], counts[-2]
    if descriptors - before >= LEAK_EPISODES // 2 or children - had >= LEAK_EPISODES // 2:
        seen = f"{LEAK_EPISODES} episodes left {descriptors - before} descriptors and {children - had} processes"
        raise Broken(seen, "close what reset opened, also where the episode did not end")
    return f"{descriptors} descriptors, {children} processes"


RULES: tuple[Rule, ...] = (
    the_gold_solution_scores_one,
    an_empty_answer_scores_zero,
    tasks_are_addressable,
    splits_are_disjoint,
    the_same_seed_gives_the_same_episode,
    a_recorded_episode_can_be_stepped_again,
    the_gold_answer_is_not_shown,
    tools_are_well_formed,
    bad_calls_are_observations,
    no_message_raises,
    a_snapshot_branches,
    close_frees_everything,
)


async def _last(subject: Subject, task: str, text: str) -> Step:
    """The step of a message that is meant as the answer; the episode is ended if it does not end itself."""
    env = subject.make()
    try:
        await env.areset(seed=subject.seed, options={"task": task})
        step = await env.astep(assistant(text))
        if step.terminated or step.truncated:
            return step
        verdict = await env.afinish(StopReason.MAX_TURNS)
        return step._replace(reward=step.reward + verdict.reward, info={**step.info, "metrics": dict(verdict.metrics)})
    finally:
        await env.aclose()


def _texts(gold: Any) -> Iterator[str]:
    """What an agent would say to be right: the text of a gold answer, or its entry `answer` or `code`."""
    if isinstance(gold, dict):
        gold = [gold[key] for key in ("answer", "code", "query") if key in gold]
    if isinstance(gold, str | int | float):
        yield str(gold)
    elif isinstance(gold, list | tuple):
        for item in gold:
            if isinstance(item, str | int | float):
                yield str(item)


async def _settled() -> tuple[int, int]:
    """Descriptors and child processes of this process, once they have stopped to fall: killed ones take a moment."""
    lowest = (1 << 30, 1 << 30)
    for _ in range(20):
        await asyncio.sleep(0.02)
        children = sum(len(path.read_text().split()) for path in Path("/proc/self/task").glob("*/children"))
        now = (len(os.listdir("/proc/self/fd")), children)
        if now >= lowest:
            break
        lowest = now
    return lowest
