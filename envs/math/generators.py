"""All generators of exercises, by topic and level: the modules of this folder enter theirs when they are imported."""

from __future__ import annotations

from . import algebra, calculus, counting, geometry, numbers, words  # noqa: F401 - imported for what they enter
from .exercise import LEVELS, TOPICS, Exercise, Generator

__all__ = ["LEVELS", "TOPICS", "Exercise", "Generator"]
