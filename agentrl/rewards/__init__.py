"""Verifiers: was the answer right?"""

from agentrl.rewards.answers import exact_match, extract_answer, last_boxed, numeric_match, parse_number
from agentrl.rewards.formats import AnswerFormat

__all__ = ["AnswerFormat", "exact_match", "extract_answer", "last_boxed", "numeric_match", "parse_number"]
