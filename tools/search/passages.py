"""The passage of an article that says most about a query, and an article's pages.

Invariant: a passage has at most `limit` characters and stands in the article as it is, apart from white space; where
it begins or ends within a sentence it says so by three dots. The work is bounded by `MAX_TEXT`, whatever the article.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

MAX_TEXT = 50_000
"""Characters of an article in which a passage is looked for."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_DOTS = "..."

Analyse = Callable[[str], list[str]]


def best_passage(text: str, weights: Mapping[str, float], analyse: Analyse, limit: int) -> str:
    """Consecutive sentences of at most `limit` characters with the greatest weight of distinct terms, the first of
    equal ones.

    Args:
        text: of the article.
        weights: of the query's terms, in the form that `analyse` gives.
        analyse: the terms of a text.
        limit: characters, at least 8.
    """
    text = " ".join(text[:MAX_TEXT].split())
    if len(text) <= limit:
        return text
    pieces = [piece for sentence in _SENTENCE_END.split(text) for piece in _pieces(sentence, limit)]
    found = [{term for term in analyse(piece) if term in weights} for piece in pieces]
    best, most = (0, 1), -1.0
    for start in range(len(pieces)):
        if start and not found[start]:
            continue
        end, length, terms = start, -1, set[str]()
        while end < len(pieces) and length + 1 + len(pieces[end]) <= limit:
            length += 1 + len(pieces[end])
            terms |= found[end]
            end += 1
        weight = sum(weights[term] for term in terms)
        if weight > most:
            best, most = (start, end), weight
    return " ".join(pieces[best[0] : best[1]])


def pages(text: str, size: int) -> list[str]:
    """The text in pieces of at most `size` characters, cut between words where there are any; at least one."""
    found, start = [], 0
    while len(text) - start > size:
        cut = text.rfind(" ", start, start + size + 1)
        cut = cut if cut > start else start + size
        found.append(text[start:cut].strip())
        start = cut
    return [*found, text[start:].strip()]


def _pieces(sentence: str, limit: int) -> list[str]:
    """The sentence itself, or pieces of one that is too long, with dots where it goes on."""
    if len(sentence) <= limit:
        return [sentence] if sentence else []
    parts = pages(sentence, limit - 2 * len(_DOTS))
    last = len(parts) - 1
    return [_DOTS * (index > 0) + part + _DOTS * (index < last) for index, part in enumerate(parts)]
