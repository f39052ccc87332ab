"""Evaluation: suites of tasks, numbers that one can defend.

`evaluate_model` runs a model, a checkpoint or an environment's own oracle; `EvalResult` holds what came out.
"""

from agentrl.evaluation.evaluate import evaluate_model
from agentrl.evaluation.intervals import Interval, normal_mean, wilson
from agentrl.evaluation.result import EvalResult, summarise

__all__ = ["EvalResult", "Interval", "evaluate_model", "normal_mean", "summarise", "wilson"]
