"""A host among the others of its app: it joins them, dials who is there, and hangs up.

Decides who is dialled: whoever says that it is there (`membership.py`) and has an address that can
be reached from here; and who no more: whoever has ended or was silent for long, once it answers
nothing. What else is met of other hosts is told to people: one of another version, or of the same
name.

Invariants: one host's record at most stands for this one, and it ends with `leave`; what differs is
told once. Does not know calls, nor which host gets them (`other_hosts.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Protocol

from bokilog.client.admin import ClientLog
from bokilog.functions.runtime.effects import PeerLeaves
from bokilog.functions.runtime.membership import HostRecord, Membership, reachable
from bokilog.io.transport import Peer


class Dialling(Protocol):
    """Links to other hosts; `connections.py` has them."""

    @property
    def peers(self) -> dict[str, bool]:
        """Who is dialled, and whether it answers."""
        ...

    def dial(self, name: str, address: str) -> None:
        """Keep a link to it, if there is none."""
        ...

    def hang_up(self, name: str) -> Peer | None:
        """Its link, which is to be closed."""
        ...


class Neighbours:
    """The other hosts of an app, as one host meets them.

    Args:
        name: of this host.
        links: to the others.
        functions: that this host has.
        leaves: told of a host that has ended, or was silent for long, and still answers.
        warn: told what people should know.
        spawn: runs what takes time, under a name.
    """

    def __init__(
        self,
        name: str,
        *,
        links: Dialling,
        functions: Callable[[], list[str]],
        leaves: Callable[[PeerLeaves], None],
        warn: Callable[[str], None],
        spawn: Callable[[Coroutine[object, object, None], str], None],
    ) -> None:
        self._name = name
        self._app = ""
        self._links = links
        self._functions = functions
        self._leaves = leaves
        self._warn = warn
        self._spawn = spawn
        self._membership: Membership | None = None
        self._present: dict[str, HostRecord] = {}
        """As they say themselves."""
        self._differing: set[tuple[str, ...]] = set()
        """Functions of other versions of the app, or of other apps of its name, that were met."""

    # --- this host --------------------------------------------------------------------------------

    @property
    def joined(self) -> bool:
        """The others are told of this host, and it of them."""
        return self._membership is not None

    async def join(self, log: ClientLog, app: str, addresses: list[str]) -> None:
        """Say where this host listens, and follow the others."""
        self._app = app
        self._membership = Membership(
            log,
            app,
            HostRecord(self._name, addresses, self._functions(), True),
            changed=self.present_are,
            named_alike=self._named_alike,
        )
        await self._membership.join()

    def serve(self, functions: list[str]) -> None:
        """Its functions are others now."""
        if self._membership is not None:
            self._spawn(self._membership.serve(functions), "host-functions")

    async def leave(self, *, timeout_s: float) -> None:
        """Say that it has ended, if that is taken in time."""
        membership, self._membership = self._membership, None
        if membership is not None:
            await membership.leave(timeout_s=timeout_s)

    # --- the others -------------------------------------------------------------------------------

    def present_are(self, present: dict[str, HostRecord]) -> None:
        """Who is there, by name."""
        self._present = present
        self.hang_up()
        for name, record in present.items():
            address = reachable(record)
            if address:
                self._links.dial(name, address)
            self._compare(record)

    def hang_up(self) -> None:
        """Hosts that have ended, or were silent for long, are dialled no more. One that answers may
        still run calls of this one, but gets no new ones: it hangs up itself."""
        for name, answers in self._links.peers.items():
            if name in self._present:
                continue
            if answers:
                self._leaves(PeerLeaves(name))
                continue
            peer = self._links.hang_up(name)
            if peer is not None:
                self._spawn(peer.aclose(), "hang-up")

    def _compare(self, record: HostRecord) -> None:
        """Of two apps of one name, each host has its own functions: that is better told."""
        own, theirs = self._functions(), record.functions
        if set(own) == set(theirs) or tuple(theirs) in self._differing:
            return
        self._differing.add(tuple(theirs))
        lacks = ", ".join(sorted(set(own) - set(theirs))) or "nothing"
        more = ", ".join(sorted(set(theirs) - set(own))) or "nothing"
        what = (
            f"host {record.name} has another version of {self._app!r}, or another app of its name"
        )
        self._warn(f"{what}: it lacks {lacks}, and has {more} besides")

    def _named_alike(self, record: HostRecord) -> None:
        where = ", ".join(record.addresses)
        self._warn(f"another host at {where} is called {record.name!r} too: give each its own name")
