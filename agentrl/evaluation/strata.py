"""Results by difficulty: the same numbers for the tasks of each level.

Invariant: every sample is in exactly one stratum; tasks whose environment names no level are one of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from agentrl.evaluation.clusters import ClusteredMean, clustered_mean, clustered_share
from agentrl.evaluation.samples import Sample, judged


@dataclass(frozen=True, slots=True)
class Stratum:
    """The samples of one level."""

    level: int | None
    samples: int
    """With a verdict."""
    left_out: int
    accuracy: ClusteredMean
    """Share that is right, clustered by task."""
    reward: ClusteredMean
    """Mean reward of the episodes that were not aborted, clustered by task."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able but for NaN and infinities."""
        return asdict(self)


def accuracy(samples: Iterable[Sample], coverage: float = 0.95) -> ClusteredMean:
    """Share of the judged samples that is right, clustered by task."""
    verdicts = judged(samples)
    return clustered_share(
        [float(sample.correct is True) for sample in verdicts], [sample.task for sample in verdicts], coverage
    )


def reward(samples: Iterable[Sample], coverage: float = 0.95) -> ClusteredMean:
    """Mean reward of the episodes that were not aborted, clustered by task."""
    played = [sample for sample in samples if not sample.aborted]
    return clustered_mean([sample.reward for sample in played], [sample.task for sample in played], coverage)


def by_level(samples: Iterable[Sample], coverage: float = 0.95) -> list[Stratum]:
    """The strata in the order of their levels, tasks without a level last."""
    levels: dict[int | None, list[Sample]] = {}
    for sample in samples:
        levels.setdefault(sample.level, []).append(sample)
    order = sorted(levels, key=lambda level: (level is None, level or 0))
    return [_stratum(level, levels[level], coverage) for level in order]


def _stratum(level: int | None, samples: list[Sample], coverage: float) -> Stratum:
    share = accuracy(samples, coverage)
    return Stratum(
        level=level,
        samples=share.samples,
        left_out=len(samples) - share.samples,
        accuracy=share,
        reward=reward(samples, coverage),
    )
