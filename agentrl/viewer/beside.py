"""What stands beside an episode: its task, its answer, what judges said. From the store's tables, else from its record.

Texts have addresses, as those of the conversation have (see `excerpt`): `gold`, `answer`, `info`, `judgement.0`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from agentrl.store import EpisodeRecord, JudgementRecord, RunStore, TaskRecord
from agentrl.viewer.excerpt import Excerpt, readable, text_at

_SHOWN_ELSEWHERE = frozenset({"id", "split", "level", "gold", "answer"})


@dataclass(frozen=True)
class TaskView:
    """What was asked, beside the opening messages, and what came of it."""

    split: str | None
    level: int | None
    gold: Excerpt | None
    """What the judge knows, as JSON or text."""
    answer: Excerpt | None
    extras: Excerpt | None
    """The rest of what the environment recorded, as JSON."""


@dataclass(frozen=True)
class Beside:
    """Store and record of one episode."""

    store: RunStore
    run: int
    record: EpisodeRecord

    def task(self) -> TaskView:
        """What is known of the episode's task."""
        info, task = self.record.trajectory.info, self._task
        split = task.split if task is not None and task.split else info.get("split")
        level = task.level if task is not None and task.level is not None else self.record.level
        texts = {name: self.text(name) for name in ("gold", "answer", "info")}
        gold, answer, extras = (None if text is None else Excerpt.of(text, name) for name, text in texts.items())
        return TaskView(str(split) if split else None, level, gold, answer, extras)

    def text(self, address: str) -> str | None:
        """The whole text under an address; None if there is none."""
        info: Mapping[str, Any] = self.record.trajectory.info
        match address.split("."):
            case ["gold"]:
                gold = self._task.gold if self._task is not None else None
                value = info.get("gold") if gold is None else gold
            case ["answer"]:
                value = info.get("answer", self.record.answer)
            case ["info"]:
                value = {name: value for name, value in info.items() if name not in _SHOWN_ELSEWHERE} or None
            case ["judgement", number] if number.isascii() and number.isdigit() and len(number) < 10:
                value = dict(enumerate(entry.text for entry in self.judgements)).get(int(number))
            case _:
                return text_at(self.record.trajectory, address)
        return None if value is None else laid_out(value)

    @cached_property
    def judgements(self) -> list[JudgementRecord]:
        """What judges said of the episode."""
        return self.store.judgements(self.run, episode=self.record.id)

    @cached_property
    def _task(self) -> TaskRecord | None:
        return self.store.task(self.run, self.record.env_id, self.record.task_id)


def laid_out(value: Any) -> str:
    """A JSON-able value for people: text as it is, what holds text of several lines by name, the rest as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and any(isinstance(part, str) and "\n" in part for part in value.values()):
        return readable(json.dumps(value, ensure_ascii=False, default=str))
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
