"""Token ids to text: the tokenizer of a run, where this disk has it, and the piece of text that each id stands for.

Invariants: nothing is fetched, no model is loaded and no code of a model's runs: a `tokenizer.json` is read or there is
no text. A store does not say which tokenizer sampled it, so one that is found must give back the words that the episode
recorded, or it is not used. Where the tokenizer does not know an id the piece is None and the page shows the number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentrl.errors import ModelError
from agentrl.text import visible
from agentrl.trajectory import Trajectory
from agentrl.viewer.runs import RunView

FILE = "tokenizer.json"
LARGEST = 64 * 2**20  # bytes of a tokenizer.json that is still read
LONGEST_CHARACTER = 8  # ids that together can be one character: bytes of an emoji, with some to spare
CHECKED_TURNS, CHECKED_IDS, CHECKED_CHARACTERS = 3, 2000, 200  # what is compared before a tokenizer is believed
_INCOMPLETE = "\ufffd"


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and where it was found."""

    source: str
    tokenizer: Any

    def pieces(self, ids: Sequence[int]) -> list[str | None]:
        """Visible text of each id. Where several ids make one character, the first has it and the others are empty."""
        size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        pieces: list[str | None] = []
        while len(pieces) < len(ids):
            at = len(pieces)
            if not 0 <= ids[at] < size:
                pieces.append(None)
                continue
            text, used = self._shortest(ids[at : at + LONGEST_CHARACTER])
            pieces += [visible(text)] + [""] * (used - 1)
        return pieces

    def fits(self, trajectory: Trajectory) -> bool:
        """Whether the words of the first turns come out of their ids, white space apart."""
        for turn in [turn for turn in trajectory.turns if turn.sampled_ids][:CHECKED_TURNS]:
            ids = turn.sampled_ids[:CHECKED_IDS]
            said = "".join(str(self.tokenizer.decode(ids, skip_special_tokens=False)).split())
            words = "".join(turn.message.text.split())[:CHECKED_CHARACTERS]
            calls = [call.name for call in turn.message.tool_calls]
            if any(wanted not in said for wanted in ([words] if len(ids) == len(turn.sampled_ids) else []) + calls):
                return False
        return True

    def _shortest(self, ids: Sequence[int]) -> tuple[str, int]:
        """Text of the fewest ids from the first on that is whole characters; of the first alone if there is none."""
        first = ""
        for used in range(1, len(ids) + 1):
            text = self._text(ids[:used])
            first = first or text
            if _INCOMPLETE not in text:
                return text, used
        return first, 1

    def _text(self, ids: Sequence[int]) -> str:
        """A leading space is kept: some decoders drop it at the beginning of a text."""
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=False))
        piece = self.tokenizer.id_to_token(ids[0]) or ""
        return f" {text}" if piece.startswith("\u2581") and not text.startswith(" ") else text


def fitting_vocabulary(view: RunView, trajectory: Trajectory) -> Vocabulary | None:
    """The tokenizer of the run: of its trained policy, of a checkpoint, or of its model by name; None if none fits."""
    return next((found for found in _vocabularies(view) if found.fits(trajectory)), None)


def _vocabularies(view: RunView) -> Iterator[Vocabulary]:
    for folder in _folders(view):
        file = folder / FILE
        if file.is_file() and file.stat().st_size <= LARGEST:
            found = _load(str(file), file.stat().st_mtime_ns)
            if found is not None:
                yield found


def _folders(view: RunView) -> Iterator[Path]:
    if view.place.folder is not None:
        yield view.place.folder / "policy"
        yield from sorted((view.place.folder / "checkpoints").glob("step-*"), reverse=True)
    if view.model:
        yield from _of_model(view.model)


def _of_model(name: str) -> Iterator[Path]:
    """Folders of the model of that name, without building, converting or fetching anything."""
    from agentrl.models import ModelKind, kind_of, resolve
    from agentrl.models.cache import models_dir

    try:
        kind = kind_of(name)
        match kind:
            case ModelKind.FOLDER:
                yield Path(name).expanduser()
                yield Path(name).expanduser() / "policy"
            case ModelKind.PACKAGED | ModelKind.HUB:
                yield resolve(name, offline=True).path
            case ModelKind.TINY:
                yield from sorted(models_dir().glob("tiny*"))
    except (ModelError, OSError, ValueError):  # not on this disk, or no name at all: the ids are shown as they are
        return


@lru_cache(maxsize=8)
def _load(file: str, _stamp: int) -> Vocabulary | None:
    from tokenizers import Tokenizer

    try:
        return Vocabulary(str(Path(file).parent), Tokenizer.from_file(file))
    except Exception:  # the library raises bare Exception for whatever is wrong with a file: then it is no tokenizer
        return None
