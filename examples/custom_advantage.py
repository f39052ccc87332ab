"""A credit rule of your own: one function and one decorator, then a name in the configuration.

    python examples/custom_advantage.py
    python examples/custom_advantage.py steps=40

The rule gets the turn tables of a group (rewards and lengths of every turn of its members) and returns one number a
trajectory, or one array of numbers (one a turn) a trajectory.
"""

import sys
from collections.abc import Sequence

import agentrl
from agentrl.advantages import TurnTable


@agentrl.advantage("median_baseline")
def median_baseline(group: Sequence[TurnTable]) -> list[float]:
    """Reward minus the median of the group's other members: robust where one member is an outlier."""
    rewards = [table.total for table in group]
    credit: list[float] = []
    for index, reward in enumerate(rewards):
        peers = sorted(rewards[:index] + rewards[index + 1 :])
        credit.append(reward - peers[len(peers) // 2] if peers else 0.0)
    return credit


def main(overrides: Sequence[str]) -> None:
    config = agentrl.load_config(recipe="tiny", overrides=["name=median", *overrides], advantages=["median_baseline"])
    result = agentrl.train(config, observer=agentrl.make_display())
    print(f"accuracy {result.evaluations['trained'].accuracy.value:.1%}, report: {result.report}")


if __name__ == "__main__":
    main(sys.argv[1:])
