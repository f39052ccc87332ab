"""Players: who plays the episodes of an evaluation. `base` is the contract, `resolve` makes one from a user's words."""

from agentrl.evaluation.players.base import (
    EntrySource,
    Played,
    Player,
    PlayerKind,
    PlayerSettings,
    PlayLimits,
    PlayRequest,
)
from agentrl.evaluation.players.resolve import resolve_player, run_of

__all__ = [
    "EntrySource",
    "PlayLimits",
    "PlayRequest",
    "Played",
    "Player",
    "PlayerKind",
    "PlayerSettings",
    "resolve_player",
    "run_of",
]
