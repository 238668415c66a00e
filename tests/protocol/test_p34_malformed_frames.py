"""P34: a frame that does not decode in the fold is void on every replica, never an exception.

1. An engine of another version signs columns that this one does not decode. 2. Refused by storage
nodes, the frame would be sent again for ever, and none after it would count. 3. Taken and tripped
over, it would stop every replica at the same place, at each start. So its records keep their
LocalIds and seqnums, and its units are void.
"""

from __future__ import annotations

from bokilog.client.books import Route
from bokilog.client.lane import Lane
from bokilog.client.session import Session
from bokilog.effects import BatchEnded, Effect, Send
from bokilog.errors import UnitMalformed
from bokilog.frame import Frame
from bokilog.ids import START
from bokilog.limits import TAGS_MAX
from bokilog.messages import (
    VERDICT_MALFORMED,
    FetchFrames,
    FollowIndex,
    FrameOrdered,
    FramesSent,
    FrameVerdicts,
    IndexStream,
    Message,
    ReadReply,
    Replicate,
    ShardProgress,
)
from bokilog.wire import decode, encode
from tests.frames import columns_of
from tests.protocol.storage_rig import (
    BOOK,
    ENGINE,
    NUMBER,
    PEER,
    SHARD,
    SPACE,
    StorageRig,
    cut,
    frame,
    messages,
    opening,
    read,
)
from tests.sim.core_clients import Outcome
from tests.unit.functions.engine import world as engine_world
from tests.unit.functions.engine.world import Sim, at

VOID: list[list[object]] = [[0, VERDICT_MALFORMED, None, None], [1, VERDICT_MALFORMED, None, None]]


def strange(first: int) -> Frame:
    """Two units of three records, one with more tags than this version knows."""
    payload = [b"a", b"b", b"c"]
    many = [f"t{n}" for n in range(TAGS_MAX + 1)]
    columns = columns_of(payload, tags=["t", many, "t"], books=BOOK, unit_records=[1, 2])
    return Frame(shard=SHARD, first=first, columns=columns, payload=[b"".join(payload)])


def arrived(message: Message) -> Message:
    """As a socket brings it."""
    kind, head, parts = encode(message)
    return decode(kind, bytes(head), [memoryview(bytes(part)) for part in parts])


def counts(effects: list[Effect]) -> list[list[list[int]]]:
    found = messages(effects, ShardProgress)
    return [each.counts for each in found if isinstance(each, ShardProgress)]


def streamed(effects: list[Effect]) -> list[object]:
    found = messages(effects, IndexStream)
    return [row for each in found if isinstance(each, IndexStream) for row in each.verdicts]


def seqnums(rig: StorageRig, tag: str | None = None) -> list[int]:
    reply = rig.ask(read(tag=tag))
    assert isinstance(reply, ReadReply), reply
    return reply.seqnums


def with_a_strange_frame() -> StorageRig:
    """Frames 0, 1..3 and 4 are held; the middle one does not decode."""
    rig = StorageRig().begin()
    rig.get(ENGINE, FollowIndex(SPACE, NUMBER, [BOOK], []))
    rig.hold(frame(0, b"before"))
    rig.get(ENGINE, arrived(Replicate(strange(1))))
    rig.get(ENGINE, arrived(Replicate(frame(4, b"after"))))
    return rig


def test_p34_a_frame_that_does_not_decode_counts_and_is_void() -> None:
    rig = with_a_strange_frame()
    assert counts(rig.sync())[-1] == [[NUMBER, 5]]
    told = streamed(rig.order(cut(1, 0, 5)))
    assert told == [[1, NUMBER, 1, VOID]]
    assert rig.index.tail == 6
    assert seqnums(rig) == seqnums(rig, "t") == [1, 5]
    assert rig.index.last(BOOK, "t1") == 0, "its tags count nowhere"


def test_p34_every_replica_makes_the_same_of_it_now_and_after_a_restart() -> None:
    rig, other = with_a_strange_frame(), with_a_strange_frame()
    for each in (rig, other):
        each.sync()
    rig.order(cut(1, 0, 5))
    other.restart()
    other.order(opening(), cut(1, 0, 5), first=0)
    assert other.index.chained_hash == rig.index.chained_hash
    assert seqnums(other) == seqnums(rig)


def test_p34_it_is_known_as_void_after_a_checkpoint_too() -> None:
    rig = with_a_strange_frame()
    rig.sync()
    rig.order(cut(1, 0, 5))
    rig.checkpoint()
    rig.restart()
    assert seqnums(rig) == [1, 5]
    again = rig.get(ENGINE, FollowIndex(SPACE, NUMBER, [], [[1, NUMBER, 1, 2]]))
    assert [[*row[:3], [list(each) for each in row[3]]] for row in streamed(again)] == [  # type: ignore[index]
        [1, NUMBER, 1, VOID]
    ]


def test_p34_a_peer_that_lacks_it_gets_it_as_it_is() -> None:
    rig = with_a_strange_frame()
    rig.sync()
    rig.order(cut(1, 0, 5))
    given = rig.get(PEER, FetchFrames(SHARD, 1, 4, 2, 5))
    sent = messages(given, Replicate, FramesSent)
    frames = [each.frame for each in sent if isinstance(each, Replicate)]
    assert [each.checksum for each in frames] == [strange(1).checksum]
    peer = StorageRig().begin()
    for each in (frame(0, b"before"), *frames, frame(4, b"after")):
        peer.get(PEER, arrived(Replicate(each)))
    peer.sync()
    peer.order(cut(1, 0, 5))
    assert peer.index.chained_hash == rig.index.chained_hash


def test_p34_its_segment_is_kept_for_nobody() -> None:
    """No LogBook is known to have records in it; a trim of the others lets go of all."""
    rig = with_a_strange_frame()
    rig.sync()
    rig.order(cut(1, 0, 5))
    (segment,) = {location.segment for _, location, _ in rig.journal.recover(0)}
    assert rig.index.segments.books_of(segment) == {BOOK: 5}


def test_p34_the_engine_and_the_client_say_that_it_is_void() -> None:
    sim = Sim().start()
    sim.do(BatchEnded(0))
    sim.get(engine_world.CLIENT, engine_world.append(1, "a", unless={0: [("a", 0)]}))
    sim.get(engine_world.PRIMARY, engine_world.run(1, engine_world.cut(10, (0, 1))))
    row: list[object] = [1, engine_world.NUMBER, 0, VOID[:1]]
    stream = IndexStream(engine_world.SPACE, at(0), at(2), 11, [], [], [row], [], [], [])
    verdicts = FrameVerdicts(engine_world.SPACE, 1, at(2), VOID[:1])
    told = sim.get(engine_world.STORAGE[0], stream)
    assert told == [Send(engine_world.CLIENT, verdicts)]

    lane, outcome = Lane(1, lambda: None), Outcome(b"a")
    route = Route(name="b", number=BOOK, space=1, durability="sync")
    lane.append(route, Session("h"), b"a", "$w", outcome)
    lane.seal(1000.0)
    lane.take_head()
    lane.ordered(FrameOrdered(1, 1, 10, START, 0))
    lane.verdicts(arrived(verdicts))  # type: ignore[arg-type]
    assert isinstance(outcome.error, UnitMalformed)
    assert outcome.error.definite and not outcome.error.retryable
    assert "does not decode on the storage nodes" in str(outcome.error)
