"""Evaluation: suites of tasks, numbers that one can defend.

`evaluate` runs a model, a checkpoint, an endpoint or an environment's own oracle on a suite; `Evaluation` says what
came of it. `EvalResult` is what a trainer's own evaluation gives. Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentrl.evaluation.budget import Prices
    from agentrl.evaluation.intervals import Interval, normal_mean, wilson
    from agentrl.evaluation.result import EvalResult, summarise
    from agentrl.evaluation.runner import evaluate
    from agentrl.evaluation.session import Evaluation
    from agentrl.evaluation.suite import Suite

__all__ = [
    "EvalResult",
    "Evaluation",
    "Interval",
    "Prices",
    "Suite",
    "evaluate",
    "normal_mean",
    "summarise",
    "wilson",
]

_HOMES = {
    "EvalResult": "result",
    "Evaluation": "session",
    "Interval": "intervals",
    "Prices": "budget",
    "Suite": "suite",
    "evaluate": "runner",
    "normal_mean": "intervals",
    "summarise": "result",
    "wilson": "intervals",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
