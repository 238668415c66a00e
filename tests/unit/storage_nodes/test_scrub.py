"""Flipped bits are found in the background, and a peer's frame takes the place of a damaged one."""

from __future__ import annotations

from bokilog.effects import BatchEnded, Commit, Effect, LinkUp, Send, TimerFired
from bokilog.frame import HEADER_BYTES, Frame
from bokilog.messages import FetchFrames, IndexReport, ReadReply, Replicate, RequestFailed
from bokilog.storage_nodes.scrub import ASK_S, FIRST_ROUND_S, ROUND_S, TURN_ROWS_MAX
from tests.protocol.storage_rig import (
    NODE,
    OTHER,
    PEER,
    SPACE,
    StorageRig,
    cut,
    frame,
    read,
)

FRAMES = 12


class Scrubbed:
    """A node with frames in several segments, whose memory holds none of them."""

    def __init__(self) -> None:
        self.rig = StorageRig(cache_bytes=0).begin()
        self.now_s = 0.0
        self.frames = [frame(place, b"%04d" % place * 300) for place in range(FRAMES)]
        for place, each in enumerate(self.frames):
            self.rig.hold(each)
            self.rig.order(cut(place + 1, place, place + 1))
        self.store()
        self.pass_s(0)

    def store(self) -> None:
        self.rig.checkpoint()
        stored = self.rig.index.generations.stored_position
        for peer in (PEER, OTHER):
            self.rig.get(peer, IndexReport(SPACE, stored, stored, 0, False))

    def pass_s(self, seconds: float) -> list[Effect]:
        self.now_s += seconds
        core = self.rig.core
        effects = core.handle(TimerFired("upkeep"), self.now_s)
        effects += core.handle(BatchEnded(0), self.now_s)
        self.rig._tokens += [each.token for each in effects if isinstance(each, Commit)]
        return effects

    def damage(self, place: int, offset: int) -> int:
        """Flip a bit of a frame; the segment it lies in."""
        row = self.rig.index.locate(place + 1)
        assert row is not None
        items = self.rig.journal._segments[row.location.segment].items
        kind, data = items[row.location.offset]
        bad = bytearray(data)
        bad[offset] ^= 1
        items[row.location.offset] = kind, bytes(bad)
        self.rig.replica._reader.forget(place + 1)
        return row.location.segment

    def asked(self, effects: list[Effect]) -> list[tuple[object, int, int]]:
        return [
            (each.to, each.message.first_seqnum, each.message.until_seqnum)
            for each in effects
            if isinstance(each, Send) and isinstance(each.message, FetchFrames)
        ]

    def facts(self) -> tuple[object, object]:
        facts = self.rig.replica.facts()
        return facts["frames_damaged"], facts["frames_repaired"]

    def answer(self, sent: Frame, source: object = PEER) -> None:
        self.rig.get(source, Replicate(sent))
        self.rig.sync()

    def reads(self, place: int) -> bool:
        reply = self.rig.ask(read(start=place + 1, until=place + 2))
        if isinstance(reply, RequestFailed):
            return False
        assert isinstance(reply, ReadReply)
        return list(map(bytes, reply.payload)) == [b"%04d" % place * 300]


def test_a_sound_journal_is_read_once_a_round() -> None:
    world = Scrubbed()
    world.pass_s(FIRST_ROUND_S)
    facts = world.rig.replica.facts()
    assert world.facts() == (0, 0)
    assert facts["scrubbed_bytes"] == sum(each.size_bytes for each in world.frames)
    world.pass_s(ROUND_S / 2)
    assert world.rig.replica.facts()["scrubbed_bytes"] == facts["scrubbed_bytes"]
    world.pass_s(ROUND_S / 2)
    assert world.rig.replica.facts()["scrubbed_bytes"] == 2 * int(str(facts["scrubbed_bytes"]))
    assert len(world.frames) < TURN_ROWS_MAX


def test_p30_a_flipped_bit_is_counted_where_there_is_nobody_to_ask() -> None:
    world = Scrubbed()
    world.damage(3, -1)
    assert world.asked(world.pass_s(FIRST_ROUND_S)) == []
    assert world.facts() == (1, 0)
    assert not world.reads(3)


def test_p30_a_damaged_frame_is_repaired_from_a_peer() -> None:
    world = Scrubbed()
    world.rig.do(LinkUp(PEER))
    segment = world.damage(3, -1)
    assert not world.reads(3)
    assert world.asked(world.pass_s(FIRST_ROUND_S)) == [(PEER, 4, 5)]
    world.answer(world.frames[3])
    assert world.facts() == (1, 1)
    assert all(world.reads(place) for place in range(FRAMES))
    for _ in range(5):  # no group with flipped bits stays in the journal
        world.pass_s(1.0)
        world.rig.sync()
    world.store()
    assert segment not in {each.number for each in world.rig.journal.segments()}
    world.rig.restart()
    assert all(world.reads(place) for place in range(FRAMES))


def test_a_frame_that_lost_its_identity_is_told_by_the_index() -> None:
    world = Scrubbed()
    world.rig.do(LinkUp(PEER))
    world.damage(3, HEADER_BYTES + 2)
    assert world.asked(world.pass_s(FIRST_ROUND_S)) == [(PEER, 4, 5)]
    world.answer(world.frames[3])
    assert world.facts() == (1, 1)
    assert world.reads(3)


def test_another_frame_or_somebody_elses_does_not_take_its_place() -> None:
    world = Scrubbed()
    world.rig.do(LinkUp(PEER))
    world.damage(3, -1)
    world.pass_s(FIRST_ROUND_S)
    world.answer(world.frames[5])
    world.answer(world.frames[3], source=OTHER)
    assert world.facts() == (1, 0)
    bad = Frame(
        shard=world.frames[3].shard,
        first=3,
        columns=world.frames[3].columns,
        payload=[b"x" * 1200],
        header=world.frames[3].header,
    )
    world.answer(bad)
    assert world.facts() == (1, 0)


def test_the_next_peer_is_asked_when_one_does_not_help() -> None:
    world = Scrubbed()
    world.rig.do(LinkUp(PEER))
    world.rig.do(LinkUp(OTHER))
    world.damage(3, -1)
    asked = world.asked(world.pass_s(FIRST_ROUND_S)) + world.asked(world.pass_s(ASK_S / 2))
    asked += world.asked(world.pass_s(ASK_S / 2))
    assert {to for to, *_ in asked} == {PEER, OTHER}
    assert len(asked) == 2
    assert NODE not in {to for to, *_ in asked}
