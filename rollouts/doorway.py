"""Doorway: who is inside is counted, and the door can be shut until all of them have left.

The manager has two: one around episodes, one around generations. At a weight update it shuts the one that the in-flight
policy names, waits until nobody is inside, and opens it again.

Invariant: nobody enters while the door is shut; `empty` returns only when nobody is inside.
"""

from __future__ import annotations

import asyncio


class Doorway:
    """Belongs to no event loop: its waits are futures of the loop that waits."""

    def __init__(self) -> None:
        self.inside = 0
        self.shut = False
        self._outside: list[asyncio.Future[None]] = []
        self._watching: list[asyncio.Future[None]] = []

    async def enter(self) -> None:
        """Wait until the door is open, and go in."""
        while self.shut:
            await _wait(self._outside)
        self.inside += 1

    def try_enter(self) -> bool:
        """Go in if the door is open."""
        if not self.shut:
            self.inside += 1
        return not self.shut

    def leave(self) -> None:
        """Somebody who is inside goes out."""
        self.inside -= 1
        if self.inside == 0:
            _wake(self._watching)

    def open(self) -> None:
        """Let those in who wait."""
        self.shut = False
        _wake(self._outside)

    async def empty(self) -> None:
        """Wait until nobody is inside."""
        while self.inside:
            await _wait(self._watching)


async def _wait(waiters: list[asyncio.Future[None]]) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters.append(future)
    try:
        await future
    finally:
        if future in waiters:
            waiters.remove(future)


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for future in waiters:
        if not future.done():
            future.set_result(None)
    waiters.clear()
