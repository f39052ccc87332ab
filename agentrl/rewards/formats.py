"""Answer formats: how an environment asks for the answer, reads it, and has its oracle write it.

Invariant: `read` gives back what `write` was given, for every format and any text of one line; a text of a policy's
that is not in the format gives None, never a guess.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum

from agentrl.messages import Message, ToolCall, assistant
from agentrl.rewards.answers import MAX_ANSWER, MAX_TEXT, extract_answer, last_boxed
from agentrl.task import Episode

_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class AnswerFormat(StrEnum):
    """What counts as the answer of an episode."""

    ANY = "any"
    """The last `\\boxed{...}`, else what follows "answer is", else the last number: see `extract_answer`."""
    PLAIN = "plain"
    """The whole final message."""
    BOXED = "boxed"
    """What stands in the last `\\boxed{...}` of the final message."""
    TAGS = "tags"
    """What stands in the last `<answer>...</answer>` of the final message."""
    SUBMIT = "submit"
    """The argument of the tool `submit`, whose call ends the episode."""

    @property
    def instruction(self) -> str:
        """A sentence for a prompt."""
        return _INSTRUCTIONS[self]

    def read(self, episode: Episode) -> str | None:
        """The answer of an episode that has ended; None if there is none in this format."""
        if self is AnswerFormat.SUBMIT:
            return episode.submission
        text = episode.answer[-MAX_TEXT:]
        if self is AnswerFormat.ANY:
            return extract_answer(text)
        if self is AnswerFormat.BOXED:
            return last_boxed(text)
        if self is AnswerFormat.TAGS:
            found = _TAGS.findall(text)
            text = found[-1] if found else ""
        answer = text.strip()
        return answer if 0 < len(answer) <= MAX_ANSWER else None

    def write(self, answer: str) -> Message:
        """The message of a policy that gives this answer in this format."""
        if self is AnswerFormat.SUBMIT:
            return assistant(
                tool_calls=(ToolCall(id="call_0", name="submit", arguments=json.dumps({"answer": answer})),)
            )
        return assistant(_WRITTEN[self].replace("ANSWER", answer))


_INSTRUCTIONS = {
    AnswerFormat.ANY: 'Close with "The answer is ..." and the answer.',
    AnswerFormat.PLAIN: "Reply with the answer alone.",
    AnswerFormat.BOXED: "Put the final answer in \\boxed{}.",
    AnswerFormat.TAGS: "Put the final answer between <answer> and </answer>.",
    AnswerFormat.SUBMIT: "Give the final answer to the tool submit.",
}
_WRITTEN = {
    AnswerFormat.ANY: "The answer is ANSWER.",
    AnswerFormat.PLAIN: "ANSWER",
    AnswerFormat.BOXED: "\\boxed{ANSWER}",
    AnswerFormat.TAGS: "<answer>ANSWER</answer>",
}
