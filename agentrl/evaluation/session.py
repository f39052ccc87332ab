"""Session: the work of one process on an evaluation, from what is missing to the report.

Invariants: an episode that has ended is in the store before the next one is looked at; a session that is cut by a
limit, an interrupt or an engine's failure leaves a run that says so and everything that was finished; a run's status is
`finished` exactly if no episode is without a result.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml

from agentrl.bridge import run_sync
from agentrl.errors import ConfigError
from agentrl.evaluation.budget import Budget
from agentrl.evaluation.folder import REPORTS, EvaluationFolder, first_difference
from agentrl.evaluation.plan import PHASE, Place, Plan, episodes_of, has_result, place_of
from agentrl.evaluation.players.base import SCRIPTED, Player, PlayerKind, PlayRequest
from agentrl.evaluation.suite import Suite
from agentrl.observe import Observer
from agentrl.settings import validated
from agentrl.trajectory import StopReason, Trajectory

if TYPE_CHECKING:
    from agentrl.evaluation.report.schema import EvaluationReport
    from agentrl.store import EpisodeSummary, RunRecord, RunStatus, RunStore

T = TypeVar("T")

SIGN_OF_LIFE = 10.0
"""Seconds between two notes in the store of how long the evaluation has taken."""
Stopped = Literal["cost", "seconds"]
_WORDS = ("reason",)
"""What a player says of itself for people; it may be said otherwise the next time."""


@dataclass(frozen=True)
class Evaluation:
    """What came of an evaluation."""

    folder: Path
    report: EvaluationReport
    planned: int
    """Episodes that the suite asks for."""
    missing: int
    """Those of them without a result."""
    played: int
    """Episodes that ended in this call; 0 where the folder was finished before."""
    cost: float | None
    """Dollars, whichever process spent them, also on episodes that failed and were played again; None: no prices."""
    stopped: Stopped | None = None
    """The limit that ended it early."""


class Session:
    """One evaluation in one process; `run` once."""

    def __init__(
        self, plan: Plan, player: Player, store: RunStore, folder: EvaluationFolder, budget: Budget, watch: Observer
    ) -> None:
        self.plan, self.player, self.store, self.folder = plan, player, store, folder
        self.budget, self.watch = budget, watch
        self._run = 0
        self._results: set[Place] = set()
        self._verdicts: list[bool] = []
        self._played = 0
        self._failed = 0
        self._again: dict[Place, EpisodeSummary] = {}
        """Episodes that failed before; another one takes the place of each."""
        self._lost = {"prompt_tokens": 0, "tokens": 0}
        """What those have cost whose place was taken."""
        self._pending: deque[PlayRequest] = deque()
        self._seconds = 0.0
        """Of the sessions before this one."""
        self._met: Mapping[str, Any] = {}
        """What the player of those said of itself."""
        self._began = self._noted = time.monotonic()

    def run(self, facts: Mapping[str, Any], meta: Mapping[str, Any], fresh: bool) -> Evaluation:
        """Play what is missing and report; where nothing is, only read."""
        found = self.folder.find(self.store, facts, fresh)
        if found is not None:
            self._keep_samples(found)
        self.folder.describe(self.plan.suite)
        if found is not None:
            self._take_over(found.meta, episodes_of(self.store, found.id, self.plan))
            if found.meta.get("finished") and len(self._results) == self.plan.size:
                return self._read_again(found, meta["prices"])
        self._warn_of_greed()
        about = {**meta, "decides": dict(facts), "finished": False}
        self._run = self.store.begin_run(self.folder.name, self.plan.suite.to_yaml(), "eval", about)
        self.plan.record_tasks(self.store, self._run)
        return self._outcome(self._play_and_settle())

    # -- what was there before -----------------------------------------------------------------------------------------

    def _keep_samples(self, found: RunRecord) -> None:
        """Samples that were drawn, or asked for, are never left out: whoever asks for fewer is told so."""
        asked, self.plan = self.plan, self.plan.with_samples_of(validated(Suite, yaml.safe_load(found.config)))
        for name in asked.entries:
            if (kept := self.plan.suite.samples_of(name)) > (fewer := asked.suite.samples_of(name)):
                self.watch.note(
                    f"{self.folder.path} was begun with {kept} samples of each task of {name}, more than the {fewer} "
                    f"asked for: all {kept} count; another --out begins anew"
                )
                return

    def _read_again(self, found: RunRecord, prices: Any) -> Evaluation:
        """The outcome of an evaluation that is finished, at the prices of now."""
        self.watch.note(f"finished before: the numbers are those in {self.folder.path}; --fresh plays it again")
        if prices in (None, found.meta.get("prices")):
            return self._outcome(None, _read_report(self.folder.path))
        self.store.update_run(found.id, meta={"prices": prices})
        return self._outcome(None)

    def _take_over(self, meta: Mapping[str, Any], episodes: Mapping[Place, EpisodeSummary]) -> None:
        """Go on from what the sessions before this one left."""
        self._seconds = float(meta.get("seconds", 0.0))
        self._met = meta.get("player", {})
        self._lost = {**self._lost, **meta.get("lost", {})}
        self.budget.charge(self._lost["prompt_tokens"], self._lost["tokens"])
        for place, row in episodes.items():
            self.budget.add(row.prompt_tokens, row.tokens)
            if has_result(row.stop_reason):
                self._results.add(place)
                self._count(row.correct, row.stop_reason)
            else:
                self._again[place] = row

    # -- what is played ------------------------------------------------------------------------------------------------

    def _warn_of_greed(self) -> None:
        """Say what several samples at temperature 0 are, before they are paid for."""
        suite = self.plan.suite
        most = max(suite.samples_of(name) for name in self.plan.entries)
        if suite.sampling.temperature == 0 and most > 1 and self.player.kind not in SCRIPTED:
            self.watch.note(
                f"temperature 0 draws nothing: the {most} samples of a task will be the same wherever the engine is "
                f"deterministic; -k 1 asks once"
            )

    def _play_and_settle(self) -> Stopped | None:
        """Play; whatever ends it, the run says how it stands."""
        status: RunStatus = "failed"
        stopped: Stopped | None = None
        try:
            stopped = _run(self._play())
            if stopped is not None:
                status = "interrupted"
            elif len(self._results) == self.plan.size:
                status = "finished"
            return stopped
        except (KeyboardInterrupt, SystemExit):
            status = "interrupted"
            raise
        finally:
            missing = self.plan.size - len(self._results)
            self._note_seconds(status, finished=status == "finished")
            if missing and self._results:
                again = "the same command" if stopped is None else f"a higher limits.{stopped}"
                kept = f"{len(self._results)} of {self.plan.size} episodes are in {self.folder.path}"
                self.watch.note(f"{kept}; {again} goes on with the others")

    async def _play(self) -> Stopped | None:
        """Play all that is missing; returns the limit that was reached, if one was."""
        limit = self.plan.suite.limits.seconds
        left = None if limit is None else limit - self._seconds
        self._pending = deque(item for item in self.plan.requests() if place_of(item) not in self._results)
        if not self._pending:
            return None
        if left is not None and left <= 0:
            return "seconds"
        if not self.budget.admits(0):
            return "cost"
        self.watch.phase("load")
        clock = asyncio.timeout(left)
        try:
            async with clock:
                await self.player.start()
                self._meet_player()
                return await self._rounds()
        except TimeoutError:
            if not clock.expired():
                raise
            return "seconds"
        finally:
            await self.player.close()

    async def _rounds(self) -> Stopped | None:
        """Play in rounds: one ends where the budget admits nobody beside those under way, the next asks again."""
        self.watch.phase(f"evaluate {self.plan.suite.name}", self.plan.size)
        if self._results:
            self.watch.advance(len(self._results), **self._values())
        while self._pending:
            if not self.budget.admits(0):
                return "cost"
            async with aclosing(self.player.play(self.plan.sources, self._supply())) as played:
                async for request, trajectory in played:
                    self._take(request, trajectory)
        for line in self.player.account():
            self.watch.note(line)
        return None

    def _supply(self) -> Iterator[PlayRequest]:
        ended = self._played
        begun = 0
        while self._pending and self.budget.admits(begun - (self._played - ended)):
            begun += 1
            yield self._pending.popleft()

    # -- what has ended ------------------------------------------------------------------------------------------------

    def _take(self, request: PlayRequest, trajectory: Trajectory) -> None:
        """Keep an episode that has ended. One that was only cancelled has nothing to keep."""
        self._played += 1
        if trajectory.stop_reason is StopReason.CANCELLED:
            return
        phase = PHASE + request.entry
        if self.budget.priced and not trajectory.aborted and not _counted(trajectory, self.player):
            raise ConfigError("--price-input: the endpoint does not say how many tokens it reads and writes (usage)")
        self.store.add_episode(self._run, phase, 0, request.group, request.sample, trajectory)
        self.budget.add(trajectory.prompt_tokens or 0, trajectory.completion_tokens or 0)
        self._lose(place_of(request))
        if has_result(trajectory.stop_reason):
            self._results.add(place_of(request))
            correct = trajectory.metrics.get("correct")
            self._count(None if correct is None or trajectory.aborted else correct == 1.0, trajectory.stop_reason)
        else:
            self._failed += 1
        self.watch.episode(phase, trajectory)
        self.watch.advance(1, **self._values())
        if time.monotonic() - self._noted > SIGN_OF_LIFE:
            self._note_seconds(None, finished=False)

    def _count(self, correct: bool | None, reason: StopReason) -> None:
        """Count what has a verdict, for the accuracy that is shown meanwhile."""
        if correct is not None or reason is StopReason.TIMEOUT:
            self._verdicts.append(correct is True)

    def _lose(self, place: Place) -> None:
        """The failed episode that was here is no longer in the store; what it has cost is not forgotten."""
        if (row := self._again.pop(place, None)) is not None:
            self._lost["prompt_tokens"] += row.prompt_tokens
            self._lost["tokens"] += row.tokens
            self.store.update_run(self._run, meta={"lost": self._lost})

    def _values(self) -> dict[str, float]:
        values = {"accuracy": sum(self._verdicts) / len(self._verdicts)} if self._verdicts else {}
        if self.budget.priced:
            values["dollars"] = self.budget.spent
        if self._failed:
            values["failed"] = float(self._failed)
        return values

    def _note_seconds(self, status: RunStatus | None, finished: bool) -> None:
        self._noted = time.monotonic()
        seconds = self._seconds + self._noted - self._began
        self.store.update_run(self._run, status=status, meta={"seconds": seconds, "finished": finished})

    def _meet_player(self) -> None:
        """Note who plays; raises `ConfigError` if it is not who played the episodes that are there."""
        about = self.player.describe()
        if self._results and (difference := first_difference(_decisive(self._met), _decisive(about))):
            raise ConfigError(f"{str(self.folder.path)!r} was begun otherwise: {difference}; choose another folder")
        self.store.update_run(self._run, meta={"player": about, "weights_hash": self.player.weights_hash})

    def _outcome(self, stopped: Stopped | None, report: EvaluationReport | None = None) -> Evaluation:
        """What came of it, with the report that is there, else a new one."""
        from agentrl.evaluation.report import write_evaluation

        missing = self.plan.size - len(self._results)
        if report is None:
            self.watch.phase("report")
            report = write_evaluation(self.folder.path)
        cost = self.budget.spent if self.budget.priced else None
        return Evaluation(self.folder.path, report, self.plan.size, missing, self._played, cost, stopped)


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end, in a notebook, too, where an event loop runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    return run_sync(coroutine)


def _counted(trajectory: Trajectory, player: Player) -> bool:
    """Whether somebody counted the tokens of an episode that has ended; scripted players have none."""
    return player.kind is not PlayerKind.ENDPOINT or trajectory.completion_tokens is not None


def _decisive(about: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in about.items() if key not in _WORDS}


def _read_report(folder: Path) -> EvaluationReport | None:
    """The report that was written last, None where none can be read."""
    from agentrl.evaluation.report import EvaluationReport

    if not all((folder / name).is_file() for name in REPORTS):
        return None
    try:
        return EvaluationReport.model_validate_json((folder / REPORTS[0]).read_bytes())
    except (OSError, ValueError):  # damaged, or of another version: it is made anew
        return None
