"""Reads that wait for the stream to bring a record, by the line of facts they wait on.

Invariants: each has one timer, named ("read", number); its line of facts is watched, so it is not
evicted.

Does not know: what an answer is; it hands reads back when they may have one.
"""

from __future__ import annotations

from collections.abc import Iterable

from bokilog.effects import Address, Effect, SetTimer
from bokilog.facts import Facts
from bokilog.functions.engine.index_follower import Key
from bokilog.messages import Read
from bokilog.named import NamedTuple

TIMER = "read"


class Parked(NamedTuple):
    """A waiting read."""

    source: Address
    read: Read
    deadline_s: float

    def rest(self, now_s: float) -> Read:
        """The read with what is left of its wait."""
        return self.read._replace(wait_ms=max(0, int((self.deadline_s - now_s) * 1000)))


class ParkedReads:
    """All of an engine."""

    __slots__ = ("_by_asker", "_by_key", "_facts", "_reads")

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._reads: dict[int, Parked] = {}
        self._by_key: dict[Key, dict[int, None]] = {}
        self._by_asker: dict[tuple[Address, int], int] = {}
        """By client and its number of the request."""

    def __len__(self) -> int:
        return len(self._reads)

    def add(self, number: int, source: Address, read: Read, now_s: float) -> Effect:
        """It waits from now on; returns its timer."""
        wait_s = read.wait_ms / 1000
        self._reads[number] = Parked(source, read, now_s + wait_s)
        self._by_key.setdefault((read.book, read.tag), {})[number] = None
        self._by_asker[source, read.request] = number
        self._facts.watch(read.book, read.tag)
        return SetTimer((TIMER, number), wait_s)

    def take(self, number: int) -> Parked | None:
        """It waits no longer; None: it was answered before."""
        parked = self._reads.pop(number, None)
        if parked is not None:
            key = (parked.read.book, parked.read.tag)
            waiting = self._by_key[key]
            del waiting[number]
            if not waiting:
                del self._by_key[key]
            self._facts.unwatch(*key)
            asker = parked.source, parked.read.request
            if self._by_asker.get(asker) == number:  # else it has asked twice by one number
                del self._by_asker[asker]
        return parked

    def find(self, source: Address, request: int) -> int | None:
        """The number of a client's request, if it waits here."""
        return self._by_asker.get((source, request))

    def on(self, keys: Iterable[Key]) -> list[int]:
        """Who waits on these lines, the longest waiting first."""
        return sorted(number for key in keys for number in self._by_key.get(key, ()))

    def on_books(self, books: Iterable[int]) -> list[int]:
        """Who waits on any line of these LogBooks."""
        wanted = set(books)
        return self.on([key for key in self._by_key if key[0] in wanted]) if wanted else []

    def of(self, source: Address) -> list[int]:
        """Who waits for this client."""
        return [number for number, parked in self._reads.items() if parked.source == source]

    @property
    def books(self) -> set[int]:
        """LogBooks that somebody waits on."""
        return {key[0] for key in self._by_key}

    def check(self) -> None:
        """Asserts the invariants."""
        assert sorted(self._reads) == sorted(self.on(self._by_key))
        assert set(self._by_asker.values()) <= set(self._reads)
