"""What an evaluation says: shares with intervals, counts, and how episodes ended.

Invariant: aborted episodes have no verdict; they are counted beside the result and never inside a share. What has a
verdict is ruled in `agentrl.evaluation.samples` and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agentrl.evaluation.intervals import Interval, normal_mean, wilson
from agentrl.evaluation.samples import Sample, sample_of, stop_reasons, timed_out_is_wrong
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class EvalResult:
    """The evaluation of one policy on one environment."""

    model: str
    env: str
    split: str
    temperature: float
    seed: int
    episodes: int
    """Episodes with a verdict."""
    aborted: int
    shares: dict[str, Interval]
    """Share of episodes by 0/1 metric of the verdict: `correct` and names that begin so, with 95 % Wilson bounds."""
    means: dict[str, Interval]
    """Means over episodes of the verdict's other metrics, with 95 % normal bounds."""
    reward: Interval
    turns: float
    tokens: int
    """Tokens sampled in all episodes."""
    seconds: float
    stop_reasons: dict[str, int] = field(default_factory=dict)

    @property
    def accuracy(self) -> Interval:
        """Share of episodes whose final answer the verifier accepts; not a number where no episode has a verdict."""
        return self.shares.get("correct", Interval(math.nan, 0.0, 1.0))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; intervals as objects with `value`, `low`, `high`."""
        tree = asdict(self)
        for group in ("shares", "means"):
            tree[group] = {name: interval._asdict() for name, interval in getattr(self, group).items()}
        tree["reward"] = self.reward._asdict()
        return tree

    def to_metrics(self) -> dict[str, float]:
        """Flat numbers for the store: `accuracy`, `accuracy_low`, `accuracy_high`, likewise every share; the means."""
        metrics: dict[str, float] = {name: mean.value for name, mean in self.means.items()}
        for name, share in {"accuracy": self.accuracy, "reward": self.reward, **self.shares}.items():
            metrics |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
        counts = {"episodes": self.episodes, "aborted": self.aborted, "turns": self.turns, "tokens": self.tokens}
        return metrics | {name: float(count) for name, count in counts.items()} | {"seconds": self.seconds}


def summarise(
    trajectories: Sequence[Trajectory],
    *,
    model: str,
    env: str,
    split: str,
    temperature: float,
    seed: int,
    seconds: float,
) -> EvalResult:
    """The result of evaluated episodes."""
    samples = timed_out_is_wrong([sample_of(played, env, played.member) for played in trajectories])
    played = [sample for sample in samples if not sample.aborted]
    values = verdict_metrics(played)
    return EvalResult(
        model=model,
        env=env,
        split=split,
        temperature=temperature,
        seed=seed,
        episodes=len(played),
        aborted=len(samples) - len(played),
        shares={name: wilson(sum(found), len(played)) for name, found in values.items() if is_share(name)},
        means={name: normal_mean(found) for name, found in values.items() if not is_share(name)},
        reward=normal_mean([sample.reward for sample in played]),
        turns=sum(sample.turns for sample in played) / max(1, len(played)),
        tokens=sum(sample.tokens for sample in samples),
        seconds=seconds,
        stop_reasons=stop_reasons(samples),
    )


def verdict_metrics(played: Sequence[Sample]) -> dict[str, list[float]]:
    """What the verdicts of some episodes report, by name: one number an episode, 0.0 where it reports none."""
    names = sorted({name for sample in played for name in sample.metrics})
    return {name: [sample.metrics.get(name, 0.0) for sample in played] for name in names}


def is_share(name: str) -> bool:
    """What an environment calls `correct...` is 0.0 or 1.0 in each episode (see `Verdict.metrics`)."""
    return name.startswith("correct")
