"""From what a user writes after `--model` to a player, with every check that needs no loading.

Invariant: a name, a folder, an option or a combination that cannot be used is one `ConfigError` of one line here, or in
`Player.start`, or at the beginning of `Player.play`: before any episode.
"""

from __future__ import annotations

from difflib import get_close_matches

from agentrl.errors import ConfigError, ModelError
from agentrl.evaluation.players.base import SCRIPTED, Player, PlayerSettings, refuse
from agentrl.evaluation.players.runs import run_of, with_run

__all__ = ["resolve_player", "run_of"]

_SERVING = (
    *("engine", "engine_options", "api_key_env", "mode", "tokenizer", "base", "device", "precision"),
    *("tool_format", "tool_prompt", "history", "token_entropy"),
)
"""What only a model has use for."""


def resolve_player(model: str | None, settings: PlayerSettings | None = None) -> Player:
    """The player that `model` means. Loads and connects nothing; `Player.start` does.

    `model` is `oracle`, `random`, a hub id, a folder in transformers form, a run's folder, an adapter's folder, a GGUF
    file, a built-in name; the address of an OpenAI-compatible server; or, with `settings.endpoint`, a name that is
    served there (None: the one that is). Raises `ConfigError`.
    """
    from agentrl.evaluation.players.endpoint import EndpointPlayer, endpoint_settings

    model, settings = endpoint_settings(model, settings or PlayerSettings())
    if settings.endpoint is not None:
        return EndpointPlayer(model, settings)
    if model is None:
        raise ConfigError("name a model, or an endpoint that serves one")
    if model in SCRIPTED:
        refuse(settings, f"the {model} player", *_SERVING)
        return _scripted(model, settings)
    refuse(settings, "a local model (no endpoint is given)", "api_key_env", "mode", "tokenizer")
    from agentrl.evaluation.players.policy import PolicyPlayer, local_model

    name = model
    if (run := run_of(model)) is not None:
        name, settings = str(run[0]), with_run(settings, run[1])
    try:
        return PolicyPlayer(model, settings, local_model(name, settings.base))
    except ModelError as error:
        if not (meant := get_close_matches(model, SCRIPTED, 1)):
            raise
        raise ModelError(f"{error}; or did you mean the player '{meant[0]}'?") from None


def _scripted(model: str, settings: PlayerSettings) -> Player:
    from agentrl.evaluation.players.oracle import OraclePlayer
    from agentrl.evaluation.players.random_agent import RandomPlayer

    return OraclePlayer(model, settings) if model == "oracle" else RandomPlayer(model, settings)
