"""What a model is, told from its files before anything is loaded: other weights are another evaluation.

Invariant: two folders with the same weights, configuration, tokenizer and chat template have the same identity, where
ever they lie; what only an endpoint has, nobody can tell, and its name must do.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from agentrl import models
from agentrl.errors import ModelError
from agentrl.evaluation.players.base import Player
from agentrl.evaluation.players.policy import PolicyPlayer
from agentrl.observe import Observer

KINDS = (".safetensors", ".bin", ".json", ".jinja", ".txt", ".model")
"""Files of a model's folder that decide what it says."""
CHUNK = 1 << 22


def weights_of(player: Player, observer: Observer) -> str | None:
    """Hex digest of a local model, its adapter included; None for a player without weights of ours.

    Fetches a model that is not on this disk yet. Raises `ModelError`.
    """
    if not isinstance(player, PolicyPlayer):
        return None
    source = models.resolve(player.local.name)
    folders = [source.path, *([player.local.adapter] if player.local.adapter else [])]
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.suffix in KINDS]
    observer.phase("weights", len(files))
    digest = blake2b(digest_size=16)
    for file in files:
        digest.update(f"{file.name}\n".encode())
        _read(file, digest)
        observer.advance(1)
    return digest.hexdigest()


def _read(file: Path, digest: blake2b) -> None:
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise ModelError(f"{str(file)!r} cannot be read: {error.strerror}") from None
