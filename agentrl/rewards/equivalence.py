"""Is an answer the gold answer, as mathematics? One question, asked safely of text that a policy wrote.

Most answers are decided at once by text, words, numbers, units and structure (`agentrl.rewards.comparison`). What is
left goes to math-verify and sympy in the shared pool of killable workers, after a look at what would never end (towers
of exponents, huge factorials, thousands of brackets). Invariant: `equivalent` returns within its timeout, and it never
turns a failure of its own into "wrong" in silence: `Equivalence.failed` says that nobody knows, and judges report it.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from agentrl.errors import WorkerError
from agentrl.rewards import mathtext
from agentrl.rewards.answers import MAX_ANSWER, MAX_TEXT
from agentrl.rewards.comparison import same
from agentrl.workers import WorkerTimeout, shared_pool

TIMEOUT = 5.0
"""Seconds for the expressions of one answer; the usual one takes milliseconds."""
MAX_BOXES = 16


class Ground(StrEnum):
    """Why an answer was found equal or different, or why it could not be said."""

    TEXT = "text"
    """Decided without algebra: by text, words, numbers, units or structure."""
    SYMBOLIC = "symbolic"
    """Decided by algebra."""
    EMPTY = "empty"
    """There is no answer."""
    AMBIGUOUS = "ambiguous"
    """Several boxed answers that are not all the gold one: wrong."""
    REFUSED = "refused"
    """The answer is nothing that a person would write: too long, too deep, or made to be computed for ever. Wrong."""
    TIMEOUT = "timeout"
    """The verifier failed: it did not come to an end in time."""
    CRASH = "crash"
    """The verifier failed: it raised, died, or was given a gold answer that it refuses."""


@dataclass(frozen=True, slots=True)
class Equivalence:
    """The finding; true where the answer is equal to the gold one."""

    equal: bool
    ground: Ground
    detail: str = ""
    """What was refused or went wrong, in a few words."""

    def __bool__(self) -> bool:
        return self.equal

    @property
    def failed(self) -> bool:
        """Whether the verifier failed. `equal` is False then, so that a reward is 0; report it beside the reward."""
        return self.ground in (Ground.TIMEOUT, Ground.CRASH)


_ALGEBRA = "agentrl.rewards.symbolic:equal"


class _NeedsAlgebra(Exception):
    """An expression was met that only algebra can decide."""


async def equivalent(answer: str, gold: str, *, timeout: float = TIMEOUT) -> Equivalence:
    """Whether `answer` is mathematically the same as `gold`, by the rules of `agentrl.rewards.comparison`.

    Both are answers, not texts with an answer somewhere in them; but where `\\boxed{}` stands in one, its content is
    taken, and several boxes must all be right. Never raises for what is in `answer` or `gold`.
    """
    boxes = boxed(answer)
    if not boxes:
        return await _equivalent(answer, gold, timeout)
    wanted = (boxed(gold) or [gold])[-1]
    finding = Equivalence(False, Ground.EMPTY)
    for index, box in enumerate(dict.fromkeys(boxes)):
        finding = await _equivalent(box, wanted, timeout)
        if not finding and (index > 0 or len(set(boxes)) > 1):
            return finding if finding.failed else Equivalence(False, Ground.AMBIGUOUS, f"{len(boxes)} boxed answers")
    return finding


def boxed(text: str) -> list[str]:
    """What stands in each `\\boxed{...}` of a text, braces balanced.

    Only the last `MAX_TEXT` characters and `MAX_BOXES` boxes are read.
    """
    text = text[-MAX_TEXT:]
    found = []
    for match in deque(re.finditer(r"\\(?:boxed|fbox)\s*\{", text), maxlen=MAX_BOXES):
        depth = 1
        for index in range(match.end(), min(len(text), match.end() + MAX_ANSWER)):
            depth += {"{": 1, "}": -1}.get(text[index], 0)
            if depth == 0:
                found.append(text[match.end() : index].strip())
                break
    return found


async def _equivalent(answer: str, gold: str, timeout: float) -> Equivalence:
    if not answer.strip():
        return Equivalence(False, Ground.EMPTY)
    gold = (boxed(gold) or [gold])[-1]
    if answer.strip() == gold.strip() and len(answer) <= MAX_ANSWER:
        return Equivalence(True, Ground.TEXT)
    if (why := mathtext.refused(answer)) is not None:
        return Equivalence(False, Ground.REFUSED, why)
    if (why := mathtext.refused(gold)) is not None:
        return Equivalence(False, Ground.CRASH, f"the gold answer is refused: {why}")
    try:
        return Equivalence(same(answer, gold, _needs_algebra), Ground.TEXT)
    except _NeedsAlgebra:
        return await _by_algebra(answer, gold, timeout)


def _needs_algebra(answer: str, gold: str) -> bool:
    raise _NeedsAlgebra


async def _by_algebra(answer: str, gold: str, timeout: float) -> Equivalence:
    try:
        equal = await shared_pool().run(_ALGEBRA, answer, gold, timeout=timeout)
    except WorkerTimeout as error:
        return Equivalence(False, Ground.TIMEOUT, str(error))
    except WorkerError as error:
        return Equivalence(False, Ground.CRASH, str(error))
    return Equivalence(bool(equal), Ground.SYMBOLIC)
