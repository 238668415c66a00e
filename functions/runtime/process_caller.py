"""What carries calls that are made outside of calls: by a worker's own tasks, or by a program.

Decides that such calls are the first of their chain (depth 0, no deadline of their own), and that
they share one session. Does not know: how the process is connected.
"""

from __future__ import annotations

import math
from collections.abc import Set

from bokilog.client.admin import ClientLog
from bokilog.client.session import Session
from bokilog.functions.runtime.caller import HostCalls, OpenCall
from bokilog.functions.runtime.context import Place, session_of


class ProcessCaller:
    """The caller of a process.

    Args:
        place: the process.
        known: the functions that its hosts have.
    """

    __slots__ = ("_place", "_session", "children", "known")

    def __init__(self, place: Place, *, known: Set[str]) -> None:
        self._place = place
        self._session: Session | None = None
        self.known = known
        self.children: set[OpenCall] = set()
        """Calls under way."""

    @property
    def place(self) -> Place:
        """The process."""
        return self._place

    @property
    def calls(self) -> HostCalls:
        """Where they go."""
        return self._place.calls

    @property
    def child_depth(self) -> int:
        """They are the first of their chain."""
        return 0

    @property
    def left_s(self) -> float:
        """Their functions' own timeouts are all that bounds them."""
        return math.inf

    @property
    def trace(self) -> str:
        """They belong to nothing."""
        return ""

    @property
    def host(self) -> str:
        """Of the node that the process is on."""
        return self._place.host

    def knows(self, function: str) -> bool:
        """Whether the hosts have a function."""
        return function in self.known

    def token(self) -> str:
        """What they have to see: what this process has seen."""
        session = self._session
        return session.token if session is not None and session.history_id else ""

    def merge(self, token: str) -> None:
        """One of them has seen this."""
        if not token:
            return
        if self._session is None:
            self._session = self._shared() or session_of(token)
        self._session.merge(token)

    def session_for(self, log: ClientLog) -> Session:
        """The connection's own session, so that its LogBooks show what calls have done."""
        if self._session is None:
            self._session = log.client.default_session
        return self._session

    async def connected_log(self) -> ClientLog | None:
        """The log, once it is connected; None where there is none."""
        return await self._place.connected_log()

    def _shared(self) -> Session | None:
        log = self._place.log
        return log.client.default_session if log is not None else None
