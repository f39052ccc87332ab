"""Objectives and regularisers by name."""

from __future__ import annotations

from typing import Any

import pytest

from agentrl import registry
from agentrl.errors import ConfigError, UnknownNameError
from agentrl.objectives import KL, ClippedRatio, build_objective, build_regulariser


def test_options_reach_the_component() -> None:
    objective = build_objective({"name": "clip", "eps_high": 0.28, "dual_clip": 3})
    assert isinstance(objective, ClippedRatio)
    assert (objective.gate.eps_low, objective.gate.eps_high, objective.gate.dual) == (0.2, 0.28, 3.0)
    regulariser = build_regulariser({"name": "kl", "beta": "1e-2", "estimator": "k2"})
    assert isinstance(regulariser, KL)
    assert (regulariser.beta, regulariser.estimator) == (0.01, "k2")


@pytest.mark.parametrize(
    ("build", "spec", "words"),
    [
        (
            build_objective,
            {"name": "clip", "eps_hi": 0.2},
            "objective 'clip' has no option 'eps_hi'; did you mean 'eps_h",
        ),
        (build_objective, {"name": "clip", "dual_clip": "yes"}, "option 'dual_clip' is 'yes'"),
        (build_objective, {"name": "clip", "eps_low": float("nan")}, "option 'eps_low' is nan"),
        (build_regulariser, {"name": "kl", "estimator": "k5"}, "'k1', 'k2', 'k3' or 'k3\\+'"),
    ],
)
def test_wrong_options_are_one_line(build: Any, spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build(spec)
    assert "\n" not in str(caught.value)


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="objective 'clipp' is unknown; did you mean 'clip'"):
        build_objective("clipp")
    with pytest.raises(UnknownNameError, match="regulariser 'k1' is unknown"):
        build_regulariser("k1")


def test_a_component_of_the_wrong_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.objectives._registered, "odd", KL)
    monkeypatch.setitem(registry.regularisers._registered, "odd", ClippedRatio)
    with pytest.raises(ConfigError, match="'odd' is of class KL, not an agentrl Objective"):
        build_objective("odd")
    with pytest.raises(ConfigError, match="'odd' is of class ClippedRatio, not an agentrl Regulariser"):
        build_regulariser("odd")
