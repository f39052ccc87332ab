"""The environments' own oracles as a player: the ceiling of an evaluation.

The manager asks the environment itself for each message, so an oracle is under the limits and in the records that a
policy is. It samples no tokens: only turns, calls and seconds bound it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentrl.engines.base import Capabilities, Completion, Engine, Sampling
from agentrl.env import Env
from agentrl.errors import ConfigError, EngineError
from agentrl.evaluation.players.base import EntrySource, PlayerKind
from agentrl.evaluation.players.played import RolloutPlayer

if TYPE_CHECKING:
    from agentrl.chat import ChatRenderer


class OracleEngine(Engine):
    """Says to the manager whom to ask."""

    capabilities = Capabilities(logprobs=False, tokens=False, top_p=True, oracle=True)

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        """Raises `EngineError`."""
        raise EngineError("an oracle samples no tokens")


class OraclePlayer(RolloutPlayer):
    """`--model oracle`."""

    kind = PlayerKind.ORACLE

    async def start(self) -> None:
        self._engine = self._engine or OracleEngine()

    def renderer(self, env: Env) -> ChatRenderer | None:
        return None

    async def check(self, source: EntrySource, env: Env) -> None:
        inner = env.unwrapped
        if isinstance(inner, Env) and type(inner).oracle_action is Env.oracle_action:
            name = type(inner).__name__
            raise ConfigError(f"entry {source.name!r}: environment {name} has no oracle (oracle_action)")
