"""Catching up: which ordered frames a replica lacks, whom it asks, what it gives a peer (P8).

Decides one request at a time: for the first frame that the fold waits for, and as much of what the
entries behind it order as one answer holds, so that a node that was away for long does not pay a
round trip per cut. An answer that brought nothing is followed by a pause and another peer.

A frame is usually still on its way when the cut that orders it arrives, since a write quorum holds
it before the last replica does; so the first request waits for a moment, and only for a frame that
is still missing then. A replica that asked at once would get most frames twice.

Does not know: what is done with frames that arrive; to the replica they are like any other.
"""

from __future__ import annotations

from bokilog.effects import Address, Effect, Send, SetTimer
from bokilog.errors import CorruptJournal, RemoteProtocolError
from bokilog.frame import Frame
from bokilog.messages import FetchFrames, FramesSent, Replicate
from bokilog.storage_nodes.membership import Membership
from bokilog.storage_nodes.pending import Pending
from bokilog.storage_nodes.reader import Reader, is_whole

PATIENCE_S = 0.05
"""How long a frame may be on its way before a peer is asked for it."""
RETRY_S = 0.25
"""Without an answer, or after an empty one, the next peer is asked."""
ANSWER_FRAMES_MAX = 512
ANSWER_BYTES_MAX = 4 << 20
AHEAD_ENTRIES = 1024
"""How far ahead of the fold entries are looked at."""


class Repair:
    """Frames wanted from peers, and frames given to them, for one log space."""

    __slots__ = (
        "_asked",
        "_awaited",
        "_membership",
        "_overdue",
        "_turn",
        "asked_count",
        "catching_up",
    )

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._asked = False
        self._awaited: int | None = None
        """The first seqnum missing when the timer was set."""
        self._overdue: int | None = None
        """The one that was missing at the timer before."""
        self._turn = 0
        self.catching_up = False
        """A frame was overdue: until nothing is missing, peers are asked at once."""
        self.asked_count = 0

    def ask(self, request: FetchFrames) -> list[Effect]:
        """One request at a time; the next one goes to the next peer."""
        if self._asked:
            return []
        timer = ("fetch", int(self._membership.space.id))
        if not self.catching_up:
            if self._awaited is not None:
                return []
            if request.first_seqnum != self._overdue:
                self._awaited = request.first_seqnum
                return [SetTimer(timer, PATIENCE_S)]
            self.catching_up = True
        peers = self._membership.connected()
        if not peers:
            return []
        self._asked = True
        self._turn += 1
        self.asked_count += 1
        peer = peers[self._turn % len(peers)]
        return [Send(peer, request), SetTimer(timer, RETRY_S)]

    def answered(self, message: FramesSent) -> bool:
        """Whether to look at once what is missing still; else the timer does."""
        if message.frames:
            self._asked = False
        return message.frames > 0

    def timer(self) -> None:
        """Whoever was asked did not help, or what was awaited should be here by now."""
        self._asked = False
        self._awaited, self._overdue = None, self._awaited


def give(
    source: Address, request: FetchFrames, *, pending: Pending, reader: Reader
) -> list[Effect]:
    """What a peer lacks: from the fold as far as it is, or the one frame that is pending here.

    Without that one the answer counts as none, whatever frames behind it are given: else a peer
    would ask for it for ever, when a loss of power took it from everybody (P24).
    """
    effects: list[Effect] = []
    size_bytes = 0
    found = False
    for frame in reader.frames_between(
        request.first_seqnum, request.until_seqnum, limit=ANSWER_FRAMES_MAX
    ):
        effects.append(Send(source, Replicate(frame)))
        found = found or (
            frame.shard == request.shard and frame.first <= request.start < frame.until
        )
        size_bytes += frame.size_bytes
        if size_bytes > ANSWER_BYTES_MAX:
            break
    if not found:
        pending_here = _pending(request, pending)
        effects += [Send(source, Replicate(frame)) for frame in pending_here]
        found = bool(pending_here)
    return [*effects, Send(source, FramesSent(request.shard.space, len(effects) if found else 0))]


def _pending(request: FetchFrames, pending: Pending) -> list[Frame]:
    """Two nodes may each hold a frame of one cut that the other lacks: neither has folded it."""
    found = pending.frames_of(request.shard, request.start, request.start + 1)
    if isinstance(found, int):
        return []
    (held,) = found
    if held.frame is not None:
        return [held.frame]
    try:
        frame = pending.bytes_of(held)
    except (RemoteProtocolError, CorruptJournal):
        return []
    return [frame] if is_whole(frame) else []
