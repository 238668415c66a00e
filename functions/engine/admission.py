"""Which frames of clients a log space takes here, and what is said of those that it does not.

Decides whether there is room: what is taken and not yet ordered is bounded, and appends wait while
the followed index replica is too far behind what is ordered, or too few storage nodes have room on
their disks (P32). Also whether it is a frame's turn, and whether anything is taken at all.

Invariants: a frame that was refused was not taken, and neither was any later one of its client
until it came back (P4): so appends wait in order, at their client. `frames` and `bytes` count what
was taken until it is ordered, lost or given back. One frame is always taken, however large.

Does not know: LocalIds, replicas, the metalog; when a frame is ordered (`under_way.py` counts it
out).
"""

from __future__ import annotations

from bokilog.effects import Address, Effect, Send, SetTimer
from bokilog.errors import (
    BokilogError,
    NotReady,
    Overloaded,
    ReadOnly,
    RemoteProtocolError,
    to_wire,
)
from bokilog.functions.engine.order import Horizon
from bokilog.functions.engine.settings import EngineSettings
from bokilog.functions.engine.taken import Taken
from bokilog.ids import LogSpaceId, NodeId
from bokilog.messages import AppendFrame, FrameRefused

RECORD_BYTES = 64
"""What a record costs beside its payload: entries of the columns."""


class Admission:
    """The way in to one log space.

    Args:
        space: the log space.
        node: this engine.
        settings: how much may be unordered, and how far the index may be behind.
        horizon: how far it is behind.
    """

    __slots__ = (
        "_closed",
        "_horizon",
        "_lag_timer_set",
        "_next",
        "_node",
        "_settings",
        "_space",
        "bytes",
        "frames",
        "full",
        "read_only",
        "refused_count",
    )

    def __init__(
        self, space: LogSpaceId, *, node: NodeId, settings: EngineSettings, horizon: Horizon
    ) -> None:
        self.frames = 0
        self.bytes = 0
        """Taken and not yet ordered."""
        self.refused_count = 0
        self.read_only = ""
        """Why the journal of this process takes nothing for now; empty: it does."""
        self.full = ""
        """Which storage nodes take nothing for now, and why, if the others are too few."""
        self._space = space
        self._node = node
        self._settings = settings
        self._horizon = horizon
        self._next: dict[Address, int] = {}
        """The number of each client's next frame."""
        self._closed: BokilogError | None = None
        self._lag_timer_set = False

    def take(self, client: Address, message: AppendFrame) -> Taken | list[Effect]:
        """A client's frame if it is taken, else what the client is told."""
        _, number, columns, _ = message
        size_bytes = columns.payload_bytes + RECORD_BYTES * len(columns.tags)
        if (
            number != self._next.setdefault(client, number)
            or self.read_only
            or self.full
            or self._closed is not None
            or not self._has_room(size_bytes)
        ):
            return [self._refuse(client, number), *self._ensure_lag_timer()]
        self._next[client] = number + 1
        self.frames += 1
        self.bytes += size_bytes
        return Taken(client, message, size_bytes)

    def _has_room(self, size_bytes: int) -> bool:
        settings = self._settings
        return self._horizon.lag_records <= settings.lag_records_max and (
            not self.frames
            or (
                self.frames < settings.unordered_frames_max
                and self.bytes + size_bytes <= settings.unordered_bytes_max
            )
        )

    def let_go(self, taken: Taken) -> None:
        """It is not under way any more."""
        self.frames -= 1
        self.bytes -= taken.size_bytes

    def give_back(self, taken: Taken, error: BokilogError) -> list[Effect]:
        """A frame without LocalIds is refused after all: it certainly did not happen."""
        self.let_go(taken)
        if taken.client is None:
            return []
        self._next[taken.client] = min(self._next[taken.client], taken.number)
        return [Send(taken.client, FrameRefused(self._space, taken.number, to_wire(error)))]

    def close(self) -> BokilogError:
        """A newer start of this engine has taken over: the reason why nothing is taken any more."""
        self._closed = NotReady(f"a newer start of {self._node} has taken over")
        return self._closed

    def forget_client(self, client: Address) -> None:
        """It is gone; its next connection is another client."""
        self._next.pop(client, None)

    # --- refusing ---------------------------------------------------------------------------------

    def _refuse(self, client: Address, number: int) -> Effect:
        self.refused_count += 1
        error: BokilogError
        if self._closed is not None:
            error = self._closed
        elif self.read_only or self.full:
            error = ReadOnly(self.read_only or self.full)
        elif number < self._next[client]:
            expected = self._next[client]
            error = RemoteProtocolError(f"frame {number} where frame {expected} was expected")
        else:
            error = Overloaded(self._settings.overloaded_retry_s, self._what())
        return Send(client, FrameRefused(self._space, number, to_wire(error)))

    def _what(self) -> str:
        """What there is no room for, and why if it is not for the frames under way here."""
        if not self.lags:
            return "the append"
        lag, most = self._horizon.lag_records, self._settings.lag_records_max
        return f"the append, while the index is {lag} records behind (at most {most} are allowed)"

    # --- the lag of the index ---------------------------------------------------------------------

    @property
    def lags(self) -> bool:
        """Whether the followed index replica is too far behind what is ordered (P32)."""
        return self._horizon.lag_records > self._settings.lag_records_max

    def lag_timer(self) -> bool:
        """Whether the replica is as far behind as when a frame was refused for that: appends must
        not wait for one that is slow, or stands still, while another may be further.
        """
        self._lag_timer_set = False
        return self.lags

    def _ensure_lag_timer(self) -> list[Effect]:
        if self._lag_timer_set or not self.lags:
            return []
        self._lag_timer_set = True
        return [SetTimer(("lag", int(self._space)), self._settings.retry_s)]
