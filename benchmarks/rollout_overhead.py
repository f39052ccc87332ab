"""What the rollout manager itself costs in real time, with an engine and environments that cost nothing.

    python benchmarks/rollout_overhead.py
    python benchmarks/rollout_overhead.py --section lag --blame
    python benchmarks/rollout_overhead.py --quick

`turns`: CPU milliseconds a turn. The engine answers at once with the same tokens, the environment with one short
message; what remains is the manager, and the renderer's tokenising, which is shown apart.

`open`: resident memory of episodes that are all open at once. Each has a context of --context tokens and is held in the
middle of its second turn by the engine; the figure is what the process grew by, environments and records included, and
the engine keeps nothing.

`lag`: how late the event loop is at the worst, while conversations grow to --long tokens by tool results of one
sixteenth of that, beside as many short ones, through a real renderer and a byte-level tokenizer of 8,000 tokens that is
trained here. The
measurement beats every 2 ms, and an idle loop is measured, too: other programs on the machine make it late as well.
With --blame the stack of whatever blocks the loop for more than 20 ms is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

from agentrl.chat import ChatRenderer
from agentrl.engines.base import Completion, Engine, FinishReason, Sampling
from agentrl.env import AsyncEnv, Step, TaskSet
from agentrl.messages import Message, assistant, tool_result, user
from agentrl.models.tiny import CHAT_TEMPLATE, build_tiny
from agentrl.rollout import GroupRequest, RolloutContext, RolloutLimits
from agentrl.rollouts.independent import IndependentChains
from agentrl.rollouts.watchdog import LagWatchdog
from agentrl.trajectory import Trajectory

T = TypeVar("T")

GROUP = 8
FOREVER = 1e6
LONG_TURNS = 16
"""Turns in which a conversation of the section `lag` grows to its length."""


class Answers(Engine):
    """Gives the same completion every time, after `before`."""

    def __init__(self, ids: list[int], before: Callable[[Sequence[int]], Any] | None = None) -> None:
        self.ids = ids
        self.logprobs = [-1.0] * len(ids)
        self.before = before

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        if self.before is not None:
            await self.before(prompt_ids)
        return Completion(list(self.ids), list(self.logprobs), FinishReason.STOP)


class Talks(AsyncEnv):
    """Opens with one text and answers each turn with another; ends after `turns` turns."""

    def __init__(self, turns: int, opening: str, answer: str) -> None:
        super().__init__()
        self.turns, self.opening, self.answer = turns, opening, answer

    def tasks(self, split: str) -> TaskSet:
        raise NotImplementedError

    async def areset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.left = self.turns
        return (user(self.opening),), {}

    async def astep(self, action: Any) -> Step:
        self.left -= 1
        return Step((tool_result(self.answer, "call_0"),), 1.0, self.left == 0, False, {})


async def played(context: RolloutContext, episodes: int) -> list[Trajectory]:
    """All episodes to their end; fails if one was aborted."""
    size = min(GROUP, episodes)
    requests = (GroupRequest(f"g{index}", "train:0", size, index) for index in range(episodes // size))
    groups = IndependentChains(context).run(requests)
    trajectories = [trajectory async for group in groups for trajectory in group.trajectories]
    for trajectory in trajectories:
        if trajectory.aborted:
            raise SystemExit(f"{trajectory.stop_reason}: {trajectory.error}")
    return trajectories


def context_of(engine: Engine, renderer: ChatRenderer, env: Callable[[], AsyncEnv], **limits: Any) -> RolloutContext:
    settings = {"episode_seconds": FOREVER, "step_seconds": FOREVER, "max_context": 2**20, **limits}
    return RolloutContext(engine, renderer, env, RolloutLimits(**settings))


# -- turns -------------------------------------------------------------------------------------------------------------


class Metered(ChatRenderer):
    """Counts the CPU seconds that it takes; short texts are rendered on the event loop's thread."""

    spent = 0.0

    def opening(self, *arguments: Any) -> list[int]:
        return self._metered(super().opening, *arguments)

    def next_context(self, *arguments: Any) -> list[int]:
        return self._metered(super().next_context, *arguments)

    def parse(self, *arguments: Any) -> Message:
        return self._metered(super().parse, *arguments)

    def _metered(self, function: Callable[..., T], *arguments: Any) -> T:
        began = time.thread_time()
        try:
            return function(*arguments)
        finally:
            self.spent += time.thread_time() - began


def turns_section(arguments: argparse.Namespace) -> None:
    episodes, turns = arguments.episodes, arguments.turns
    renderer = Metered(build_tiny()[1])
    engine = Answers(renderer.turn_ids(assistant("Let me think: 25 * 3 is 75, and 17 more are 92.")))
    environment = lambda: Talks(turns, "What is 17 + 25 * 3?", "92")  # noqa: E731
    context = context_of(engine, renderer, environment, max_turns=turns, concurrency=arguments.concurrency)
    asyncio.run(played(context, arguments.concurrency))  # imports, caches
    costs: list[tuple[float, float]] = []
    for _ in range(arguments.repeats):
        renderer.spent, cpu = 0.0, time.process_time()
        trajectories = asyncio.run(played(context, episodes))
        cpu = time.process_time() - cpu
        number = sum(len(trajectory.turns) for trajectory in trajectories)
        costs.append((1000 * (cpu - renderer.spent) / number, 1000 * renderer.spent / number))
    costs.sort()
    print(f"turns: {episodes} episodes x {turns} turns, {arguments.concurrency} at once, {arguments.repeats} runs")
    for name, (manager, tokenise) in (("least", costs[0]), ("median", costs[len(costs) // 2]), ("worst", costs[-1])):
        print(f"  {name:<6} CPU a turn: manager {manager:.3f} ms, tokenising {tokenise:.3f} ms")


# -- open --------------------------------------------------------------------------------------------------------------


def resident() -> float:
    """Memory of this process, MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def open_section(arguments: argparse.Namespace) -> None:
    number, tokens = arguments.open, arguments.context
    renderer = ChatRenderer(trained_tokenizer())
    text = of_tokens(renderer, tokens // 2)
    short = renderer.turn_ids(assistant("I look it up."))
    began = time.perf_counter()
    asyncio.run(played(context_of(Answers(short), renderer, lambda: Talks(2, text, text), max_turns=2), GROUP))
    before, held = resident(), 0

    async def run() -> float:
        release, all_there = asyncio.Event(), asyncio.Event()

        async def hold(prompt_ids: Sequence[int]) -> None:
            nonlocal held
            if len(prompt_ids) > 0.9 * tokens:
                held += 1
                if held == number:
                    all_there.set()
                await release.wait()

        limits = {"max_turns": 2, "concurrency": number}
        context = context_of(Answers(short, hold), renderer, lambda: Talks(2, text, text), **limits)
        play = asyncio.ensure_future(played(context, number))
        await asyncio.wait({play, asyncio.ensure_future(all_there.wait())}, return_when=asyncio.FIRST_COMPLETED)
        gc.collect()
        grown = resident() - before
        release.set()
        await play
        return grown

    grown = asyncio.run(run())
    print(f"open: {held} episodes at once in their second turn, each with a context of {tokens} tokens")
    print(f"  {grown:.0f} MiB beyond the engine, {1024 * grown / number:.1f} KiB an episode", end="")
    print(f"; all of it {time.perf_counter() - began:.0f} s")


# -- lag ---------------------------------------------------------------------------------------------------------------


@cache
def trained_tokenizer() -> Any:
    """A byte-level BPE of 8,000 tokens over Python's own help texts, with a ChatML template."""
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    frame = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=frame, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(topics.values(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def of_tokens(renderer: ChatRenderer, number: int) -> str:
    """A text of about `number` tokens."""
    from pydoc_data.topics import topics

    words = " ".join(topics.values()).split(" ")
    sample = " ".join(words[:2000])
    rate = len(renderer.turn_ids(assistant(sample))) / 2000
    count = round(number / rate)
    return " ".join((words * (count // len(words) + 1))[:count])


def lag_section(arguments: argparse.Namespace) -> None:
    renderer = ChatRenderer(trained_tokenizer())
    text = of_tokens(renderer, arguments.long // LONG_TURNS)
    longest = 0
    logging.basicConfig(level=logging.WARNING if arguments.blame else logging.ERROR, format="%(message)s")

    async def decode(prompt_ids: Sequence[int]) -> None:
        nonlocal longest
        longest = max(longest, len(prompt_ids))
        await asyncio.sleep(0.05)

    async def idle() -> float:
        async with LagWatchdog(interval=0.002, report_above=1.0) as watchdog:
            await asyncio.sleep(3.0)
        return watchdog.worst

    async def run() -> LagWatchdog:
        engine = Answers(renderer.turn_ids(assistant("I read on.")), decode)
        limits = {"max_turns": LONG_TURNS, "concurrency": 2 * arguments.conversations}
        texts = cycle((text, "Short."))

        def environment() -> Talks:
            given = next(texts)
            return Talks(LONG_TURNS, given, given)

        context = context_of(engine, renderer, environment, **limits)
        async with LagWatchdog(interval=0.002, report_above=0.02) as watchdog:
            await played(context, 2 * arguments.conversations)
        return watchdog

    began = time.perf_counter()
    runs = sorted((asyncio.run(run()) for _ in range(arguments.repeats)), key=lambda each: each.worst)
    seconds = (time.perf_counter() - began) / len(runs)
    print(
        f"lag: {arguments.conversations} conversations at once, grown to {longest} tokens, and as many short ones, ",
        end="",
    )
    print(f"in {seconds:.1f} s a run")
    for name, each in (("best", runs[0]), ("median", runs[len(runs) // 2]), ("worst", runs[-1])):
        print(f"  {name:<6} run: late by {1000 * each.worst:.1f} ms at the worst, {1000 * each.mean:.2f} on the mean")
    print(f"  a loop that does nothing for 3 s here: {1000 * asyncio.run(idle()):.1f} ms at the worst")


SECTIONS = {"turns": turns_section, "open": open_section, "lag": lag_section}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", action="append", choices=list(SECTIONS), help="only this one; may be repeated")
    parser.add_argument("--episodes", type=int, default=2000, help="of the section turns")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5, help="runs of the sections turns and lag")
    parser.add_argument("--open", type=int, default=10_000, help="episodes of the section open")
    parser.add_argument("--context", type=int, default=1000, help="tokens of each of them")
    parser.add_argument("--long", type=int, default=128_000, help="tokens of a conversation of the section lag")
    parser.add_argument("--conversations", type=int, default=8, help="of the section lag")
    parser.add_argument("--blame", action="store_true", help="print what blocks the loop")
    parser.add_argument("--quick", action="store_true", help="small numbers: whether it runs at all")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.episodes, arguments.repeats, arguments.open, arguments.long = 64, 1, 64, 16_000
    for name in arguments.section or SECTIONS:
        SECTIONS[name](arguments)


if __name__ == "__main__":
    main()
