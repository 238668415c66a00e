"""Which segments move to an object store, in which steps, and what a crash between two leaves."""

from __future__ import annotations

import pytest

from bokilog.cold import (
    ColdOutcome,
    ColdSegment,
    ColdState,
    Remove,
    StoreList,
    Upload,
    decode_list,
    encode_list,
)
from bokilog.effects import ReadOnlyChanged, TimerFired
from bokilog.errors import CorruptJournal, FormatTooNew
from bokilog.ids import SYSTEM_BOOK
from bokilog.messages import ReadReply
from bokilog.metalog import Proposer, Trim
from bokilog.storage_nodes.cold import RETRY_S
from tests.protocol.storage_rig import BOOK, SPACE, cut, frame, read
from tests.unit.storage_nodes.cold_rig import AWAY, FRAME_BYTES, WHERE, ColdRig

SERVICE = Proposer(0, 0)


def trim(rig: ColdRig, until: int) -> None:
    rig.order(Trim(2_000 + until, BOOK, None, until, SERVICE))


def filled(*, hot_bytes: int = 60_000, after_s: float = 0.0, frames: int = 12) -> ColdRig:
    """A segment per frame, behind a checkpoint but for the last ones."""
    rig = ColdRig(hot_bytes=hot_bytes, after_s=after_s)
    rig.begin()
    rig.fill(frames)
    rig.stored()
    return rig


def test_the_oldest_segments_move_until_the_journal_is_within_its_budget() -> None:
    rig = filled()
    before = rig.here
    rig.move_all()
    moved = [each for each in before if each not in rig.here]
    assert moved == before[: len(moved)]
    assert moved
    assert rig.states() == dict.fromkeys(moved, ColdState.COLD)
    assert sum(each.until for each in rig.journal.segments()) <= 60_000
    assert len(rig.objects) == len(moved)


def test_nothing_moves_without_a_budget_and_an_age() -> None:
    rig = filled(hot_bytes=0)
    rig.look()
    assert not rig.jobs
    assert "cold_segments" not in rig.replica.facts()


def test_a_segment_that_a_start_would_read_stays() -> None:
    rig = ColdRig(hot_bytes=1)
    rig.begin()
    rig.fill(12)
    rig.look()
    assert not rig.jobs, "nothing is stored yet"
    rig.stored()
    rig.move_all()
    assert min(rig.here) >= rig.replica.replay_from


def test_age_is_that_of_the_last_record_by_the_time_of_the_log() -> None:
    rig = filled(hot_bytes=0, after_s=60.0)
    rig.look()
    rig.look(59.0)
    assert not rig.jobs
    rig.look(2.0)
    assert isinstance(rig.jobs[0], StoreList)


def test_every_step_waits_for_the_synced_list_and_the_file_goes_last() -> None:
    rig = filled()
    first = rig.here[0]
    rig.look()
    (noted,) = rig.jobs
    assert noted == StoreList((ColdSegment(first, 1, ColdState.UPLOADING),))
    rig.answer()
    assert rig.jobs == [Upload(ColdSegment(first, 1, ColdState.UPLOADING))]
    rig.answer()
    (noted,) = rig.jobs
    assert isinstance(noted, StoreList)
    assert noted.segments[0].state is ColdState.COLD
    rig.look()
    assert first in rig.here
    assert isinstance(rig.ask(read(start=1, until=2)), ReadReply), "it is read from here still"
    rig.answer()
    rig.look()
    assert first not in rig.here
    rig.ask(read(start=12, until=13))  # one frame stays in memory
    assert rig.ask(read(start=1, until=2)) is None, "the store is asked"


def test_crash_before_the_list_says_so_uploads_again_under_the_same_name() -> None:
    rig = filled()
    first = rig.here[0]
    rig.look()
    rig.answer()
    rig.answer()  # uploaded; that it is cold is not synced
    assert len(rig.objects) == 1
    rig.restart()
    assert first in rig.here
    rig.look()
    assert rig.jobs[0] == Upload(ColdSegment(first, 1, ColdState.UPLOADING))
    rig.answer_all()
    rig.look()
    assert rig.states()[first] is ColdState.COLD
    assert first not in rig.here
    assert len([name for name in rig.objects if name.startswith(f"{first:08d}")]) == 1


def test_crash_after_the_list_says_so_lets_the_file_go_at_the_start() -> None:
    rig = filled()
    first = rig.here[0]
    rig.look()
    rig.answer_all()
    assert first in rig.here
    rig.restart()
    rig.look()
    assert first not in rig.here
    assert rig.states()[first] is ColdState.COLD


def test_a_trim_deletes_the_object_once_the_list_says_so() -> None:
    rig = filled()
    rig.move_all()
    moved = sorted(rig.states())
    trim(rig, rig.index.tail)
    rig.stored()
    rig.look()
    assert isinstance(rig.jobs[0], StoreList)
    assert len(rig.objects) == len(moved)
    rig.move_all()
    assert rig.objects == {}
    assert rig.states() == {}


def test_crash_before_the_deletion_deletes_later() -> None:
    rig = filled()
    rig.move_all()
    trim(rig, rig.index.tail)
    rig.stored()
    rig.look()
    rig.answer()  # the list says that they are to be deleted
    assert set(rig.states().values()) == {ColdState.DELETING}
    rig.restart()
    rig.move_all()
    assert rig.objects == {}
    assert rig.states() == {}


def test_an_object_whose_records_went_while_its_node_was_down_is_deleted() -> None:
    rig = filled()
    rig.move_all()
    listed = rig.listed
    trim(rig, rig.index.tail)
    rig.stored()
    rig.do(TimerFired("checkpoint"))
    rig.finish_checkpoint()  # the fold has forgotten them, the list has not
    rig.listed = listed
    rig.restart()
    rig.report_all()
    rig.move_all()
    assert rig.objects == {}


def test_a_segment_that_is_trimmed_while_it_is_uploaded_is_never_read_there() -> None:
    rig = filled()
    first = rig.here[0]
    rig.look()
    rig.answer()
    trim(rig, rig.index.tail)
    rig.stored()
    assert isinstance(rig.jobs[0], Upload)
    assert not any(isinstance(job, Remove) for job in rig.jobs)
    rig.answer()
    rig.move_all()
    assert first not in rig.states()
    assert rig.objects == {}


def test_a_store_that_is_away_is_tried_again_and_nothing_is_let_go() -> None:
    rig = filled()
    before = rig.here
    rig.look()
    rig.answer()
    rig.answer(AWAY)
    rig.look()
    assert not rig.jobs
    assert rig.here == before
    assert rig.replica.facts()["cold_problem"] == AWAY.problem
    rig.look(RETRY_S)
    assert isinstance(rig.jobs[0], Upload)
    rig.move_all()
    assert rig.replica.facts()["cold_problem"] == ""


def test_a_list_that_the_disk_does_not_take_is_tried_again() -> None:
    rig = filled()
    rig.look()
    rig.answer(AWAY)
    rig.look()
    assert not rig.jobs
    rig.look(RETRY_S)
    assert isinstance(rig.jobs[0], StoreList)


def test_a_segment_that_cannot_move_stays_and_the_next_one_has_its_turn() -> None:
    rig = filled()
    first = rig.here[0]
    rig.look()
    rig.answer()
    rig.answer(ColdOutcome(problem="it is damaged", final=True))
    rig.move_all()
    assert first in rig.here
    assert first not in rig.states()
    assert rig.states()


def test_a_full_disk_moves_what_age_would_not() -> None:
    rig = filled(hot_bytes=0, after_s=1e6)
    rig.look()
    assert not rig.jobs
    rig.do(ReadOnlyChanged(SPACE, "the disk is full"))
    rig.look()
    assert isinstance(rig.jobs[0], StoreList)


def test_a_segment_that_is_mostly_trimmed_is_left_to_compaction() -> None:
    rig = filled(hot_bytes=1)
    first = rig.here[0]
    trim(rig, 2)
    rig.stored()
    rig.look()
    assert isinstance(rig.jobs[0], StoreList)
    assert first not in [each.segment for each in rig.jobs[0].segments]


def test_what_is_left_of_a_cold_segment_comes_back_and_its_object_goes() -> None:
    """Compaction of cold segments: else one record would keep an object for ever."""
    rig = ColdRig(hot_bytes=60_000)
    rig.begin()
    rig.hold(frame(0, *[bytes(600)] * 12))
    rig.order(cut(1, 0, 12))
    rig.fill(12)
    rig.stored()
    rig.move_all()
    assert 1 in rig.states()
    trim(rig, 12)  # one of twelve records of the first segment is left
    rig.stored()
    for _ in range(8):
        rig.look()
        rig.answer_all()
        rig.sync()
    rig.stored()
    rig.move_all()
    assert 1 not in rig.states()
    assert not any(name.startswith("00000001") for name in rig.objects)
    assert 1 not in rig.index.segments
    reply = rig.ask(read(start=12, until=13))
    assert isinstance(reply, ReadReply)
    assert bytes(reply.payload[0]) == bytes(600)


def test_a_cold_segment_is_not_compacted_while_the_store_is_away() -> None:
    rig = ColdRig(hot_bytes=60_000)
    rig.begin()
    rig.hold(frame(0, *[bytes(600)] * 12))
    rig.order(cut(1, 0, 12))
    rig.fill(12)
    rig.stored()
    rig.move_all()
    trim(rig, 12)
    rig.stored()
    while not rig.jobs:
        rig.look()
    rig.answer(AWAY)
    rig.look()
    assert not rig.jobs
    assert not rig.replica.compact(rig.now_s), "others have their turn"


def test_records_of_the_system_logbook_stay_at_hand() -> None:
    """Who opens a LogBook must not depend on the store."""
    rig = ColdRig(hot_bytes=60_000)
    rig.begin()
    rig.hold(frame(0, bytes(8_000), books=SYSTEM_BOOK))
    rig.order(cut(1, 0, 1))
    rig.fill(12)
    rig.stored()
    rig.look()
    assert isinstance(rig.jobs[0], StoreList)
    rig.sync()
    rig.move_all()
    assert 1 in rig.states()
    row = rig.index.locate(1)
    assert row is not None
    assert row.location.segment in rig.here
    reply = rig.ask(read(start=1, until=2)._replace(book=SYSTEM_BOOK))
    assert isinstance(reply, ReadReply)
    assert reply.seqnums == [1]


def test_a_restarted_node_needs_no_cold_bytes_to_fold() -> None:
    rig = filled()
    rig.move_all()
    hashed = rig.index.chained_hash
    rig.restart()
    assert not rig.jobs
    assert rig.index.chained_hash == hashed
    rig.fill(2)
    assert rig.index.tail == 15


# --- the list -------------------------------------------------------------------------------------

LISTED = (
    ColdSegment(3, 1, ColdState.COLD, 2 * FRAME_BYTES, 0xFEED),
    ColdSegment(4, 2, ColdState.UPLOADING),
    ColdSegment(5, 1, ColdState.DELETING, 1, 2),
)


def test_the_list_is_what_it_was() -> None:
    assert decode_list(encode_list(WHERE, LISTED), "f") == (WHERE, LISTED)
    assert decode_list(encode_list(WHERE, ()), "f") == (WHERE, ())


def test_the_lists_bytes_stay() -> None:
    assert encode_list("file:///c", LISTED[:1]) == (
        b'{"format": 1, "where": "file:///c", "segments": [\n'
        b'  [3, 1, "cold", 16000, "000000000000feed"]\n]}\n'
    )


def test_an_objects_name_has_the_start_that_noted_it() -> None:
    assert LISTED[0].name == "00000003-1.seg"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format": 1, "where": "w", "segments": [[1, 1, "lost", 0, "0"]]}',
        b'{"format": 1, "where": "w", "segments": [[1, 1]]}',
        encode_list(WHERE, [LISTED[0], LISTED[0]]),
    ],
)
def test_what_is_no_list_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(CorruptJournal, match=r"cold\.json"):
        decode_list(data, "journal-0/cold.json")


def test_a_newer_list_is_refused() -> None:
    with pytest.raises(FormatTooNew):
        decode_list(b'{"format": 2, "where": "w", "segments": []}', "f")
