"""A random agent: valid calls and answers drawn at random, the floor of an evaluation.

Each turn it answers with probability 1/2, else it calls one of the tools on offer (all equally likely) with arguments
that are valid under the tool's JSON schema; without tools it answers. An answer is, one time in three each, a whole
number from 0 to 100, a number of the conversation, or a word of it. Strings among arguments are drawn in the same way.

Invariant: what it does is a function of the conversation, the tools and the request's seed.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentrl.engines.base import Capabilities, Completion, Engine, FinishReason, Reply, Sampling
from agentrl.env import Env
from agentrl.errors import EngineError
from agentrl.evaluation.players.base import PlayerKind
from agentrl.evaluation.players.played import RolloutPlayer
from agentrl.evaluation.players.schema_values import NoValue, SchemaSampler
from agentrl.messages import Message, Role, ToolCall, assistant

if TYPE_CHECKING:
    from agentrl.chat import ChatRenderer

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_WORD = re.compile(r"[^\W\d_]{2,}")


class RandomEngine(Engine):
    """Answers conversations at random."""

    capabilities = Capabilities(logprobs=False, tokens=False, top_p=True)

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        """Raises `EngineError`."""
        raise EngineError("the random agent samples no tokens")

    async def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        sampling: Sampling,
        *,
        session: str | None = None,
    ) -> Reply:
        """See `Engine.reply`; determined by `sampling.seed`, whatever its other fields say."""
        draw = random.Random(sampling.seed)
        said = "\n".join(message.text for message in messages if message.role is not Role.ASSISTANT)
        words = _Words(draw, said)
        call = _call(draw, tools, words) if tools and draw.random() < 0.5 else None
        return Reply(assistant(words.answer()) if call is None else assistant("", (call,)), FinishReason.STOP)


class RandomPlayer(RolloutPlayer):
    """`--model random`."""

    kind = PlayerKind.RANDOM

    async def start(self) -> None:
        self._engine = self._engine or RandomEngine()

    def renderer(self, env: Env) -> ChatRenderer | None:
        return None


class _Words:
    """Draws from a conversation."""

    def __init__(self, draw: random.Random, said: str) -> None:
        self._draw = draw
        self._numbers: list[str] = sorted(set(_NUMBER.findall(said))) or ["0"]
        self._words: list[str] = sorted(set(_WORD.findall(said))) or ["nothing"]

    def answer(self) -> str:
        """A number, or a word."""
        return self._draw.choice(
            [str(self._draw.randint(0, 100)), self._draw.choice(self._numbers), self._draw.choice(self._words)]
        )


def _call(draw: random.Random, tools: Sequence[Mapping[str, Any]], words: _Words) -> ToolCall | None:
    """A valid call of one of the tools; None if no tool's arguments can be drawn."""
    for tool in draw.sample(list(tools), len(tools)):
        function = tool.get("function", tool)
        try:
            arguments = SchemaSampler(draw, words.answer).value(function.get("parameters") or {"type": "object"})
        except NoValue:
            continue
        return ToolCall(id=f"call_{draw.getrandbits(32):08x}", name=function["name"], arguments=json.dumps(arguments))
    return None
