"""Requests that need bytes of cold segments: who waits, what is fetched, what they are told when
the store is away; and that everything else goes on."""

from __future__ import annotations

import pytest

from bokilog.cold import ColdMiss, ColdOutcome, ColdSegment, ColdState, FetchRange
from bokilog.effects import Effect, LinkDown, LinkUp, SetTimer, StartCold, TimerFired
from bokilog.errors import CorruptRecord, NotReady, from_wire
from bokilog.journal import Location
from bokilog.messages import (
    FetchFrames,
    FetchStored,
    FollowIndex,
    FramesSent,
    IndexStream,
    Read,
    ReadReply,
    Replicate,
    RequestFailed,
    StillReading,
    StoredFrame,
    StoredSent,
)
from bokilog.metalog import Proposer, Trim
from bokilog.storage_nodes import cold_reads
from bokilog.storage_nodes.cold_reads import (
    DOWN_S,
    FETCHES_MAX,
    RANGE_BYTES_MAX,
    RANGE_BYTES_MIN,
    STILL_S,
    WAIT_S,
    ColdReads,
    RangeCache,
    VerdictsWanted,
    widened,
)
from bokilog.storage_nodes.locations import Row
from tests.protocol.storage_rig import BOOK, ENGINE, NUMBER, PEER, SHARD, SPACE, messages, read
from tests.unit.storage_nodes.cold_rig import AWAY, FRAME_BYTES, ColdRig

FRAMES = 12
CLIENT = 9


@pytest.fixture
def rig() -> ColdRig:
    """Most of twelve frames lie cold, each in a segment of its own."""
    rig = ColdRig(hot_bytes=40_000)
    rig.begin()
    rig.fill(FRAMES)
    rig.stored()
    rig.move_all()
    assert len(rig.states()) >= FRAMES // 2
    rig.ask(read(start=FRAMES, until=FRAMES + 1))  # one frame always stays in memory
    return rig


def records(effects: list[Effect]) -> list[tuple[int, bytes]]:
    """What readers are told."""
    return [
        (seqnum, bytes(data))
        for reply in messages(effects, ReadReply)
        if isinstance(reply, ReadReply)
        for seqnum, data in zip(reply.seqnums, reply.payload, strict=True)
    ]


def error_of(effects: list[Effect]) -> Exception:
    (failed,) = messages(effects, RequestFailed)
    assert isinstance(failed, RequestFailed)
    return from_wire(failed.error)


def data_of(seqnum: int) -> bytes:
    return b"%d" % (seqnum - 1) + bytes(FRAME_BYTES)


def test_a_read_waits_for_one_range_and_is_answered_with_it(rig: ColdRig) -> None:
    assert rig.ask(read(start=2, until=3)) is None
    (fetch,) = rig.jobs
    assert isinstance(fetch, FetchRange)
    row = rig.index.locate(2)
    assert row is not None
    assert (fetch.start, fetch.until) == (
        row.location.offset,
        row.location.offset + row.location.length,
    )
    assert records(rig.answer()) == [(2, data_of(2))]


def test_bytes_at_hand_are_not_fetched_again(rig: ColdRig) -> None:
    rig.ask(read(start=2, until=3))
    rig.answer()
    rig.ask(read(start=FRAMES, until=FRAMES + 1))
    assert isinstance(rig.ask(read(start=2, until=3)), ReadReply)
    assert not rig.jobs


def test_a_scan_gets_its_records_part_by_part_each_with_one_fetch(rig: ColdRig) -> None:
    found: list[tuple[int, bytes]] = []
    start, fetches = 1, 0
    while len(found) < FRAMES:
        effects = rig.get(CLIENT, read(start=start))
        if rig.jobs:
            fetches += 1
            effects = rig.answer()
        part = records(effects)
        assert part, "every part has something"
        found += part
        start = part[-1][0] + 1
    assert found == [(seqnum, data_of(seqnum)) for seqnum in range(1, FRAMES + 1)]
    assert fetches == len(rig.states()), "a segment has one frame here"


def test_a_reverse_scan_ends_before_cold_bytes_too(rig: ColdRig) -> None:
    reply = rig.ask(read(start=1, reverse=True))
    assert isinstance(reply, ReadReply)
    assert reply.more
    assert reply.seqnums == sorted(reply.seqnums, reverse=True)
    assert reply.next_seqnum == reply.seqnums[-1]


def test_two_readers_of_a_range_wait_for_one_fetch(rig: ColdRig) -> None:
    rig.get(CLIENT, read(start=2, until=3))
    rig.get(CLIENT + 1, read(start=2, until=3))
    assert len(rig.jobs) == 1
    assert records(rig.answer()) == [(2, data_of(2))] * 2


def test_a_store_that_is_away_is_a_retryable_error_for_all_who_wait(rig: ColdRig) -> None:
    rig.get(CLIENT, read(start=2, until=3))
    rig.get(CLIENT, read(start=3, until=4))
    effects = rig.answer(AWAY)
    failed = messages(effects, RequestFailed)
    assert len(failed) == 2
    for each in failed:
        assert isinstance(each, RequestFailed)
        error = from_wire(each.error)
        assert isinstance(error, NotReady)
        assert "s3://bucket/cold: connection refused" in str(error)
    assert SetTimer(("cold-down", SPACE), DOWN_S) in effects


def test_while_it_is_away_readers_are_told_at_once_and_what_is_here_goes_on(rig: ColdRig) -> None:
    rig.get(CLIENT, read(start=2, until=3))
    rig.answer(AWAY)
    assert isinstance(rig.ask(read(start=3, until=4)), RequestFailed)
    assert not rig.jobs
    assert isinstance(rig.ask(read(start=FRAMES, until=FRAMES + 1)), ReadReply)
    rig.fill(1)
    assert rig.index.tail == FRAMES + 2
    rig.do(TimerFired(("cold-down", SPACE)))
    assert rig.ask(read(start=3, until=4)) is None
    assert records(rig.answer()) == [(3, data_of(3))]


def test_a_store_that_says_nothing_is_an_error_in_time(rig: ColdRig) -> None:
    effects = rig.get(CLIENT, read(start=2, until=3))
    waited_s = 0.0
    while timers := [each for each in effects if isinstance(each, SetTimer)]:
        if timers[0].timer == ("cold-down", SPACE):
            break
        waited_s += timers[0].delay_s
        effects = rig.do(TimerFired(timers[0].timer))
    assert WAIT_S <= waited_s < WAIT_S + 0.1
    assert isinstance(error_of(effects), NotReady)
    assert isinstance(rig.ask(read(start=3, until=4)), RequestFailed), "the next one at once"
    assert messages(rig.answer(), ReadReply) == [], "it was answered before"
    assert isinstance(rig.ask(read(start=2, until=3)), ReadReply), "but the bytes are here now"


def test_who_waits_for_the_store_hears_that_this_node_is_not_silent(rig: ColdRig) -> None:
    asked = read(start=2, until=3)
    effects = rig.get(CLIENT, asked)
    for _ in range(3):
        (timer,) = (each for each in effects if isinstance(each, SetTimer))
        assert timer == SetTimer(("cold", SPACE, 1), STILL_S)
        effects = rig.do(TimerFired(timer.timer))
        assert messages(effects, StillReading) == [StillReading(asked.request)]
    assert records(rig.answer()) == [(2, data_of(2))]
    assert rig.do(TimerFired(("cold", SPACE, 1))) == [], "it was answered"


def test_peers_and_backups_are_told_nothing_while_they_wait(rig: ColdRig) -> None:
    for peer, wanted in (
        (PEER, FetchFrames(SHARD, 1, 2, 2, 3)),
        (CLIENT, FetchStored(SPACE, 1, 4)),
    ):
        (timer,) = (each for each in rig.get(peer, wanted) if isinstance(each, SetTimer))
        assert messages(rig.do(TimerFired(timer.timer))) == []


def test_an_object_that_is_gone_is_an_error_of_its_segment_only(rig: ColdRig) -> None:
    rig.get(CLIENT, read(start=2, until=3))
    gone = ColdOutcome(problem="there is no object", final=True)
    assert isinstance(error_of(rig.answer(gone)), NotReady), "never that there is no record"
    assert isinstance(rig.ask(read(start=2, until=3)), RequestFailed)
    assert rig.ask(read(start=3, until=4)) is None
    rig.answer()
    rig.do(TimerFired(("cold-down", SPACE)))
    assert rig.replica.facts()["cold_problem"] == gone.problem, "until it is"
    assert rig.ask(read(start=2, until=3)) is None, "it may be back"
    rig.answer()
    assert rig.replica.facts()["cold_problem"] == ""


def test_bytes_that_are_damaged_are_never_answered_and_a_peer_is_asked(rig: ColdRig) -> None:
    rig.do(LinkUp(PEER))
    rig.get(CLIENT, read(start=2, until=3))
    fetch = rig.jobs[0]
    assert isinstance(fetch, FetchRange)
    data = bytearray(rig.objects[fetch.segment.name][fetch.start : fetch.until])
    data[-1] ^= 1
    assert isinstance(error_of(rig.answer(ColdOutcome(data=bytes(data)))), CorruptRecord)
    asked = messages(rig.look(), FetchFrames)
    assert [each.first_seqnum for each in asked if isinstance(each, FetchFrames)] == [2]


def test_what_readers_may_wait_for_is_bounded(
    rig: ColdRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold_reads, "WAITING_MAX", 2)
    assert rig.ask(read(start=2, until=3)) is None
    assert rig.ask(read(start=2, until=3)) is None
    assert isinstance(rig.ask(read(start=2, until=3)), RequestFailed)


def test_who_is_gone_waits_no_more(rig: ColdRig) -> None:
    rig.get(CLIENT, read(start=2, until=3))
    rig.do(LinkDown(CLIENT))
    assert messages(rig.answer(), ReadReply) == []


def test_p21_a_whole_frame_of_another_object_is_not_served(rig: ColdRig) -> None:
    """Somebody copied objects and mixed two up: each frame in them is whole, and not the one."""
    second, third = sorted(rig.objects)[1:3]
    rig.objects[second] = rig.objects[third]
    rig.ask(read(start=2, until=3))
    assert isinstance(error_of(rig.answer()), CorruptRecord)
    rig.do(LinkUp(PEER))
    (asked,) = messages(rig.look(), FetchFrames)
    assert isinstance(asked, FetchFrames)
    assert (asked.first_seqnum, asked.until_seqnum) == (2, 3)


def hide(rig: ColdRig, until: int) -> None:
    """Every record before it is gone by the trim of its only tag."""
    rig.order(Trim(2_000, BOOK, "t", until, Proposer(0, 0)))


def wait_for_all(rig: ColdRig, effects: list[Effect]) -> list[Effect]:
    """Fetches are answered one by one, as long as there are any."""
    for _ in range(3 * FRAMES):
        if not rig.jobs:
            return effects
        effects = rig.answer()
    raise AssertionError("the same ranges are fetched again and again")


@pytest.mark.parametrize("reverse", [False, True])
def test_records_hidden_by_trims_of_their_tags_are_passed_with_hardly_any_memory(
    reverse: bool,
) -> None:
    """Each look at one evicts the one before: a reader that began anew would never get past."""
    rig = ColdRig(hot_bytes=40_000, cache_bytes=0)
    rig.begin()
    rig.fill(FRAMES)
    rig.stored()
    rig.move_all()
    hide(rig, FRAMES - 1)
    until = FRAMES + 1 if not reverse else FRAMES - 1
    asked = read(start=0, until=until, reverse=reverse)._replace(limit=1)
    effects = rig.get(CLIENT, asked)
    found = records(wait_for_all(rig, effects))
    assert found == ([] if reverse else [(FRAMES - 1, data_of(FRAMES - 1))])
    wait_for_all(rig, rig.get(CLIENT, asked))
    assert rig.replica._cold.reads.fetch_count <= len(rig.states()) + 1, (
        "what is hidden stays hidden"
    )


def test_a_page_with_tag_trims_ends_before_cold_bytes(rig: ColdRig) -> None:
    hide(rig, 2)
    found: list[tuple[int, bytes]] = []
    start = 0
    while start <= FRAMES:
        effects = wait_for_all(rig, rig.get(CLIENT, read(start=start)))
        part = records(effects)
        assert part, "every part has something"
        found += part
        start = part[-1][0] + 1
    assert found == [(seqnum, data_of(seqnum)) for seqnum in range(2, FRAMES + 1)]


# --- peers and engines ----------------------------------------------------------------------------


def test_a_peer_that_lacks_a_cold_frame_gets_it(rig: ColdRig) -> None:
    wanted = FetchFrames(SHARD, 1, 2, 2, 3)
    assert messages(rig.get(PEER, wanted), FramesSent) == []
    assert messages(rig.get(PEER, wanted), FramesSent) == [], "it asks again before the answer"
    given = messages(rig.answer(), Replicate, FramesSent)
    assert [type(each) for each in given] == [Replicate, FramesSent]
    assert not rig.jobs


def test_a_peer_is_told_nothing_while_the_store_is_away(rig: ColdRig) -> None:
    """That nobody has the bytes would make it give up records."""
    rig.get(PEER, FetchStored(SPACE, 1, 4))
    rig.get(PEER, FetchFrames(SHARD, 1, 2, 2, 3))
    effects = rig.answer(AWAY)
    assert messages(effects, StoredSent, FramesSent, RequestFailed) == []


def test_a_backup_is_told_why_it_gets_nothing(rig: ColdRig) -> None:
    rig.get(CLIENT, FetchStored(SPACE, 1, 4))
    assert isinstance(error_of(rig.answer(AWAY)), NotReady)


def test_a_loaded_folds_frames_come_part_by_part(rig: ColdRig) -> None:
    came: list[int] = []
    start = 1
    while start < FRAMES + 1:
        effects = rig.get(PEER, FetchStored(SPACE, start, FRAMES + 1))
        if rig.jobs:
            effects = rig.answer()
        came += [m.first_seqnum for m in messages(effects, StoredFrame) if type(m) is StoredFrame]
        (sent,) = messages(effects, StoredSent)
        assert isinstance(sent, StoredSent)
        assert sent.lacking == []
        assert sent.until_seqnum > start
        start = sent.until_seqnum
    assert came == list(range(1, FRAMES + 1))


def test_verdicts_of_a_cold_frame_are_told_when_it_has_come(rig: ColdRig) -> None:
    wanted = [1, NUMBER, 1, 2]
    effects = rig.get(ENGINE, FollowIndex(SPACE, NUMBER, [BOOK], [wanted]))
    assert not any(stream.verdicts for stream in streams(effects))
    found = [each for stream in streams(rig.answer()) for each in stream.verdicts]
    assert found == [[1, NUMBER, 1, []]]


def streams(effects: list[Effect]) -> list[IndexStream]:
    return [each for each in messages(effects, IndexStream) if isinstance(each, IndexStream)]


# --- parts ----------------------------------------------------------------------------------------


def cold_reads_of(segments: int = 1, *, cache_bytes: int = 1 << 20) -> ColdReads:
    known = {
        number: ColdSegment(number, 1, ColdState.COLD, 1 << 30, 0)
        for number in range(1, segments + 1)
    }
    return ColdReads(SPACE, known, where="w", cache_bytes_max=cache_bytes)


def fetches_of(effects: list[Effect]) -> list[FetchRange]:
    jobs = [each.job for each in effects if isinstance(each, StartCold)]
    return [job for job in jobs if isinstance(job, FetchRange)]


def miss_of(reads: ColdReads, location: Location, start: int, length: int) -> ColdMiss:
    with pytest.raises(ColdMiss) as missed:
        reads.read(location, start, length)
    return missed.value


def test_a_small_read_fetches_some_of_its_frame_and_never_more_than_it() -> None:
    reads = cold_reads_of()
    large = miss_of(reads, Location(1, 100, 1 << 20), 0, 64)
    assert (large.start, large.until) == (100, 100 + RANGE_BYTES_MIN)
    small = miss_of(reads, Location(1, 100, 500), 0, 64)
    assert (small.start, small.until) == (100, 600)
    late = miss_of(reads, Location(1, 100, 1 << 20), (1 << 20) - 10, 10)
    assert late.until == 100 + (1 << 20)


def test_so_many_fetches_are_under_way_and_the_next_ones_wait() -> None:
    reads = cold_reads_of()
    effects: list[Effect] = []
    for place in range(FETCHES_MAX + 2):
        request = read(start=place)._replace(request=place)
        waits = reads.wait(CLIENT, request, ColdMiss(1, place * 100, place * 100 + 100))
        assert not isinstance(waits, NotReady)
        effects += waits
    jobs = fetches_of(effects)
    assert len(jobs) == FETCHES_MAX
    done = ColdOutcome(data=bytes(100))
    more = reads.fetched(jobs[0], done, ask=lambda *_: [], refuse=lambda *_: [])
    assert len(fetches_of(more)) == 1
    reads.check()


def test_a_range_nobody_waits_for_any_more_is_not_fetched() -> None:
    reads = cold_reads_of()
    jobs: list[FetchRange] = []
    for place in range(FETCHES_MAX + 1):
        request = read(start=place)._replace(request=place)
        waits = reads.wait(CLIENT + place, request, ColdMiss(1, place * 100, place * 100 + 100))
        assert not isinstance(waits, NotReady)
        jobs += fetches_of(waits)
    reads.drop(CLIENT + FETCHES_MAX)
    more = reads.fetched(
        jobs[0], ColdOutcome(data=bytes(100)), ask=lambda *_: [], refuse=lambda *_: []
    )
    assert fetches_of(more) == []
    reads.check()


def test_a_miss_is_widened_over_what_lies_near_and_will_be_read() -> None:
    def row(segment: int, offset: int, length: int) -> Row:
        return Row(1, 1, Location(segment, offset, length), 0, ())

    miss = ColdMiss(1, 1000, 1100)
    near = [row(1, 1000, 100), row(1, 1108, 100), row(1, 1300, 100)]
    assert (widened(miss, near).start, widened(miss, near).until) == (1000, 1400)
    back = widened(miss, [row(1, 800, 100), row(1, 500, 100)])
    assert (back.start, back.until) == (500, 1100)
    far = widened(miss, [near[1], row(1, RANGE_BYTES_MAX + 2000, 100), near[2]])
    assert far.until == 1208
    other = widened(miss, [row(2, 1100, 100), near[1]])
    assert other.until == 1100


def test_ranges_at_hand_are_bounded_and_the_newest_one_stays() -> None:
    cache = RangeCache(250)
    for start in (0, 100, 200):
        cache.put(1, start, bytes([start]) * 100)
    assert cache.size_bytes == 200
    assert cache.find(1, 0, 10) is None
    assert cache.find(1, 110, 120) == b"d" * 10
    cache.put(2, 0, bytes(1000))
    assert cache.size_bytes == 1000
    assert cache.find(2, 500, 600) == bytes(100)
    cache.forget(2)
    assert cache.size_bytes == 0


def test_a_range_within_a_longer_one_is_found_behind_a_shorter_one() -> None:
    cache = RangeCache(10_000)
    cache.put(1, 0, b"a" * 1000)
    cache.put(1, 500, b"a" * 10)
    assert cache.find(1, 600, 700) == b"a" * 100
    cache.put(1, 500, b"b")
    assert cache.find(1, 500, 510) == b"a" * 10, "a shorter one does not replace it"


def test_a_request_that_misses_again_keeps_its_timer() -> None:
    reads = cold_reads_of()
    request = read(start=1)
    waits = reads.wait(CLIENT, request, ColdMiss(1, 0, 10))
    assert not isinstance(waits, NotReady)
    (timer,) = (each for each in waits if isinstance(each, SetTimer))
    segment = ColdSegment(1, 1, ColdState.COLD, 1 << 30, 0)

    def ask(source: object, again: object) -> list[Effect]:
        assert isinstance(again, Read)
        found = reads.wait(CLIENT, again, ColdMiss(1, 50, 60))
        assert not isinstance(found, NotReady)
        return found

    effects = reads.fetched(
        FetchRange(segment, 0, 10), ColdOutcome(data=bytes(10)), ask=ask, refuse=lambda *_: []
    )
    assert not any(isinstance(each, SetTimer) for each in effects)
    assert len(reads) == 1
    assert timer.timer == ("cold", SPACE, 1)
    reads.drop(CLIENT)
    assert len(reads) == 0


def test_verdicts_wanted_are_a_request_of_their_own() -> None:
    reads = cold_reads_of()
    wanted = VerdictsWanted(1, NUMBER, 0, 1)
    assert reads.wait(ENGINE, wanted, ColdMiss(1, 0, 10))
    assert reads.wait(ENGINE, wanted, ColdMiss(1, 0, 10)) == [], "asked again: it waits already"
