"""Groups without signal leave the batch and its denominators."""

from __future__ import annotations

import numpy as np
import pytest

from agentrl import advantages
from agentrl.advantages import TurnTable, attribute, credited_batch
from agentrl.trajectory import Trajectory


def group(*rewards: float) -> list[TurnTable]:
    return [
        TurnTable(np.array([reward]), np.array([2]), record=Trajectory(f"{rewards}", member=index))
        for index, reward in enumerate(rewards)
    ]


def test_equal_groups_leave_and_the_others_stay_as_they_are() -> None:
    transforms = advantages.build(["rloo", "drop_equal"])
    credits = attribute(transforms, [group(1, 0, 0), group(0.1, 0.1, 0.1), group(1), group(0, 0)])
    assert [len(credit.dropped) for credit in credits] == [0, 3, 1, 2]
    assert credits[0].trajectory.tolist() == pytest.approx([1.0, -0.5, -0.5])
    batch = credited_batch(credits)
    assert [item.task_id for item in batch.trajectories] == ["(1, 0, 0)"] * 3
    assert transforms[1].metrics == {"dropped_groups": 0.75}


def test_nothing_at_all() -> None:
    transforms = advantages.build(["rloo", "drop_equal"])
    assert attribute(transforms, []) == []
    assert transforms[1].metrics == {"dropped_groups": 0.0}
