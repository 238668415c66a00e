"""What is still to be swept, where, and how far the sweep in hand has come.

A trim is one number; removing what it covers means walking over many keys. That is done a bounded
part at a time, one checkpoint after the other. Losing this (a restart) costs disk, never truth:
reads do not go by it.

Invariant: the cursor belongs to the sweep that paused there, and to no other.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

Owner = TypeVar("Owner", bound=Hashable)


class Sweeps(Generic[Owner]):
    """A queue of (owner, until), each owner once."""

    __slots__ = ("_cursor", "_paused", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[Owner, int] = {}
        self._paused: Owner | None = None
        self._cursor = b""

    def __iter__(self) -> Iterator[Owner]:
        return iter(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, owner: Owner, until: int) -> None:
        """Sweep below `until`; a sweep in hand goes on with the higher bound."""
        self._waiting[owner] = max(until, self._waiting.get(owner, 0))

    def current(self) -> tuple[Owner, int, bytes] | None:
        """The first owner, its bound, and the key to go on from (empty: from the start)."""
        for owner, until in self._waiting.items():
            return owner, until, self._cursor if owner == self._paused else b""
        return None

    def pause(self, owner: Owner, key: bytes) -> None:
        """Go on from `key` next time."""
        self._paused, self._cursor = owner, key

    def finish(self, owner: Owner) -> None:
        self.forget([owner])

    def forget(self, owners: Iterable[Owner]) -> None:
        for owner in owners:
            self._waiting.pop(owner, None)
            if owner == self._paused:
                self._paused, self._cursor = None, b""
