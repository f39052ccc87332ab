"""A judge of reasoning: asks any engine about the right answers of an evaluation, and keeps its votes in the store.

Every vote is one call with a seed of its own, committed as it comes; a judge that is started again asks only for what
is missing. A judge's name holds a digest of what it was told and how it was sampled, so that votes that were given to
other questions never mix.

Invariants: only right answers are judged; a vote that cannot be read is kept as an abstention; so is a request that
the engine refuses (an episode longer than its context), unless it never answered one: then the engine is at fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol, cast

from agentrl.engines.base import Engine, FinishReason, Sampling
from agentrl.errors import ConfigError, EngineRefusal
from agentrl.evaluation.chain_of_thought import SampleKey, Vote, to_judge
from agentrl.evaluation.judge_prompt import INSTRUCTIONS, judge_messages, read_verdict
from agentrl.evaluation.samples import Sample
from agentrl.observe import Observer
from agentrl.seeding import derive_seed

if TYPE_CHECKING:
    from agentrl.chat import ChatRenderer
    from agentrl.env import Env
    from agentrl.evaluation.players import PlayerSettings
    from agentrl.messages import Message
    from agentrl.store import EpisodeRecord, RunStore


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """How a judge is asked."""

    votes: int = 3
    """Independent votes on each right answer."""
    n_judge: int | None = None
    """Right answers of each task that are judged, the first by number; None: all. Fewer give P(CC|CA) alone."""
    temperature: float = 0.6
    max_tokens: int = 2048
    """Of one verdict, thinking included."""
    max_chars: int = 20_000
    """Characters of one message of an episode that the judge reads; the middle of a longer one is left out."""
    concurrency: int = 8
    """Votes asked for at one time."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises `ConfigError`."""
        for key in ("votes", "max_tokens", "concurrency"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)} must be at least 1")
        if self.n_judge is not None and self.n_judge < 1:
            raise ConfigError(f"n_judge={self.n_judge} must be at least 1")
        if self.max_chars < 100:
            raise ConfigError(f"max_chars={self.max_chars} must be at least 100")
        if not self.temperature > 0:
            raise ConfigError(f"temperature={self.temperature:g}: votes are independent draws; it must be above 0")

    def name_for(self, model: str) -> str:
        """The judge's name in the store."""
        told = f"{INSTRUCTIONS}\x1f{self.temperature:g}\x1f{self.max_tokens}\x1f{self.max_chars}\x1f{self.seed}"
        return f"{model}#{blake2b(told.encode(), digest_size=4).hexdigest()}"


class Asker(Protocol):
    """Who answers a conversation."""

    @property
    def engine(self) -> Engine: ...

    async def ask(self, messages: Sequence[Message], sampling: Sampling) -> tuple[str, bool]:
        """The answer's text, and whether it came to its end. Raises `EngineError`."""
        ...


@dataclass(frozen=True)
class ChatAsker:
    """Over an engine that takes messages."""

    engine: Engine

    async def ask(self, messages: Sequence[Message], sampling: Sampling) -> tuple[str, bool]:
        """See `Asker.ask`."""
        reply = await self.engine.reply(messages, (), sampling)
        return reply.message.text, reply.finish_reason is FinishReason.STOP


@dataclass(frozen=True)
class TokenAsker:
    """Over an engine that takes token ids."""

    engine: Engine
    renderer: ChatRenderer

    async def ask(self, messages: Sequence[Message], sampling: Sampling) -> tuple[str, bool]:
        """See `Asker.ask`; `EngineRefusal` for a conversation that leaves no room for the answer."""
        prompt = self.renderer.opening(messages)
        context = self.engine.capabilities.max_context
        if context is not None and len(prompt) + sampling.max_tokens > context:
            raise EngineRefusal(f"{len(prompt)} tokens and an answer do not fit the judge's context of {context}")
        completion = await self.engine.generate(prompt, sampling)
        return self.renderer.parse(completion.ids).text, completion.finish_reason is FinishReason.STOP


@dataclass
class JudgeCounts:
    """What a judge did."""

    right: int = 0
    """Right answers that it was to judge."""
    known: int = 0
    """Votes that were in the store already."""
    asked: int = 0
    """Votes that were asked for now."""
    yes: int = 0
    no: int = 0
    abstained: int = 0
    """Of those asked for now: without a verdict that could be read, refused ones included."""


@dataclass
class _Sitting:
    """One run of the judge over one evaluation."""

    store: RunStore
    run: int
    name: str
    asker: Asker
    settings: JudgeSettings
    observer: Observer
    counts: JudgeCounts = field(default_factory=JudgeCounts)
    refused: list[tuple[EpisodeRecord, int, str]] = field(default_factory=list)

    async def work(self, questions: Iterator[tuple[EpisodeRecord, int]]) -> None:
        """Ask one question after another until there are none."""
        async with self.asker.engine.client():
            for episode, number in questions:
                await self._ask(episode, number)

    async def _ask(self, episode: EpisodeRecord, number: int) -> None:
        settings, trajectory = self.settings, episode.trajectory
        seed = derive_seed(settings.seed, "judge", self.name, trajectory.task_id, trajectory.seed, number)
        sampling = Sampling(max_tokens=settings.max_tokens, temperature=settings.temperature, seed=seed)
        messages = judge_messages(
            trajectory, self._gold(episode), max_chars=settings.max_chars, secret=f"{settings.seed}\x1f{self.name}"
        )
        try:
            text, ended = await self.asker.ask(messages, sampling)
        except EngineRefusal as error:
            self.refused.append((episode, number, str(error)))
            return
        self.keep(episode, number, read_verdict(text) if ended else None, text)

    def keep(self, episode: EpisodeRecord, number: int, vote: Vote, text: str) -> None:
        """Commit a vote."""
        key = episode.phase, episode.step, episode.group, episode.member
        self.store.add_judgement(self.run, *key, self.name, number, vote, text)
        counts = self.counts
        counts.asked += 1
        counts.yes += vote is True
        counts.no += vote is False
        counts.abstained += vote is None
        given = counts.yes + counts.no
        self.observer.advance(1, **({"accepted": counts.yes / given} if given else {}))

    def close(self) -> None:
        """Refused votes are abstentions, unless nothing was ever answered; raises `EngineRefusal` then."""
        if self.refused and not self.counts.asked and not self.counts.known:
            raise EngineRefusal(f"the judge refused all {len(self.refused)} requests: {self.refused[0][2]}")
        for episode, number, text in self.refused:
            self.keep(episode, number, None, text)

    def _gold(self, episode: EpisodeRecord) -> Any:
        task = self.store.task(self.run, episode.env_id, episode.task_id)
        if task is not None and task.gold is not None:
            return task.gold
        return episode.trajectory.info.get("gold")


async def judge_samples(
    store: RunStore,
    run: int,
    samples: Sequence[Sample],
    asker: Asker,
    *,
    model: str,
    settings: JudgeSettings | None = None,
    observer: Observer | None = None,
) -> JudgeCounts:
    """Have every right sample judged; votes that the store has are not asked for again.

    The engine must be started. Raises `EngineError` if it fails; the votes until then are kept.
    """
    settings, observer = settings or JudgeSettings(), observer or Observer()
    name = settings.name_for(model)
    chosen = to_judge(samples, settings.n_judge)
    known = _numbers(store, run, name)
    missing = {sample.place: _missing(known.get(sample.place, set()), settings.votes) for sample in chosen}
    total = sum(map(len, missing.values()))
    sitting = _Sitting(store, run, name, asker, settings, observer)
    sitting.counts.right, sitting.counts.known = len(chosen), len(chosen) * settings.votes - total
    store.update_run(run, meta={"judges": _registered(store, run, name, settings)})
    observer.phase("judge", total)
    questions = _questions(store, run, missing)
    workers = min(settings.concurrency, total)
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(workers):
                tasks.create_task(sitting.work(questions))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    sitting.close()
    return sitting.counts


def votes_of(
    store: RunStore, run: int, samples: Iterable[Sample], judge: str | None = None
) -> dict[SampleKey, list[Vote]]:
    """The votes that the store has on `samples`, by `Sample.key`.

    `judge` None: the only judge there is. Raises `ConfigError` if there are several.
    """
    keys = {sample.place: sample.key for sample in samples}
    records = [item for item in store.judgements(run) if (item.phase, item.step, item.group, item.member) in keys]
    judges = sorted({item.judge for item in records})
    if judge is None and len(judges) > 1:
        raise ConfigError(f"the run has votes of {len(judges)} judges: {', '.join(judges)}; name one")
    votes: dict[SampleKey, list[Vote]] = {}
    for item in sorted(records, key=lambda record: record.number):
        if judge in (None, item.judge):
            votes.setdefault(keys[item.phase, item.step, item.group, item.member], []).append(item.verdict)
    return votes


@asynccontextmanager
async def open_judge(model: str, settings: PlayerSettings | None = None) -> AsyncIterator[Asker]:
    """The judge behind a started engine: whatever plays evaluations may judge them too (`resolve_player`).

    An endpoint is asked in mode `chat`. Raises `ConfigError`, `EngineError`.
    """
    from agentrl.evaluation.players import PlayerSettings, resolve_player
    from agentrl.evaluation.players.played import RolloutPlayer

    settings = settings or PlayerSettings()
    if settings.endpoint is not None or model.startswith(("http://", "https://")):
        settings = replace(settings, mode="chat")
    player = resolve_player(model, settings)
    if model in ("oracle", "random") or not isinstance(player, RolloutPlayer):
        raise ConfigError(f"judge={model!r} is no model")
    await player.start()
    try:
        renderer = player.renderer(cast("Env", _Toolless()))
        yield ChatAsker(player.engine) if renderer is None else TokenAsker(player.engine, renderer)
    finally:
        await player.close()


class _Toolless:
    """What a renderer asks of an environment."""

    def tool_schemas(self) -> list[dict[str, Any]]:
        """A judge has no tools."""
        return []


_Place = tuple[str, int, str, int]


def _numbers(store: RunStore, run: int, name: str) -> dict[_Place, set[int]]:
    known: dict[_Place, set[int]] = {}
    for item in store.judgements(run):
        if item.judge == name:
            known.setdefault((item.phase, item.step, item.group, item.member), set()).add(item.number)
    return known


def _missing(known: set[int], votes: int) -> list[int]:
    return [number for number in range(votes) if number not in known]


def _questions(store: RunStore, run: int, missing: Mapping[_Place, list[int]]) -> Iterator[tuple[EpisodeRecord, int]]:
    """The votes to ask for; episodes are read as they are needed."""
    for phase, step in dict.fromkeys((phase, step) for (phase, step, _, _), numbers in missing.items() if numbers):
        for episode in store.episodes(run, phase, step, correct=True):
            for number in missing.get((episode.phase, episode.step, episode.group, episode.member), ()):
                yield episode, number


def _registered(store: RunStore, run: int, name: str, settings: JudgeSettings) -> dict[str, Any]:
    """The run's judges with this one: how many votes it gives on how many answers of a task."""
    known = dict(store.run(run).meta.get("judges", {}))
    return known | {name: {"votes": settings.votes, "n_judge": settings.n_judge}}
