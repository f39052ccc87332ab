"""Weights of the layers (T1.3)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agentrl.advantages import GRPO, Credit, Weigh, build, check_order
from agentrl.errors import ConfigError
from tests.advantages.hand_made import table

CREDIT = Credit(
    (table([0.0, 1.0], lengths=[2, 1]),), np.array([10.0]), (np.array([0.3, -0.7]),), (np.array([1.0, 2.0, 3.0]),)
)


def test_t1_the_layers_are_weighed_and_tokens_are_not() -> None:
    weighed = Weigh(w_traj=0.5, w_turn=2.0)([CREDIT])[0]
    assert weighed.token_advantages()[0] == pytest.approx([5 + 0.6 + 1, 5 + 0.6 + 2, 5 - 1.4 + 3])
    assert CREDIT.trajectory.tolist() == [10.0]


def test_t1_defaults_leave_the_turns_credit_alone() -> None:
    plain = replace(CREDIT, tokens=(np.zeros(3),))
    assert Weigh()([plain])[0].token_advantages()[0] == pytest.approx([0.3, 0.3, -0.7])


def test_stands_behind_an_estimator() -> None:
    check_order([GRPO(), Weigh(w_traj=1.0)], group_size=2)
    with pytest.raises(ConfigError, match=r"GRPO .* must stand before Weigh"):
        check_order([Weigh(), GRPO()], group_size=2)


@pytest.mark.parametrize("options", [{"w_traj": 0.0, "w_turn": 0.0}, {"w_turn": "nan"}, {"w_traj": "inf"}])
def test_wrong_weights(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        build([{"name": "weigh", **options}])
