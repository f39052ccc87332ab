"""Episodes before and after, as a person reads them: the same tasks side by side.

Invariant: every text that comes out has passed `visible` and a limit, and says how much was cut; which episodes are
shown follows from their verdicts and task order alone, failures included.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from agentrl.messages import Message, Role, ToolCall
from agentrl.report.data import RunData
from agentrl.store import EpisodeRecord, RunStore
from agentrl.text import clip, one_line, visible
from agentrl.trajectory import StopReason, Trajectory, Turn

SHOWN_PAIRS = 5
SHOWN_TURNS = 12
TEXT_LIMIT, TEXT_TAIL = 4000, 1000  # characters of one message; answers tend to stand at the end
_WISHED = {"learned": 2, "lost": 1, "not learned": 1, "kept": 1}
_BEFORE = ("eval/base", "eval/warm_start")
_AFTER = ("eval/trained", "eval/step", "train")
_SOURCES = {
    "eval/base": "base policy",
    "eval/warm_start": "warm-started policy",
    "eval/trained": "trained policy",
    "eval/step": "policy at step {}",
    "train": "training, step {}",
}


@dataclass(frozen=True)
class Excerpt:
    """Visible text, cut in the middle where it was too long."""

    head: str
    cut: int = 0
    """Characters left out."""
    tail: str = ""

    @classmethod
    def of(cls, text: str) -> Excerpt:
        head, tail, cut = clip(text, TEXT_LIMIT, TEXT_TAIL)
        return cls(visible(head), cut, visible(tail))


@dataclass(frozen=True)
class CallView:
    """A tool call of a message."""

    name: str
    arguments: Excerpt
    error: str | None


@dataclass(frozen=True)
class MessageView:
    """A message of the conversation."""

    role: str
    text: Excerpt
    calls: list[CallView] = field(default_factory=list)
    chips: list[str] = field(default_factory=list)
    """Short facts: reward, tokens, errors."""
    failed: bool = False


@dataclass(frozen=True)
class EpisodeView:
    """An episode: verdict and conversation after the opening."""

    verdict: str
    reward: str
    facts: str
    ending: StopReason
    messages: list[MessageView]
    turns_left_out: int


@dataclass(frozen=True)
class PairView:
    """A task and what became of it before and after training."""

    task_id: str
    outcome: str
    opening: list[MessageView]
    before: EpisodeView | None
    after: EpisodeView | None


@dataclass(frozen=True)
class Comparison:
    """What the report shows of the episodes."""

    before: str | None
    """Where the left column comes from; None where there is nothing."""
    after: str | None
    outcomes: dict[str, int]
    """Tasks of both sides by what became of them."""
    pairs: list[PairView]


def compare(data: RunData, store: RunStore) -> Comparison:
    """Choose and prepare the episodes."""
    before_source, before = _first_of(data, store, _BEFORE)
    after_source, after = _first_of(data, store, _AFTER)
    tasks = [task for task in before if task in after] or [*before, *after]
    by_outcome: dict[str, list[str]] = {}
    for task in tasks:
        by_outcome.setdefault(_outcome(before.get(task), after.get(task)), []).append(task)
    shown = _choose(by_outcome, tasks)
    paired = Counter({name: len(found) for name, found in by_outcome.items() if name})
    return Comparison(
        before_source, after_source, dict(paired), [_pair(task, before.get(task), after.get(task)) for task in shown]
    )


def _first_of(data: RunData, store: RunStore, phases: Iterable[str]) -> tuple[str | None, dict[str, EpisodeRecord]]:
    """The name of the first phase that has episodes, and those of its last step: the first of each task."""
    for phase in phases:
        step = {"train": data.last_step or None, "eval/step": _last(data)}.get(phase)
        found: dict[str, EpisodeRecord] = {}
        for episode in store.episodes(data.run.id, phase, step):
            found.setdefault(episode.task_id, episode)
        if found:
            return _SOURCES[phase].format(next(iter(found.values())).step), found
    return None, {}


def _last(data: RunData) -> int | None:
    return data.on_the_way[-1].step if data.on_the_way else None


def _outcome(before: EpisodeRecord | None, after: EpisodeRecord | None) -> str:
    """What became of a task; empty where one side has no verdict."""
    if before is None or after is None or before.correct is None or after.correct is None:
        return ""
    if after.correct:
        return "kept" if before.correct else "learned"
    return "lost" if before.correct else "not learned"


def _choose(by_outcome: dict[str, list[str]], tasks: list[str]) -> list[str]:
    """Some tasks of every outcome, the first in task order, then whatever is left until there are enough."""
    chosen = [task for name, wished in _WISHED.items() for task in by_outcome.get(name, [])[:wished]]
    taken = set(chosen)
    return (chosen + [task for task in tasks if task not in taken])[:SHOWN_PAIRS]


def _pair(task: str, before: EpisodeRecord | None, after: EpisodeRecord | None) -> PairView:
    either = after or before
    return PairView(
        one_line(task),
        _outcome(before, after),
        opening_views(either.trajectory) if either else [],
        episode_view(before) if before else None,
        episode_view(after) if after else None,
    )


def opening_views(trajectory: Trajectory) -> list[MessageView]:
    """The messages that the policy was given at first."""
    return [MessageView(str(message.role), Excerpt.of(message.text)) for message in trajectory.opening]


def episode_view(record: EpisodeRecord) -> EpisodeView:
    """The episode as the page shows it."""
    trajectory = record.trajectory
    verdict = "no verdict" if record.correct is None else "correct" if record.correct else "wrong"
    if trajectory.aborted:
        verdict = "aborted"
    shown = trajectory.turns[:SHOWN_TURNS]
    messages = [view for turn in shown for view in _turn(turn)]
    if trajectory.error:
        messages.append(MessageView("error", Excerpt.of(trajectory.error), failed=True))
    return EpisodeView(
        verdict,
        _figure(record.reward),
        _facts(trajectory),
        trajectory.stop_reason,
        messages,
        len(trajectory.turns) - len(shown),
    )


def _facts(trajectory: Trajectory) -> str:
    turns, tokens = len(trajectory.turns), trajectory.num_policy_tokens
    facts = [
        f"{turns} turn{'' if turns == 1 else 's'}",
        f"{tokens:,} tokens" if tokens else "",
        f"{trajectory.seconds:.1f} s",
    ]
    return " · ".join(filter(None, facts))


def _turn(turn: Turn) -> list[MessageView]:
    chips = [f"{len(turn.sampled_ids):,} tokens"] if turn.sampled_ids else []  # an endpoint or an oracle gives none
    if turn.reward:
        chips.append(f"reward {_figure(turn.reward)}")
    if turn.parse_error:
        chips.append("call not understood")
    if turn.truncated:
        chips.append("ran into its token limit")
    spoken = MessageView(
        "assistant",
        Excerpt.of(turn.message.text),
        [_call(call) for call in turn.message.tool_calls],
        chips,
        turn.parse_error,
    )
    return [spoken, *_observations(turn)]


def _observations(turn: Turn) -> list[MessageView]:
    """Tool results with the name, time and error of the call that they answer; other observations as they are."""
    answers = iter(turn.tool_calls)
    views: list[MessageView] = []
    for message in turn.observation:
        record = next(answers, None) if message.role is Role.TOOL else None
        chips = [] if record is None else [one_line(record.name), f"{1000 * record.seconds:.1f} ms"]
        if record is not None and record.error:
            chips.append(one_line(record.error).replace("_", " "))
        views.append(_observation(message, chips, record is not None and bool(record.error)))
    return views


def _observation(message: Message, chips: list[str], failed: bool) -> MessageView:
    return MessageView(str(message.role), Excerpt.of(message.text), chips=chips, failed=failed)


def _call(call: ToolCall) -> CallView:
    return CallView(
        one_line(call.name), Excerpt.of(_readable(call.arguments)), one_line(call.error) if call.error else None
    )


def _readable(arguments: str) -> str:
    """`expression = "1 + 2"` for an object of simple values; the text as it was written for anything else."""
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    simple = isinstance(parsed, dict) and all(not isinstance(value, dict | list) for value in parsed.values())
    if not simple or not parsed:
        return arguments
    return "\n".join(
        f"{name} = {value if isinstance(value, str) and chr(10) in value else json.dumps(value, ensure_ascii=False)}"
        for name, value in parsed.items()
    )


def _figure(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not a number"
