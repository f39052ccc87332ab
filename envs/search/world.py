"""A seeded world of people, cities, companies, books, rivers and schools, and the facts that hold between them.

All of it is a function of (seed, number of documents): facts are arrays drawn by a counter-based generator of our own
(SplitMix64, Steele, Lea and Flood 2014), which no release of a library can change; names are numbers written in
syllables, so that no two are equal and many are alike. Invariants: an entity is its number; a fact has one value;
entities with like names (`similar`) come in pairs.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

from agentrl.errors import ConfigError
from agentrl.seeding import derive_seed

from .relations import OF_KIND, RELATIONS, SHARES, Kind, Relation

MIN_DOCUMENTS, MAX_DOCUMENTS = 100, 1_000_000
_CONSONANTS, _VOWELS, _CODAS = "bdfghklmnprstv", "aeiou", "lnrms"
_NOUNS = (  # noqa: SIM905 - forty lines otherwise
    "Song Ashes Garden Winter House Bells Letters Night Harbour Silence Roads Daughters Clockmaker Bridges Salt Candle "
    "Shadow Wolves Lantern Orchard Thief Crown Stones Island Voices Birds Tower Kings Ferry Storm Mirrors Gates Wheel "
    "Ships Hills Fields Market Secrets Saints Doors"
).split()
_WORDS_KINDS: tuple[Kind, ...] = ("city", "company", "river", "school")
"""Entities named by one word."""
_BOOKS_A_WORD = 8
_ROOM = 1.5
"""Names that there could be for each that there is: so many are alike."""
_NO_SYLLABLES = frozenset({"for", "has", "her", "his", "nor", "man", "men", "hor", "bum", "pis", "pus"})
"""Words of English, and worse."""


class World:
    """Entities are numbers from 0 to `documents` - 1; those of a kind are consecutive."""

    def __init__(self, documents: int, seed: int = 0) -> None:
        """Raises `ConfigError`."""
        if not MIN_DOCUMENTS <= documents <= MAX_DOCUMENTS:
            raise ConfigError(f"documents={documents!r} must be {MIN_DOCUMENTS} to {MAX_DOCUMENTS}")
        self.documents = documents
        self.seed = seed
        self.sizes: dict[Kind, int] = {kind: int(documents * share) for kind, share in SHARES.items()}
        self.sizes["person"] += documents - sum(self.sizes.values())
        self.first: dict[Kind, int] = {}
        position = 0
        for kind, size in self.sizes.items():
            self.first[kind] = position
            position += size
        self._values = {(relation.kind, relation.name): self._draw(relation) for relation in RELATIONS}
        self._name_spaces()

    def kind(self, entity: int) -> Kind:
        for kind, first in self.first.items():
            if first <= entity < first + self.sizes[kind]:
                return kind
        raise IndexError(f"entity {entity} of {self.documents}")

    def value(self, entity: int, relation: Relation) -> int:
        """The entity that the fact names, or its number."""
        return int(self._values[relation.kind, relation.name][entity - self.first[relation.kind]])

    def shown(self, entity: int, relation: Relation) -> str:
        """The fact's value as text."""
        value = self.value(entity, relation)
        return self.name(value) if isinstance(relation.target, str) else str(value)

    def name(self, entity: int) -> str:
        """What the entity is called: the title of its article."""
        kind = self.kind(entity)
        own = entity - self.first[kind]
        if kind == "person":
            given, family = divmod(self._people.encode(own), len(self._families))
            return f"{self._givens[given].capitalize()} {self._families[family].capitalize()}"
        if kind == "book":
            word, noun = divmod(self._books.encode(own), len(_NOUNS))
            return f"{_NOUNS[noun]} of {self._word(self._book_words + word)}"
        return self._word(self._word_starts[kind] + own)

    def similar(self, entity: int) -> int | None:
        """Another entity of the kind whose name differs in one part, or None; it names this one in return."""
        kind = self.kind(entity)
        own = entity - self.first[kind]
        other: int | None
        if kind == "person":
            families = len(self._families)
            given, family = divmod(self._people.encode(own), families)
            other = self._people.decode((given ^ 1) * families + family)
        elif kind == "book":
            other = self._books.decode(self._books.encode(own) ^ 1)
        else:
            start = self._word_starts[kind]
            ends = len(self._syllables[2])
            stem, end = divmod(self._words.encode(start + own), ends)
            found = self._words.decode(stem * ends + (end ^ 1)) if end ^ 1 < ends else None
            other = None if found is None else found - start
        return self.first[kind] + other if other is not None and 0 <= other < self.sizes[kind] else None

    def mentions(self, entity: int) -> set[str]:
        """Every name and number in the article of `entity`, its own name included."""
        values = {self.shown(entity, relation) for relation in OF_KIND[self.kind(entity)]}
        other = self.similar(entity)
        return values | {self.name(entity)} | ({self.name(other)} if other is not None else set())

    def mentioned_by(self, entity: int) -> set[int]:
        """Every entity in whose article the name of `entity` stands, itself included."""
        kind = self.kind(entity)
        found = {entity}
        for relation in RELATIONS:
            if relation.target == kind:
                order, values = self._inverse[relation.kind, relation.name]
                low, high = np.searchsorted(values, [entity, entity + 1])
                found |= {self.first[relation.kind] + int(own) for own in order[low:high]}
        other = self.similar(entity)
        return found | ({other} if other is not None else set())

    def draws(self, label: str, count: int) -> NDArray[np.uint64]:
        """`count` uniform 64-bit numbers that depend on the world and the label."""
        start = np.uint64(derive_seed("search world", self.seed, self.documents, label))
        return _mix(start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))

    # -- within ----------------------------------------------------------------------------------------------------

    @cached_property
    def _inverse(self) -> dict[tuple[Kind, str], tuple[NDArray[np.int64], NDArray[np.int32]]]:
        """For each relation between entities: subjects in the order of their values, and those values."""
        found = {}
        for relation in RELATIONS:
            if isinstance(relation.target, str):
                values = self._values[relation.kind, relation.name]
                order = np.argsort(values, kind="stable")
                found[relation.kind, relation.name] = (order, values[order])
        return found

    def _draw(self, relation: Relation) -> NDArray[np.int32]:
        count = self.sizes[relation.kind]
        random = self.draws(f"{relation.kind}.{relation.name}", count)
        if isinstance(relation.target, tuple):
            low, high = relation.target
            values = low + random % np.uint64(high - low + 1)
            return np.asarray(values, dtype=np.int32)
        size = np.uint64(self.sizes[relation.target])
        if relation.target == relation.kind:  # never itself
            own = np.arange(count, dtype=np.uint64)
            chosen = (own + np.uint64(1) + random % (size - np.uint64(1))) % size
        else:
            chosen = random % size
        return np.asarray(chosen, dtype=np.int32) + np.int32(self.first[relation.target])

    def _name_spaces(self) -> None:
        closed = [
            c + v + end for c in _CONSONANTS for v in _VOWELS for end in _CODAS if c + v + end not in _NO_SYLLABLES
        ]
        opened = [c + v for c in _CONSONANTS for v in _VOWELS]
        ends = [v + end for v in _VOWELS for end in _CODAS]
        families = [first + c + last for first in ends for c in _CONSONANTS for last in ends]
        book_words = -(-self.sizes["book"] // _BOOKS_A_WORD)
        self._word_starts: dict[Kind, int] = {}
        words = 0
        for kind in _WORDS_KINDS:
            self._word_starts[kind] = words
            words += self.sizes[kind]
        self._book_words = words
        pools = [self._shuffled(f"syllable {place}", pool) for place, pool in enumerate([closed, opened, opened])]
        self._syllables = _enough(pools, int(_ROOM * (words + book_words)))
        self._words = _Permutation(prod(len(pool) for pool in self._syllables), self.draws("words", 2))
        pools = [self._shuffled("given", closed), self._shuffled("family", families)]
        self._givens, self._families = _enough(pools, int(_ROOM * self.sizes["person"]))
        self._people = _Permutation(len(self._givens) * len(self._families), self.draws("people", 2))
        self._books = _Permutation(book_words * len(_NOUNS), self.draws("books", 2))

    def _shuffled(self, label: str, pool: list[str]) -> list[str]:
        return [pool[index] for index in np.argsort(self.draws(label, len(pool)), kind="stable")]

    def _word(self, number: int) -> str:
        starts, middles, ends = self._syllables
        rest, end = divmod(self._words.encode(number), len(ends))
        start, middle = divmod(rest, len(middles))
        return (starts[start] + middles[middle] + ends[end]).capitalize()


class _Permutation:
    """`code = (factor * number + offset) mod size`, and back."""

    def __init__(self, size: int, draws: NDArray[np.uint64]) -> None:
        self._size = size
        self._factor = int(draws[0]) % size
        while gcd(self._factor, size) != 1:
            self._factor += 1
        self._offset = int(draws[1]) % size
        self._back = pow(self._factor, -1, size)

    def encode(self, number: int) -> int:
        return (self._factor * number + self._offset) % self._size

    def decode(self, code: int) -> int:
        return (code - self._offset) * self._back % self._size


@lru_cache(maxsize=2)
def shared_world(documents: int, seed: int) -> World:
    """The world of that size and seed, one object for all environments of a process."""
    return World(documents, seed)


def _enough(pools: list[list[str]], count: int) -> list[list[str]]:
    """The beginnings of the pools, grown evenly until they combine to `count` names; even in number, for pairs."""
    sizes = [2] * len(pools)
    while prod(sizes) < count:
        room = [index for index, pool in enumerate(pools) if sizes[index] + 2 <= len(pool)]
        smallest = min(room, key=lambda index: sizes[index] / len(pools[index]) ** 0.5)
        sizes[smallest] += 2
    return [pool[:size] for pool, size in zip(pools, sizes, strict=True)]


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
