"""Bytes of records whose order is known here, on their way from storage nodes.

Decides which replica is asked for which records, and who shares an answer: neighbouring seqnums are
fetched from the same replica, so that its cache serves all who read them, the next ones from the
next; and whoever lacks the same records as somebody before waits for the same answer.

Invariants: each fetch is known by its number until it is dropped, answered or not, and then its
waiters get something else. Only whole records are fetched: a part of one is not worth keeping.

Does not know: facts, what becomes of the bytes, clients beyond their names.
"""

from __future__ import annotations

from collections.abc import Iterator

from bokilog.effects import Address, Effect, Send
from bokilog.functions.engine.index_follower import IndexFollower
from bokilog.functions.engine.links import Links
from bokilog.functions.engine.local_answers import Missing
from bokilog.ids import NodeId
from bokilog.messages import Read

SPREAD_SEQNUMS = 4096
"""Bytes of so many neighbouring seqnums are fetched from one replica, the next ones from the next.
"""

FetchKey = tuple[object, ...]
"""What a fetch is for: who lacks the same shares it."""


class Fetch:
    """Records on their way from a replica."""

    __slots__ = ("asked_s", "key", "node", "read", "waiters")

    def __init__(self, key: FetchKey, read: Read, node: NodeId, asked_s: float) -> None:
        self.key = key
        self.read = read
        self.node = node
        self.asked_s = asked_s
        self.waiters: list[tuple[Address, Read]] = []


class Fetches:
    """All of an engine."""

    __slots__ = ("_by_key", "_ids", "_links", "by_request", "count")

    def __init__(self, *, links: Links, ids: Iterator[int]) -> None:
        self.by_request: dict[int, Fetch] = {}
        """By the number that the storage node answers to."""
        self.count = 0
        """Begun so far."""
        self._links = links
        self._ids = ids
        self._by_key: dict[FetchKey, Fetch] = {}

    def fetch(
        self, space: IndexFollower, source: Address, read: Read, missing: Missing, now_s: float
    ) -> list[Effect] | None:
        """One read for what is missing, from a replica that is picked by seqnum; the same one for
        all who ask. None: it cannot be had this way.
        """
        up = self._links.answering(space.replicas)
        if not up or read.bytes_start >= 0:
            return None
        seqnums, budget_bytes = missing
        first, last = min(seqnums[0], seqnums[-1]), max(seqnums[0], seqnums[-1])
        key = (read.space, read.book, read.tag, first, last, len(seqnums), read.reverse)
        fetch = self._by_key.get(key)
        if fetch is not None and fetch.read.max_bytes == budget_bytes:
            fetch.waiters.append((source, read))
            return []
        request = next(self._ids)
        asked = read._replace(
            request=request,
            start=first,
            until=last + 1,
            limit=len(seqnums),
            max_bytes=max(budget_bytes, 1),
            position=space.horizon.position,
            wait_ms=0,
        )
        node = up[first // SPREAD_SEQNUMS % len(up)]
        fetch = self.by_request[request] = self._by_key[key] = Fetch(key, asked, node, now_s)
        fetch.waiters.append((source, read))
        self.count += 1
        return [Send(node, asked)]

    def drop(self, fetch: Fetch) -> None:
        """It is answered, or will not be."""
        del self.by_request[fetch.read.request]
        if self._by_key.get(fetch.key) is fetch:
            del self._by_key[fetch.key]

    def of(self, node: Address) -> list[Fetch]:
        """Those that this storage node was asked for."""
        return [fetch for fetch in self.by_request.values() if fetch.node == node]

    def owed(self) -> Iterator[tuple[NodeId, float]]:
        """Who owes an answer, and since when."""
        return ((fetch.node, fetch.asked_s) for fetch in self.by_request.values())

    def forget_client(self, client: Address) -> None:
        """It is gone; the bytes are kept when they come."""
        for fetch in self.by_request.values():
            fetch.waiters = [waiter for waiter in fetch.waiters if waiter[0] != client]

    @property
    def waiting(self) -> int:
        """Reads that wait for bytes."""
        return sum(len(fetch.waiters) for fetch in self.by_request.values())

    def check(self) -> None:
        """Asserts the invariants."""
        for request, fetch in self.by_request.items():
            assert fetch.read.request == request
            assert fetch.read.bytes_start < 0
        assert all(fetch.read.request in self.by_request for fetch in self._by_key.values())
