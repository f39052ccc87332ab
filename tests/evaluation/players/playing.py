"""What the tests of players share: sources, requests, and everything that a player played."""

from __future__ import annotations

import json
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

from agentrl.env import Env, ensure_env, make
from agentrl.evaluation.players import (
    EntrySource,
    Played,
    Player,
    PlayerSettings,
    PlayLimits,
    PlayRequest,
    resolve_player,
)
from agentrl.models.tiny import build_tiny
from agentrl.seeding import derive_seed
from agentrl.trajectory import Trajectory

ENVS: dict[str, tuple[str, dict[str, Any]]] = {
    "arithmetic": ("agentrl/Arithmetic-v0", {"levels": [1, 2]}),
    "search": ("agentrl/Search-v0", {}),
    "sql": ("agentrl/SQL-v0", {}),
}


def make_env(entry: str) -> Env:
    env_id, options = ENVS[entry]
    return ensure_env(make(env_id, **options))


def source(entry: str, limits: PlayLimits | None = None) -> EntrySource:
    return EntrySource(entry, partial(make_env, entry), limits)


def requests(entry: str, tasks: int = 2, samples: int = 1, seed: int = 0) -> list[PlayRequest]:
    """The first tasks of an entry, as a suite asks for them."""
    env = make_env(entry)
    ids = [env.tasks("test")[index].id for index in range(tasks)]
    env.close()
    return [
        PlayRequest(entry, index, task, sample, derive_seed(seed, "eval", entry, task, sample))
        for index, task in enumerate(ids)
        for sample in range(samples)
    ]


async def play(player: Player, sources: list[EntrySource], wanted: list[PlayRequest]) -> list[Played]:
    """Start, play and close."""
    await player.start()
    try:
        async with aclosing(player.play(sources, wanted)) as episodes:
            return [played async for played in episodes]
    finally:
        await player.close()


async def play_model(model: str, entry: str = "arithmetic", tasks: int = 2, **settings: Any) -> list[Played]:
    player = resolve_player(model, PlayerSettings(**{"max_turn_tokens": 12, "max_context": 1000, **settings}))
    return await play(player, [source(entry)], requests(entry, tasks))


def said(played: list[Played]) -> dict[tuple[str, int, int], list[str]]:
    """What was said in each episode."""
    return {
        (request.entry, request.index, request.sample): [
            json.dumps(message.to_wire(), sort_keys=True) for message in trajectory.messages
        ]
        for request, trajectory in played
    }


def tiny_folder(folder: Path, seed: int = 0) -> Path:
    """The tiny model in transformers form."""
    model, tokenizer = build_tiny(seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def records(played: list[Played]) -> list[Trajectory]:
    return [trajectory for _, trajectory in played]
