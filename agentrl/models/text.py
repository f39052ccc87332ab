"""One-line forms of what other libraries say at length."""

from __future__ import annotations

LONGEST = 200
"""Characters of a foreign message that are quoted; the rest stays in the exception's cause."""


def one_line(error: BaseException) -> str:
    """The first sentence-like line of an exception, white space collapsed and cut to `LONGEST` characters."""
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    text = next((line for line in lines if line), "") or type(error).__name__
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
