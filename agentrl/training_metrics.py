"""What a batch of episodes says about itself: the numbers of a training step that come from the rollout.

Invariant: aborted episodes are counted and enter no mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from agentrl.trajectory import Group, StopReason


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Means over judged episodes, counts over all; shares in [0, 1]."""
    episodes = [trajectory for group in groups for trajectory in group.trajectories]
    judged = [trajectory for group in groups for trajectory in group.members]
    metrics: dict[str, float] = {
        "episodes": len(episodes),
        "aborted": len(episodes) - len(judged),
        "tokens": sum(trajectory.num_policy_tokens for trajectory in episodes),
        "forks": sum(trajectory.num_forks for trajectory in episodes),
    }
    if judged:
        turns = [turn for trajectory in judged for turn in trajectory.turns]
        metrics |= {
            "reward": fmean(trajectory.reward for trajectory in judged),
            "turns": len(turns) / len(judged),
            "tool_calls": sum(len(turn.tool_calls) for turn in turns) / len(judged),
            "tool_errors": sum(turn.tool_error for turn in turns) / len(judged),
            "parse_errors": sum(turn.parse_error for turn in turns) / len(judged),
            "truncated_turns": sum(turn.truncated for turn in turns) / len(judged),
        }
        for name in sorted({name for trajectory in judged for name in trajectory.metrics}):
            metrics["accuracy" if name == "correct" else name] = fmean(
                trajectory.metrics.get(name, 0.0) for trajectory in judged
            )
    metrics["zero_variance_groups"] = _share_without_variance(groups)
    reasons = Counter(trajectory.stop_reason for trajectory in episodes)
    metrics |= {f"stop/{reason}": reasons[reason] / len(episodes) for reason in StopReason if reasons[reason]}
    return metrics


def _share_without_variance(groups: Sequence[Group]) -> float:
    rewards = [[trajectory.reward for trajectory in group.members] for group in groups]
    return sum(max(values) == min(values) for values in rewards if values) / max(1, len(rewards))
