"""What a run says at its end: `report.html`, `curve.png`, and the table of evaluations for terminals.

Invariant: a report shows what the store holds and nothing else; what is missing is named as missing.
"""

from agentrl.report.build import build_report
from agentrl.report.table import evaluation_table

__all__ = ["build_report", "evaluation_table"]
