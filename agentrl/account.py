"""Where the wall clock went: an account of every episode and of a whole batch, each of which sums to 100 %.

An episode's seconds run from its request for a place to the end of its teardown. Its turns and itself record seconds by
stage; what no stage claims is `idle`, so the shares sum to one by construction, and a hole in the book-keeping shows as
idle time instead of vanishing.

A batch also knows its makespan and the least one that any schedule could have had (Graham's bound for chains):
max(longest chain, decoding / slots, tools / workers). What the ratio exceeds 1 by is the manager's, or a barrier's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from agentrl.trajectory import Trajectory

STAGES = ("queue", "prefill", "decode", "tool_queue", "tool", "tokenise", "env", "judge", "branch", "idle")
"""All stages, in the order in which they are shown."""

MEANING: Mapping[str, str] = {
    "queue": "waiting for a place: of the manager, of its decoding limit, in the engine",
    "prefill": "the engine reads the context",
    "decode": "the engine samples",
    "tool_queue": "calls wait for a tool's, the rollout's or a sandbox's limit",
    "tool": "tools run",
    "tokenise": "messages to ids and back",
    "env": "the environment, its tools and judgement apart",
    "judge": "the verdict is computed",
    "branch": "states are copied and restored",
    "idle": "none of these: back-off after failures, the event loop",
}

_ON_ENGINE = ("prefill", "decode")
_ELSEWHERE = ("tokenise", "env", "judge", "branch")
"""With the tools, what an episode must do one after the other: its chain."""


def episode_account(trajectory: Trajectory) -> dict[str, float]:
    """Seconds of one episode by stage; every stage is there, and they sum to `trajectory.seconds`.

    Where clocks disagree and the stages claim more than the whole, they are scaled to it and nothing is idle.
    """
    spent = dict.fromkeys(STAGES, 0.0)
    for timings in (trajectory.timings, *(turn.timings for turn in trajectory.turns)):
        for stage, seconds in timings.items():
            spent[stage] += seconds
    claimed = sum(spent.values())
    if claimed > trajectory.seconds > 0:
        spent = {stage: seconds * trajectory.seconds / claimed for stage, seconds in spent.items()}
    spent["idle"] += max(0.0, trajectory.seconds - claimed)
    return spent


class Chain(NamedTuple):
    """What one episode has to do, seconds, one after the other."""

    decoding: float
    """On one of the decoding slots."""
    tools: float
    """On one of the tool workers."""
    other: float = 0.0
    """On nothing that is limited."""


def lower_bound(chains: Iterable[Chain], *, slots: float = float("inf"), workers: float = float("inf")) -> float:
    """The least makespan (seconds) of these chains on `slots` (K) decoding slots and `workers` (M) for tools.

    LB = max(max_i (g_i + u_i + r_i), sum g / K, sum u / M), with g, u, r the seconds of decoding, tools and the rest.
    """
    longest = decoding = tools = 0.0
    for chain in chains:
        longest = max(longest, sum(chain))
        decoding += chain.decoding
        tools += chain.tools
    return max(longest, decoding / slots, tools / workers)


@dataclass(slots=True)
class BatchAccount:
    """The account of many episodes."""

    episodes: int = 0
    turns: int = 0
    dropped_groups: int = 0
    """Groups that were not yielded: no signal, or too many failures."""
    replayed: int = 0
    """Episodes that were played in the place of a failed or a stale one."""
    failed_branches: int = 0
    """Copies that an environment could not give."""
    makespan: float = 0.0
    """Seconds that the batch took, from its first episode to its last."""
    slots: float = float("inf")
    """Decoding slots that the bound counts with."""
    workers: float = float("inf")
    """Tool calls at one time that the bound counts with."""
    worst_lag: float = 0.0
    """Longest time (seconds) for which the event loop was not free."""
    mean_lag: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Episode-seconds by stage."""
    chains: list[Chain] = field(default_factory=list)
    """Of each episode."""

    def add(self, trajectory: Trajectory) -> None:
        """Count one more episode."""
        account = episode_account(trajectory)
        for stage, seconds in account.items():
            self.seconds[stage] += seconds
        self.episodes += 1
        self.turns += len(trajectory.turns)
        decoding, other = (sum(account[stage] for stage in stages) for stages in (_ON_ENGINE, _ELSEWHERE))
        self.chains.append(Chain(decoding, account["tool"], other))

    @property
    def shares(self) -> dict[str, float]:
        """Part of the episode-seconds that each stage took; they sum to 1 (all are 0 for an empty batch)."""
        total = sum(self.seconds.values())
        return {stage: seconds / total if total else 0.0 for stage, seconds in self.seconds.items()}

    @property
    def lower_bound(self) -> float:
        """Seconds that no schedule of these episodes could have been under."""
        return lower_bound(self.chains, slots=self.slots, workers=self.workers)

    @property
    def efficiency(self) -> float:
        """Makespan divided by its lower bound, at least about 1; not-a-number for a batch that took no time."""
        bound = self.lower_bound
        return self.makespan / bound if bound else float("nan")

    def metrics(self) -> dict[str, float]:
        """The account as numbers of a training step; `seconds/rollout_<stage>` divide the makespan by the shares."""
        return {
            **{f"seconds/rollout_{stage}": share * self.makespan for stage, share in self.shares.items()},
            "makespan": self.makespan,
            "makespan_over_bound": self.efficiency,
            "loop_lag/worst": self.worst_lag,
            "loop_lag/mean": self.mean_lag,
            "groups/dropped": self.dropped_groups,
            "episodes/replayed": self.replayed,
        }

    def lines(self) -> list[str]:
        """The account for people: a line a stage that took time, then makespan and bound."""
        shown = [
            f"  {stage:<10} {share:6.1%}  {MEANING[stage]}" for stage, share in self.shares.items() if share >= 5e-4
        ]
        ratio = f"makespan {self.makespan:.2f} s = {self.efficiency:.2f} x the lower bound"
        return [f"{self.episodes} episodes, {self.turns} turns, {ratio}", *shown]
