"""The written articles, and the corpus file that holds them.

A full article has an opening, every fact of its entity in sentences of varied form and order, sentences that say
nothing, and sometimes the name of somebody easily confused. A short one has facts alone (`Founder: Tor Anden.`), for
policies that read characters. Invariant: an article is a function of (world, entity, style), and a corpus file under
its final name is complete.
"""

from __future__ import annotations

import json
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from filelock import FileLock

from agentrl.errors import ConfigError
from agentrl.models.cache import cache_dir
from agentrl.models.progress import reporting

from .relations import CONFUSIONS, FILLERS, OF_KIND, OPENINGS, Relation
from .world import World, shared_world

Style = Literal["full", "short"]
VERSION = 1
"""Part of the file's name: raise it with any change of world or articles."""
_QUIET_SECONDS = 2.0
"""Writing shows its progress after so long."""
_CHUNK = 1000


def sentences(world: World, entity: int, style: Style) -> list[tuple[Relation | None, str]]:
    """The article sentence by sentence, each with the fact that it states."""
    return (_short if style == "short" else _full)(world, entity)


def article(world: World, entity: int, style: Style) -> str:
    """The text of an article."""
    return " ".join(sentence for _, sentence in sentences(world, entity, style))


def fact(world: World, entity: int, relation: Relation, style: Style) -> str:
    """The sentence of the article that states a fact."""
    return next(sentence for stated, sentence in sentences(world, entity, style) if stated is relation)


def corpus_file(documents: int, seed: int, style: Style) -> Path:
    """Where the corpus lies, whether it is written yet or not."""
    return cache_dir() / "worlds" / f"search-v{VERSION}-{style}-{documents}-seed{seed}.jsonl"


def write_corpus(documents: int, seed: int, style: Style) -> Path:
    """The corpus file, written if there is none; minutes for a million documents. Raises `ConfigError`."""
    path = corpus_file(documents, seed, style)
    if path.exists():
        return path
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():  # another process wrote it while this one waited
                _write(shared_world(documents, seed), style, partial)
                partial.replace(path)
    except OSError as error:
        with suppress(OSError):  # of a full disk, which is the mistake to report
            partial.unlink()
        said = error.strerror or error
        raise ConfigError(f"cannot write the corpus {path} ({said}): set AGENTRL_CACHE to another folder") from error
    return path


def _write(world: World, style: Style, path: Path) -> None:
    began = time.monotonic()
    # a fixed scramble, so that the kinds do not come one after another
    order = world.draws("order", world.documents).argsort(kind="stable").tolist()
    with path.open("w", encoding="utf-8") as stream, reporting() as report:
        for start in range(0, world.documents, _CHUNK):
            for number, entity in enumerate(order[start : start + _CHUNK], start):
                row = {"id": str(number), "title": world.name(entity), "text": article(world, entity, style)}
                stream.write(json.dumps(row) + "\n")
            if time.monotonic() - began > _QUIET_SECONDS:
                report(f"writing {world.documents:,} articles", start, world.documents)


def _short(world: World, entity: int) -> list[tuple[Relation | None, str]]:
    found: list[tuple[Relation | None, str]] = [
        (relation, f"{relation.label}: {world.shown(entity, relation)}.") for relation in OF_KIND[world.kind(entity)]
    ]
    random.Random(world.seed * world.documents + entity).shuffle(found)
    return found


def _full(world: World, entity: int) -> list[tuple[Relation | None, str]]:
    rng = random.Random(world.seed * world.documents + entity)
    kind, name = world.kind(entity), world.name(entity)
    pronoun = rng.choice(("He", "She")) if kind == "person" else "It"
    found: list[tuple[Relation | None, str]] = []
    for relation in OF_KIND[kind]:
        subject = name if rng.random() < 0.4 else pronoun
        text = rng.choice(relation.sentences).format(s=subject, n=name, o=world.shown(entity, relation))
        found.append((relation, text))
    found += [(None, filler) for filler in rng.sample(FILLERS[kind], rng.randint(1, 3))]
    rng.shuffle(found)
    other = world.similar(entity)
    if other is not None:
        found.insert(rng.randint(0, len(found)), (None, rng.choice(CONFUSIONS).format(world.name(other))))
    return [(None, rng.choice(OPENINGS[kind]).format(n=name)), *found]
