"""Who of several hosts acts first on a call or a schedule that any of them may act on.

Decides a host's place by rendezvous hashing: each key has an order of the hosts of its own, alike
on all of them, which changes for few keys when a host comes or goes. The first acts at once, each
next one a while later, so that they seldom get in each other's way, and that one of them does when
the others are gone. A host that a call prefers goes before all others.

Does not know: time, which hosts live (they come in). Nothing depends on ranks but how many appends
are refused. Pure.
"""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

from bokilog.functions.calls.state import OpenCall


class Ranks:
    """One host's places among all."""

    __slots__ = ("_host", "_hosts")

    def __init__(self, host: str) -> None:
        self._host = host
        self._hosts: tuple[str, ...] = (host,)

    def hosts_are(self, hosts: tuple[str, ...]) -> bool:
        """These live, and this one does in any case; whether that is new."""
        found = hosts if self._host in hosts else (*hosts, self._host)
        if found == self._hosts:
            return False
        self._hosts = found
        return True

    def of(self, key: str) -> int:
        """This host's place for the key, from 0."""
        if len(self._hosts) == 1:
            return 0
        ours = xxh3_64_intdigest(f"{key}/{self._host}".encode())
        return sum(xxh3_64_intdigest(f"{key}/{host}".encode()) > ours for host in self._hosts)

    def of_call(self, call: OpenCall) -> int:
        """The same for a call, which may prefer a host."""
        if call.prefer == self._host:
            return 0
        rank = self.of(call.call_id)
        return rank + 1 if call.prefer and call.prefer in self._hosts else rank
