"""Families of generated functions, by name; each draws a function of a level 1 to 4 with its statement and solution."""

from __future__ import annotations

from . import lists, numbers, recursion, structures, text
from .draft import Draft, Family, Unsuitable

FAMILIES: dict[str, Family] = {
    "arithmetic": numbers.arithmetic,
    "digits": numbers.digits,
    "text": text.transform,
    "parsing": text.parsing,
    "lists": lists.pipeline,
    "counting": lists.counting,
    "nesting": recursion.nesting,
    "recurrence": recursion.recurrence,
    "dynamic": recursion.dynamic,
    "intervals": structures.intervals,
    "matrices": structures.matrices,
    "machines": structures.machines,
}

__all__ = ["FAMILIES", "Draft", "Family", "Unsuitable"]
