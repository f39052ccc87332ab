"""Makespan of the rollout manager over the least that any schedule could have, beside a manager with a barrier a turn.

    python benchmarks/rollouts.py
    python benchmarks/rollouts.py --episodes 2048 --slots 2048 --turns 16 --sigma 0.25 --repeats 2
    python benchmarks/rollouts.py --quick

N episodes of T turns each; a turn decodes for 4 s on the mean, on one of K slots, then its tools run for 1 s on the
mean, off the engine and as many at once as there are. Both are log-normal (--sigma of the logarithm; 1.0 is a heavy
tail), drawn before anything runs, so that both managers get the very same work; --shared is the part of the
logarithm's variance that all turns of all eight members of a task have in common. The asynchronous manager is
`agentrl.rollouts`, the real one, over an engine and an environment that sleep in virtual time: what it computes takes
no time there (`rollout_overhead.py` measures that in real time). The barrier manager below generates for everybody,
waits, steps everybody, waits, over the same engine and environments and as many slots.

`over bound` is the makespan divided by max(longest chain, decoding / K), which no schedule is below, and `worst` its
worst draw. `known` is the same for longest-remaining-first that is told all seconds beforehand: what lies between the
two is the price of not knowing the future, which no manager can avoid. `barrier` is how many times longer the manager
with barriers takes, and `least` its least draw. The same seeds give the same figures on every machine.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from agentrl.account import Chain, lower_bound
from agentrl.engines.base import Completion, Engine, FinishReason, Sampling
from agentrl.env import AsyncEnv, Step, TaskSet
from agentrl.messages import Message, assistant, user
from agentrl.rollout import GroupRequest, RolloutContext, RolloutLimits
from agentrl.rollouts.independent import IndependentChains
from agentrl.virtual_time import run_virtual

DECODE_SECONDS, TOOL_SECONDS = 4.0, 1.0
GROUP = 8
"""Episodes of a request."""
FOREVER = 1e9
IN_ORDER = 1e-6
"""Seconds by which each reset ends later than the one before: environments are made in threads, in any order."""
END = 0


class Cell(NamedTuple):
    """One line of the table."""

    episodes: int
    slots: int
    turns: int
    tools: bool
    sigma: float
    shared: float


@dataclass(slots=True)
class Deck:
    """The pre-drawn work: seconds of each episode and turn, dealt to the episodes in the order of their resets."""

    decode: NDArray[np.float64]
    """Shape (episodes, turns)."""
    tools: NDArray[np.float64]
    """Shape (episodes, turns)."""
    _dealt: dict[str, int] = field(default_factory=dict)

    @classmethod
    def draw(cls, cell: Cell, seed: int) -> Deck:
        rng = np.random.default_rng(seed)
        common = rng.normal(size=(2, cell.episodes // GROUP, 1)).repeat(GROUP, axis=1)
        own = rng.normal(size=(2, cell.episodes, cell.turns))
        normal = np.sqrt(cell.shared) * common + np.sqrt(1 - cell.shared) * own
        unit = np.exp(cell.sigma * normal - cell.sigma**2 / 2)  # of mean 1
        return cls(DECODE_SECONDS * unit[0], TOOL_SECONDS * unit[1] * cell.tools)

    def deal(self, task_id: str) -> int:
        """The next episode of a task: of the eight that its request asks for."""
        number = self._dealt.get(task_id, 0)
        self._dealt[task_id] = number + 1
        return GROUP * int(task_id.partition(":")[2]) + number

    def bound(self, slots: int) -> float:
        """The least makespan, seconds."""
        chains = map(Chain, self.decode.sum(axis=1).tolist(), self.tools.sum(axis=1).tolist())
        return lower_bound(chains, slots=slots)


class Numbers:
    """A renderer whose context is the episode's number, then a token for each message."""

    stop_ids = (END,)

    def opening(self, messages: Sequence[Message]) -> list[int]:
        return [int(messages[-1].text)]

    def next_context(
        self, context: Sequence[int], sampled: Sequence[int], history: Sequence[Message], observation: Sequence[Message]
    ) -> list[int]:
        return [*context, *sampled, END]

    def parse(self, sampled: Sequence[int]) -> Message:
        return assistant("")


class SleepingEngine(Engine):
    """Takes the seconds that the deck says; the context tells which episode and turn it is."""

    def __init__(self, deck: Deck) -> None:
        self.deck = deck
        self.running = self.most = 0

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        seconds = float(self.deck.decode[prompt_ids[0], len(prompt_ids) // 2])
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(seconds)
        self.running -= 1
        return Completion([END], [0.0], FinishReason.STOP, decode_seconds=seconds)


class SleepingEnv(AsyncEnv):
    """Each step takes the seconds that the deck says; the last turn's ends the episode."""

    def __init__(self, deck: Deck) -> None:
        super().__init__()
        self.deck = deck

    def tasks(self, split: str) -> TaskSet:
        raise NotImplementedError

    async def areset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.number = self.deck.deal((options or {})["task"])
        self.turn = 0
        await asyncio.sleep(IN_ORDER * self.number)
        return (user(str(self.number)),), {}

    async def astep(self, action: Any) -> Step:
        await asyncio.sleep(float(self.deck.tools[self.number, self.turn]))
        self.turn += 1
        return Step((user("."),), 1.0, self.turn == self.deck.tools.shape[1], False, {})


async def with_manager(deck: Deck, slots: int) -> int:
    """Play the deck with the manager; returns the most requests that the engine had at one time."""
    episodes, turns = deck.decode.shape
    limits = RolloutLimits(
        max_turns=turns,
        concurrency=episodes,
        decoding=slots if slots < episodes else None,
        episode_seconds=FOREVER,
        step_seconds=FOREVER,
    )
    engine = SleepingEngine(deck)
    context = RolloutContext(engine, Numbers(), lambda: SleepingEnv(deck), limits)  # type: ignore[arg-type]
    requests = (GroupRequest(f"g{index}", f"train:{index}", GROUP, index) for index in range(episodes // GROUP))
    played = [each async for group in IndependentChains(context).run(requests) for each in group.trajectories]
    if len(played) != episodes or any(each.aborted or len(each.turns) != turns for each in played):
        raise SystemExit(f"{len(played)} of {episodes} episodes, or not all of them to their end")
    return engine.most


async def with_barriers(deck: Deck, slots: int) -> int:
    """Play the deck turn by turn: all generate, and when the last is done, all step; returns as `with_manager`."""
    episodes, turns = deck.decode.shape
    engine, renderer, room = SleepingEngine(deck), Numbers(), asyncio.Semaphore(slots)
    envs = [SleepingEnv(deck) for _ in range(episodes)]
    openings = [await env.areset(options={"task": f"train:{number // GROUP}"}) for number, env in enumerate(envs)]
    contexts = [renderer.opening(messages) for messages, _ in openings]

    async def generate(number: int) -> None:
        async with room:
            completion = await engine.generate(contexts[number], Sampling())
        contexts[number] = renderer.next_context(contexts[number], completion.ids, (), ())

    for _ in range(turns):
        await asyncio.gather(*(generate(number) for number in range(episodes)))
        await asyncio.gather(*(env.astep(assistant("")) for env in envs))
    return engine.most


def with_foresight(deck: Deck, slots: int) -> float:
    """Makespan, seconds, of longest-remaining-first with all seconds known: a simulation by events."""
    turns = deck.decode.shape[1]
    left = np.cumsum((deck.decode + deck.tools)[:, ::-1], axis=1)[:, ::-1]
    ready = [(-seconds, number, 0) for number, seconds in enumerate(left[:, 0].tolist())]
    heapq.heapify(ready)
    events: list[tuple[float, bool, int, int]] = []
    now = 0.0
    while ready or events:
        while slots and ready:
            _, number, turn = heapq.heappop(ready)
            slots -= 1
            heapq.heappush(events, (now + float(deck.decode[number, turn]), False, number, turn))
        now, stepped, number, turn = heapq.heappop(events)
        if not stepped:
            slots += 1
            heapq.heappush(events, (now + float(deck.tools[number, turn]), True, number, turn))
        elif turn + 1 < turns:
            heapq.heappush(ready, (-float(left[number, turn + 1]), number, turn + 1))
    return now


class Ratios(NamedTuple):
    """Of one draw."""

    over_bound: float
    known: float
    barrier: float


def play(cell: Cell, seed: int) -> Ratios:
    """All managers over the same work; fails if one had more slots than it was given."""
    spans: list[float] = []
    for manager in (with_manager, with_barriers):
        deck = Deck.draw(cell, seed)
        most, seconds = run_virtual(manager(deck, cell.slots))
        if most > cell.slots:
            raise SystemExit(f"{manager.__name__}: {most} requests at once in {cell.slots} slots")
        spans.append(seconds)
    bound = deck.bound(cell.slots)
    return Ratios(spans[0] / bound, with_foresight(deck, cell.slots) / bound, spans[1] / spans[0])


def cells(arguments: argparse.Namespace) -> Iterator[Cell]:
    shapes = list(zip(arguments.episodes, arguments.slots, strict=True))
    for shared, sigma, shape in product(arguments.shared, arguments.sigma, shapes):
        for turns, tools in product(arguments.turns, (False, True)):
            yield Cell(*shape, turns, tools, sigma, shared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, nargs="+", default=[256, 2048], help="N, multiples of 8")
    parser.add_argument("--slots", type=int, nargs="+", default=[256, 512], help="K, one for each of --episodes")
    parser.add_argument("--turns", type=int, nargs="+", default=[1, 3, 8, 16])
    parser.add_argument("--sigma", type=float, nargs="+", default=[1.0], help="of the logarithm of all seconds")
    parser.add_argument("--shared", type=float, nargs="+", default=[0.0, 0.5], help="of the variance, by a task")
    parser.add_argument("--repeats", type=int, default=5, help="draws; seeds 0, 1, 2 ...")
    parser.add_argument("--quick", action="store_true", help="32 and 64 episodes, 16 slots, one draw: whether it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.episodes, arguments.slots, arguments.turns, arguments.repeats = [16, 64], [16, 16], [1, 3], 1
    if len(arguments.slots) != len(arguments.episodes):
        parser.error("--slots needs one number for each of --episodes")
    table = Table(box=None)
    for name in ("N", "K", "turns", "tools", "sigma", "shared", "over bound", "worst", "known", "barrier", "least"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in cells(arguments):
        ratios = [play(cell, seed) for seed in range(arguments.repeats)]
        over, barrier = [each.over_bound for each in ratios], [each.barrier for each in ratios]
        known = statistics.mean(each.known for each in ratios)
        figures = (statistics.mean(over), max(over), known, statistics.mean(barrier), min(barrier))
        shape = (str(cell.episodes), str(cell.slots), str(cell.turns), "1 s" if cell.tools else "0")
        table.add_row(*shape, f"{cell.sigma:g}", f"{cell.shared:g}", *(f"{figure:.2f}" for figure in figures))
    Console(width=max(Console().width, 100)).print(table)


if __name__ == "__main__":
    main()
