"""Job: one episode that is to be played, from the start of a task or from a branch point."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

from agentrl.rollout import GroupRequest
from agentrl.seeding import derive_seed
from agentrl.trajectory import Branch, Trajectory


@dataclass(frozen=True, slots=True)
class BranchPoint:
    """Where an episode can be continued by others: after a turn whose answer the policy has not seen yet.

    Holds the environment's state by value, so it outlives the episode that it was taken from; any number of jobs may
    share one.
    """

    parent: Trajectory
    """The record up to the cut, a copy: opening and turns."""
    context: list[int]
    """Ids that the next turn is generated after."""
    state: Any
    """`Env.snapshot()` at the cut."""
    state_key: str | None
    characters: int
    """Length of the conversation."""
    counted: int = 0
    """Tokens of the last turn and its context, as an endpoint without ids counts them."""
    tools: list[dict[str, Any]] | None = None
    """The tools of the episode, where its task has its own."""


@dataclass(frozen=True, slots=True)
class Job:
    """One member of one group."""

    ordinal: int
    """Which request of the run."""
    request: GroupRequest
    member: int
    session: str
    """Name of the episode for the engine, unique in the process."""
    seed: int
    """What its environment is reset with."""
    sampling_seed: int
    """What the seeds of its turns are derived from."""
    origin: BranchPoint | None = None
    """Where it begins; None: at a reset."""


class Jobs:
    """Makes the jobs of one request; numbers its members."""

    def __init__(self, ordinal: int, request: GroupRequest, prefix: str) -> None:
        self.ordinal = ordinal
        self.request = request
        self._prefix = prefix
        self.made = 0
        """Members so far."""

    def root(self) -> Job:
        """The next member, from the start of the task."""
        member = self.made
        seed = derive_seed(self.request.seed, "member", member)
        return self._job(seed, seed, None)

    def branch(self, parent: Job, origin: BranchPoint, number: int) -> Job:
        """The next member, a copy of `parent` up to `origin`; `number` tells the copies made there apart.

        Its seed depends on where it branches, not on when, so that timing changes nothing but its place in the group.
        """
        sampling = derive_seed(parent.sampling_seed, "branch", len(origin.parent.turns), number)
        return self._job(parent.seed, sampling, origin)

    def _job(self, seed: int, sampling_seed: int, origin: BranchPoint | None) -> Job:
        member, self.made = self.made, self.made + 1
        session = f"{self._prefix}/{self.ordinal}/{self.request.group_id}/{member}"
        return Job(self.ordinal, self.request, member, session, seed, sampling_seed, origin)


def copied(record: Trajectory, member: int) -> Trajectory:
    """A record that begins with all turns of `record`, for the copy of an episode that branches off now."""
    turns = [replace(turn, timings={}, observation=list(turn.observation)) for turn in record.turns]
    return Trajectory(
        record.task_id,
        record.env_id,
        member,
        record.seed,
        list(record.opening),
        turns,
        branch=Branch(record.member, len(turns)),
        info=copy.deepcopy(record.info),  # both count on: tokens, entropies
    )
