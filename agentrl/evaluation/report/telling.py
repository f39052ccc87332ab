"""Which episodes a page shows: those that tell most about an agent, chosen by rules that the page states.

Invariant: the choice follows from the samples alone; no episode is shown twice and no task twice under one rule;
failures are always among them where there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agentrl.evaluation.samples import Sample, TaskCounts, TaskKey, task_counts

EACH = 2
"""Episodes a rule."""


@dataclass(frozen=True)
class Rule:
    """A reason to show an episode."""

    title: str
    words: str
    """The rule, for readers of the page."""
    fits: Callable[[Sample], bool]
    order: Callable[[Sample, Shares], tuple[Any, ...]]
    """The smallest come first; equals in the order of the samples."""


@dataclass(frozen=True)
class Shares:
    """How often a task is solved."""

    tasks: dict[TaskKey, tuple[float, float]]
    """By task the share of its samples that is right, and that of its level in its entry."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Shares:
        counts = [count for count in task_counts(samples) if count.n]
        levels: dict[tuple[str, int | None], list[TaskCounts]] = {}
        for count in counts:
            levels.setdefault((count.task.entry, count.level), []).append(count)
        share = {
            level: sum(task.c for task in tasks) / sum(task.n for task in tasks) for level, tasks in levels.items()
        }
        return cls({count.task: (count.c / count.n, share[count.task.entry, count.level]) for count in counts})

    def by_difficulty(self, sample: Sample) -> tuple[float, float]:
        """Small for a sample of a hard task; only for one with a verdict."""
        return self.tasks[sample.task]


RULES = (
    Rule(
        "Hardest solved",
        "right, of the task that is solved least often; among equals of the level that is, then with the most turns",
        lambda sample: sample.correct is True,
        lambda sample, shares: (*shares.by_difficulty(sample), -sample.turns),
    ),
    Rule(
        "Easiest failed",
        "wrong, of the task that is solved most often; among equals of the level that is, then with the fewest turns",
        lambda sample: sample.correct is False,
        lambda sample, shares: (*(-share for share in shares.by_difficulty(sample)), sample.turns),
    ),
    Rule(
        "Most tool errors",
        "the most calls that were answered by an error",
        lambda sample: sample.tool_errors > 0,
        lambda sample, shares: (-sample.tool_errors, -sample.tool_calls),
    ),
    Rule(
        "Longest",
        "the most turns, then the most sampled tokens",
        lambda sample: sample.turns > 1,
        lambda sample, shares: (-sample.turns, -sample.tokens),
    ),
    Rule(
        "Aborted",
        "no verdict, the first ones in order",
        lambda sample: sample.aborted,
        lambda sample, shares: (),
    ),
)


def choose(samples: Sequence[Sample], each: int = EACH) -> list[tuple[Rule, list[Sample]]]:
    """Every rule that any episode fits, with at most `each` episodes; an episode stands under its first rule."""
    shares, shown = Shares.of(samples), set[tuple[str, str, int]]()
    found: list[tuple[Rule, list[Sample]]] = []
    for rule in RULES:
        fitting = (sample for sample in samples if rule.fits(sample) and sample.key not in shown)
        ordered = sorted(fitting, key=lambda sample, rule=rule: rule.order(sample, shares))  # type: ignore[misc]
        chosen = list(_first_of_tasks(ordered, each))
        shown.update(sample.key for sample in chosen)
        if chosen:
            found.append((rule, chosen))
    return found


def _first_of_tasks(samples: Iterable[Sample], limit: int) -> Iterable[Sample]:
    """The first samples of the first `limit` tasks."""
    seen: set[TaskKey] = set()
    for sample in samples:
        if len(seen) == limit:
            return
        if sample.task not in seen:
            seen.add(sample.task)
            yield sample
