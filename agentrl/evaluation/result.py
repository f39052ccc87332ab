"""What an evaluation says: shares with intervals, counts, and how episodes ended.

Invariant: aborted episodes have no verdict; they are counted beside the result and never inside a share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agentrl.evaluation.intervals import Interval, normal_mean, wilson
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
        """Share of episodes whose final answer the verifier accepts."""
        return self.shares.get("correct", Interval(0.0, 0.0, 1.0))

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
    judged = [trajectory for trajectory in trajectories if not trajectory.aborted]
    names = sorted({name for trajectory in judged for name in trajectory.metrics})
    values = {name: [trajectory.metrics.get(name, 0.0) for trajectory in judged] for name in names}
    return EvalResult(
        model=model,
        env=env,
        split=split,
        temperature=temperature,
        seed=seed,
        episodes=len(judged),
        aborted=len(trajectories) - len(judged),
        shares={name: wilson(sum(values[name]), len(judged)) for name in names if _is_share(name)},
        means={name: normal_mean(values[name]) for name in names if not _is_share(name)},
        reward=normal_mean([trajectory.reward for trajectory in judged]),
        turns=sum(len(trajectory.turns) for trajectory in judged) / max(1, len(judged)),
        tokens=sum(trajectory.num_policy_tokens for trajectory in trajectories),
        seconds=seconds,
        stop_reasons=dict(Counter(str(trajectory.stop_reason) for trajectory in trajectories)),
    )


def _is_share(name: str) -> bool:
    """What an environment calls `correct...` is 0.0 or 1.0 in each episode (see `Verdict.metrics`)."""
    return name.startswith("correct")
