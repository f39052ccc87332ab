"""Exact match and F1 over words, as SQuAD defines them, and the answer that an episode gave.

Normalisation (Rajpurkar et al. 2016): lower case, without punctuation, without the articles a, an and the, white space
collapsed. Invariant: time is linear in a bounded number of characters, whatever a policy wrote.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from agentrl.rewards.answers import MAX_ANSWER, MAX_TEXT, last_boxed
from agentrl.rewards.formats import AnswerFormat
from agentrl.task import Episode

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_STATED = re.compile(r"\banswer\s*(?::|=|\bis\b:?)\s*", re.IGNORECASE)


def normalised(text: str) -> str:
    """The text as answers are compared; empty for one of more than `MAX_ANSWER` characters."""
    if len(text) > MAX_ANSWER:
        return ""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(given: str, answers: Sequence[str]) -> bool:
    """Whether the normalised text is one of the normalised answers and not empty."""
    text = normalised(given)
    return bool(text) and any(text == normalised(answer) for answer in answers)


def f1_score(given: str, answers: Sequence[str]) -> float:
    """The best harmonic mean of precision and recall of words over the answers, 0.0 to 1.0."""
    words = Counter(normalised(given).split())
    return max((_f1(words, Counter(normalised(answer).split())) for answer in answers), default=0.0)


def read_answer(answer_format: AnswerFormat, episode: Episode) -> str:
    """The answer in its format, empty if there is none.

    `ANY` is read for names and not for numbers: the last box, else the line after "answer is", else the whole message.
    """
    if answer_format is not AnswerFormat.ANY:
        return answer_format.read(episode) or ""
    text = episode.answer[-MAX_TEXT:]
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    stated = [found.end() for found in _STATED.finditer(text)]
    return text[stated[-1] :].split("\n", 1)[0].strip() if stated else text.strip()


def _f1(given: Counter[str], answer: Counter[str]) -> float:
    common = (given & answer).total()
    if not common:
        return 0.0
    precision, recall = common / given.total(), common / answer.total()
    return 2 * precision * recall / (precision + recall)
