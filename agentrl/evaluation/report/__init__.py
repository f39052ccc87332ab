"""What an evaluation says when it has ended: a table, `report.json`, a page, its episodes, and two of them compared.

Invariant: all of it comes from one `EvaluationReport`, and that from the store.
"""

from agentrl.evaluation.report.build import build_evaluation, holds_evaluation
from agentrl.evaluation.report.comparison import compare
from agentrl.evaluation.report.comparison_page import write_comparison
from agentrl.evaluation.report.comparison_schema import ComparisonReport
from agentrl.evaluation.report.schema import EvaluationReport
from agentrl.evaluation.report.terminal import comparison_summary, evaluation_summary
from agentrl.evaluation.report.write import write_evaluation

__all__ = [
    "ComparisonReport",
    "EvaluationReport",
    "build_evaluation",
    "compare",
    "comparison_summary",
    "evaluation_summary",
    "holds_evaluation",
    "write_comparison",
    "write_evaluation",
]
