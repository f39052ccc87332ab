"""Seeds that depend on names alone.

Invariant: a seed is a function of what it is for (run seed, phase, step, group, member, turn), never of time, order of
completion or process: a resumed run and a repeated run draw the same numbers.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the parts' text."""
    digest = blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def draw(count: int, position: int, size: int, seed: int) -> list[int]:
    """Entries `position ... position + count` of an endless sequence of shuffled passes over `range(size)`.

    Every pass holds each number once, in an order of its own; the sequence depends on `seed` and `size` alone, so a
    cursor into it is all the state that a task sampler has.
    """
    drawn: list[int] = []
    while len(drawn) < count:
        epoch, offset = divmod(position + len(drawn), size)
        order = np.random.default_rng(derive_seed(seed, "pass", epoch)).permutation(size)
        drawn += order[offset : offset + count - len(drawn)].tolist()
    return drawn
