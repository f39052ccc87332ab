"""Verifiers: was the answer right?"""

from agentrl.rewards.answers import exact_match, extract_answer, numeric_match, parse_number

__all__ = ["exact_match", "extract_answer", "numeric_match", "parse_number"]
