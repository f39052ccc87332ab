"""The sampler `pair` of weighted GRPO: one task that is rarely solved, one that is rarely failed, in every step.

Before the first step every candidate is probed with the start policy. Invariants: a task that was never solved or never
failed in the probe is not chosen; ties go by the task's index; the pair is in the checkpoint, so that a resumed run
does not probe again.

Source: arXiv 2602.03452; the probe's protocol and the interval of the hard task are inferred.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import Any

from agentrl.errors import ConfigError, TrainingError
from agentrl.registry import samplers
from agentrl.sampler import Probe, Sampler
from agentrl.seeding import draw
from agentrl.task import TaskSet


def choose_pair(rates: Mapping[int, float], group: int, spread: float) -> tuple[int, int]:
    """The hard and the easy task among `rates` (task index -> success rate).

    Hard: 1/G <= p <= c/G, nearest to 1/G; easy: 1 - c/G <= p <= 1 - 1/G, nearest to 1 - 1/G; G is `group`, c `spread`.
    Raises `TrainingError` where there is none.
    """
    rare, most = 1 / group, spread / group
    slack = 1e-9
    hard = {task: p for task, p in rates.items() if rare - slack <= p <= most + slack}
    easy = {task: p for task, p in rates.items() if 1 - most - slack <= p <= 1 - rare + slack and task not in hard}
    if not hard or not easy:
        found = ", ".join(f"{rate:.2f}" for rate in sorted(set(rates.values())))
        lacking = f"solved at a rate of {rare:.2f} to {most:.2f}" if not hard else f"failed at such a rate (of {group})"
        raise TrainingError(f"sampler pair: no probed task is {lacking}; rates seen: {found}; probe more candidates")
    return (
        min(hard, key=lambda task: (round(abs(hard[task] - rare), 9), task)),
        min(easy, key=lambda task: (round(abs(easy[task] - (1 - rare)), 9), task)),
    )


@samplers.register("pair")
class PairSampler(Sampler):
    """Half of a step's groups are the hard task, half the easy one, each group with rollouts of its own."""

    def __init__(self, *, candidates: int = 64, probes: int = 32, group: int = 8, spread: float = 2.0) -> None:
        """`candidates` tasks (in the run's order) are probed with `probes` episodes each, at least 4 x `group`."""
        if probes < 4 * group:
            raise ConfigError(f"probes is {probes}; fewer than 4 x group = {4 * group} misplace the bounds of a rate")
        if candidates < 2 or group < 2 or not 1 <= spread < group / 2:
            raise ConfigError(
                "sampler pair: candidates and group must be at least 2, and spread from 1 to below group / 2"
            )
        self.candidates, self.probes, self.group, self.spread = candidates, probes, group, spread
        self.pair: tuple[int, int] | None = None

    async def begin(self, tasks: TaskSet, seed: int, probe: Probe) -> None:
        """Probe the candidates and choose."""
        indices = draw(min(self.candidates, len(tasks)), 0, len(tasks), seed)
        rates = await probe(indices, self.probes)
        self.pair = choose_pair(dict(zip(indices, rates, strict=True)), self.group, self.spread)

    def draw(self, tasks: TaskSet, step: int, wanted: int, seed: int) -> Iterator[int]:
        """Hard, easy, hard, easy ... without end."""
        assert self.pair is not None, "begin or load_state_dict comes first"
        return cycle(self.pair)

    def state_dict(self) -> dict[str, Any]:
        """The pair."""
        return {"pair": list(self.pair) if self.pair else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        self.pair = tuple(state["pair"]) if state["pair"] else None
