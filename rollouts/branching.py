"""Branching in mid-episode: the manager copies an episode where a strategy asks for it, and others play on from there.

What a strategy decides is a `Brancher`: how many members of a group begin at the start, and, after each turn of an
episode that goes on, how many copies branch off here. The rest is the manager's: the environment's snapshot, the record
up to the cut, a place and an environment for each copy, seats that nobody took. A copy records its parent and its cut
(`Trajectory.branch`); the copied turns are those of its parent, ids, rewards and all.

Source of the sampling scheme: ARPO and Tree-GRPO spend part of a group's budget on branches after tool calls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from agentrl.errors import ConfigError
from agentrl.rollout import GroupRequest, RolloutContext
from agentrl.trajectory import Trajectory

from .independent import IndependentChains
from .manager import Manager


class Brancher(ABC):
    """Where the members of a group come from."""

    @abstractmethod
    def roots(self, request: GroupRequest) -> int:
        """Members that begin at the start of the task, 1 to `request.size`; the others are seats for branches."""

    @abstractmethod
    def children(self, request: GroupRequest, episode: Trajectory, seats: int) -> int:
        """Copies that branch off `episode` after its last turn; `seats` of the group are still free.

        Asked once after each turn of an episode that goes on. Seats that are left when nobody of the group plays any
        more are played from the start.
        """


class AtTurns(Brancher):
    """Branches after given turns of the members that began at the start, as evenly as the seats allow.

    What branches where depends on nothing but the request, so timing changes no episode.
    """

    def __init__(self, turns: tuple[int, ...], roots: int | None) -> None:
        self._turns = turns
        self._roots = roots

    def roots(self, request: GroupRequest) -> int:
        wanted = self._roots or -(-request.size // (1 + len(self._turns)))
        return min(wanted, request.size)

    def children(self, request: GroupRequest, episode: Trajectory, seats: int) -> int:
        if episode.branch is not None or len(episode.turns) not in self._turns:
            return 0
        roots = self.roots(request)
        places = len(self._turns) * roots
        place = self._turns.index(len(episode.turns)) * roots + episode.member
        branches = request.size - roots
        return branches // places + (place < branches % places)


class BranchAtTurns(IndependentChains):
    """Part of each group branches off the others after given turns, from a copy of the environment's state.

    Options: `turns`, the turns (1 is the first) after which episodes branch; `roots`, how many members of a group begin
    at the start (default: the group's size divided by one more than the number of turns).
    """

    def __init__(self, context: RolloutContext, *, turns: list[int], roots: int | None = None) -> None:
        """Raises `ConfigError`."""
        if not turns or sorted(set(turns)) != turns or turns[0] < 1:
            raise ConfigError(
                f"rollout.strategy: branch has turns={turns!r}; give ascending turns from 1 on, as [1, 3]"
            )
        if turns[-1] >= context.limits.max_turns:
            raise ConfigError(
                f"rollout.strategy: branch has turns={turns!r}, but no episode goes on after turn "
                f"rollout.max_turns={context.limits.max_turns}"
            )
        if roots is not None and roots < 1:
            raise ConfigError(f"rollout.strategy: branch has roots={roots!r}; it must be at least 1")
        super().__init__(context)
        self._manager = Manager(context, brancher=AtTurns(tuple(turns), roots))
