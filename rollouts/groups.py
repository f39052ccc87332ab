"""OpenGroup: a group under way: who plays, who has finished, which seats nobody has yet.

Invariant: `made members = playing + finished`; a group is complete when nobody plays and no seat is left to give.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agentrl.trajectory import Group, StopReason, Trajectory

from .job import Jobs

FAILURES = frozenset({StopReason.TIMEOUT, StopReason.ENV_ERROR, StopReason.ENGINE_ERROR})
"""What a failure policy decides about; the other aborts are the manager's own doing."""


@dataclass(slots=True)
class OpenGroup:
    """The state of one request."""

    jobs: Jobs
    seats: int
    """Members that may still branch off; what nobody takes is played from the start in the end."""
    playing: int = 0
    """Jobs that are queued or played."""
    failures: int = 0
    given_up: bool = False
    """It can carry no signal: nobody new begins, and it is dropped."""
    finished: list[Trajectory] = field(default_factory=list)

    @property
    def outcomes(self) -> list[float]:
        """Of the judged members: the verdict `correct` (0 or 1) where each has one, else the reward.

        A reward that is shaped (by tool calls, length, format) differs in every group and would hide that all are
        right, or all wrong (B7).
        """
        judged = [trajectory for trajectory in self.finished if not trajectory.aborted]
        if all("correct" in trajectory.metrics for trajectory in judged):
            return [float(trajectory.metrics["correct"] >= 0.5) for trajectory in judged]
        return [trajectory.reward for trajectory in judged]

    @property
    def outstanding(self) -> int:
        """Members that may still be judged."""
        return self.playing + self.seats

    @property
    def complete(self) -> bool:
        return self.playing == 0 and self.seats == 0

    def close(self) -> Group:
        """The group with its members in their order."""
        return Group(self.jobs.request.group_id, sorted(self.finished, key=lambda trajectory: trajectory.member))
