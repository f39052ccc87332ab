"""How a model uses tools, and what its episodes cost.

Invariant: rates over calls have all calls as denominator and are None without one; means over episodes have all
episodes that were not aborted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from agentrl.evaluation.samples import Sample


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Figures of some episodes."""

    episodes: int
    """Not aborted."""
    calls: int
    calls_per_episode: float
    share_with_call: float
    """Episodes with at least one valid call (method 13: a call that nothing could execute is none)."""
    valid_rate: float | None
    """Share of calls that could be executed: well-formed, of a known tool, with arguments that fit."""
    error_rate: float | None
    """Share of calls that were answered by an error, invalid ones included."""
    seconds_per_call: float | None
    turns: float
    """Mean per episode, as the following are."""
    tokens: float
    prompt_tokens: float
    seconds: float
    tool_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def tool_use(samples: Iterable[Sample]) -> ToolUse:
    """The figures of `samples`; call it with the right ones and the wrong ones to compare."""
    played = [sample for sample in samples if not sample.aborted]
    size = max(1, len(played))
    calls = sum(sample.tool_calls for sample in played)
    in_tools = sum(sample.tool_seconds for sample in played)

    def rate(count: float) -> float | None:
        return count / calls if calls else None

    return ToolUse(
        episodes=len(played),
        calls=calls,
        calls_per_episode=calls / size,
        share_with_call=sum(sample.tool_calls > sample.invalid_calls for sample in played) / size,
        valid_rate=rate(calls - sum(sample.invalid_calls for sample in played)),
        error_rate=rate(sum(sample.tool_errors for sample in played)),
        seconds_per_call=rate(in_tools),
        turns=sum(sample.turns for sample in played) / size,
        tokens=sum(sample.tokens for sample in played) / size,
        prompt_tokens=sum(sample.prompt_tokens for sample in played) / size,
        seconds=sum(sample.seconds for sample in played) / size,
        tool_seconds=in_tools / size,
    )
