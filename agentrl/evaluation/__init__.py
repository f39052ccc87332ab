"""Evaluation: suites of tasks, numbers that one can defend.

`evaluate` runs a model, a checkpoint or an environment's own oracle; `EvalResult` holds what came out.
"""

from agentrl.evaluation.intervals import Interval, normal_mean, wilson
from agentrl.evaluation.result import EvalResult, summarise
from agentrl.evaluation.runner import evaluate

__all__ = ["EvalResult", "Interval", "evaluate", "normal_mean", "summarise", "wilson"]
