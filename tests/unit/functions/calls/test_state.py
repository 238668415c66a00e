"""The fold of durable calls."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from bokilog.codec import pack
from bokilog.errors import FormatTooNew, RemoteProtocolError
from bokilog.functions.calls.records import (
    CallRecord,
    Cancelled,
    Claimed,
    DeadLettered,
    Expired,
    Extended,
    Finished,
    Passed,
    Retried,
    Spawned,
    encode,
    tags_of,
)
from bokilog.functions.calls.state import KEPT_BYTES_MAX, CallsState, Phase
from bokilog.record import Record
from tests.unit.functions.calls.world import spawned

ID = "00000000000000aa"


def folded(*steps: tuple[CallRecord, int]) -> CallsState:
    state = CallsState()
    for seqnum, (step, timestamp_ms) in enumerate(steps, 1):
        state.apply(Record(seqnum, encode(step), tags_of(step), timestamp_ms, None))
        state.check()
    return state


def test_a_claim_holds_the_call_until_the_end_of_its_lease() -> None:
    state = folded((spawned(ID), 100), (Claimed(ID, "a/1", 0, 50), 110))
    call = state.calls[ID]
    assert (call.phase, call.holder, call.lease_ms, call.seqnum) == (Phase.CLAIMED, "a/1", 160, 2)
    assert (call.spawned_seqnum, call.spawned_ms) == (1, 100)


def test_arguments_are_at_hand_up_to_some_bytes_and_let_go_with_their_call() -> None:
    large = spawned(ID)._replace(payload=bytes(KEPT_BYTES_MAX // 2))
    second, third = (large._replace(call_id=f"{number:016x}") for number in (2, 3))
    waiting: list[tuple[CallRecord, int]] = [(large, 1), (second, 2)]
    state = folded(*waiting)
    assert state.calls[ID].spawned == large
    assert state.calls[second.call_id].spawned is None, "its record is read when it starts"
    over = Finished(ID, "a/1", 0, 0, "", [], 1, b"")
    state = folded(*waiting, (over, 3), (third, 4))
    assert state.calls[third.call_id].spawned == third
    snapshot = state.snapshot()
    state.restore(snapshot)
    state.check()
    assert state.calls[third.call_id].spawned is None, "snapshots are of what is open, not why"


def test_only_the_holder_extends_its_lease() -> None:
    claimed: list[tuple[CallRecord, int]] = [
        (spawned(ID), 100),
        (Claimed(ID, "a/1", 0, 50), 110),
    ]
    assert folded(*claimed, (Extended(ID, "a/1", 0, 50), 150)).calls[ID].lease_ms == 200
    assert folded(*claimed, (Extended(ID, "b/1", 0, 50), 150)).calls[ID].lease_ms == 160


def test_an_expiry_counts_once_the_log_says_that_the_lease_is_over() -> None:
    claimed: list[tuple[CallRecord, int]] = [
        (spawned(ID), 100),
        (Claimed(ID, "a/1", 0, 50), 110),
    ]
    early = folded(*claimed, (Expired(ID, "a/1", 0, "b/1"), 159)).calls[ID]
    assert (early.phase, early.attempt, early.seqnum) == (Phase.CLAIMED, 0, 3)
    due = folded(*claimed, (Expired(ID, "a/1", 0, "b/1"), 160)).calls[ID]
    assert (due.phase, due.attempt, due.due_ms) == (Phase.WAITING, 1, 160)


def test_a_retry_waits() -> None:
    state = folded((spawned(ID, retries=0), 100), (Retried(ID, "a/1", 1, 500, []), 200))
    assert (state.calls[ID].due_ms, state.calls[ID].attempt) == (700, 1)
    assert state.calls[ID].is_exhausted


@pytest.mark.parametrize(
    "end",
    [
        Finished(ID, "a/1", 0, 0, "", [], 1, b""),
        DeadLettered(ID, "a/1", 1, "why", 0, "", [], b""),
        Cancelled(ID, "enough"),
    ],
    ids=lambda end: type(end).__name__,
)
def test_a_call_that_is_over_is_forgotten(end: CallRecord) -> None:
    state = folded((spawned(ID), 100), (end, 200))
    assert (state.calls, state.ended_count) == ({}, 1)
    assert state.dead_count == isinstance(end, DeadLettered)


def test_a_schedule_knows_how_far_it_got_and_what_is_open() -> None:
    due = spawned(ID)._replace(schedule="f", due_ms=60)
    state = folded((Passed("f", 50, "first seen"), 50), (due, 60))
    assert (state.schedules["f"].last_due_ms, state.schedules["f"].seqnum) == (60, 2)
    assert state.schedules["f"].open == [ID]
    state.apply(Record(3, encode(Cancelled(ID, "enough")), (), 70, None))
    assert state.schedules["f"].open == []


def test_a_call_that_is_open_is_not_begun_again() -> None:
    state = folded(
        (spawned(ID), 100), (Claimed(ID, "a/1", 0, 50), 110), (spawned(ID, function="g"), 120)
    )
    call = state.calls[ID]
    assert (call.phase, call.function, call.seqnum) == (Phase.CLAIMED, "f", 3)
    assert state.odd_count == 1


def test_records_that_say_nothing_are_counted() -> None:
    state = CallsState()
    assert state.apply(Record(1, b"not ours", (), 1, None)) is None
    assert state.apply(Record(2, encode(Cancelled(ID, "unknown call")), (), 2, None)) is None
    assert (state.odd_count, state.log_ms) == (2, 2)


def test_what_is_still_needed_begins_with_the_oldest_open_call() -> None:
    state = folded((spawned(ID), 1), (spawned("b" * 16), 2))
    assert state.oldest_seqnum(9) == 1
    assert CallsState().oldest_seqnum(9) == 9


@pytest.mark.parametrize(
    "snapshot",
    [b"", b"junk", pack([1, [1, 2, 3], [], []]), pack([1, [0] * 4, [], [[1, 2]]])],
)
def test_what_is_no_snapshot_leaves_the_state_empty(snapshot: bytes) -> None:
    state = folded((spawned(ID), 1))
    with pytest.raises(RemoteProtocolError):
        state.restore(snapshot)
    assert state.calls == {}


def test_a_later_snapshot_is_refused_by_name() -> None:
    with pytest.raises(FormatTooNew, match="a snapshot of calls"):
        CallsState().restore(pack([2, [], [], []]))


STEPS = st.one_of(
    st.builds(
        Spawned,
        call_id=st.sampled_from("abc"),
        function=st.sampled_from("fg"),
        encoding=st.just(0),
        payload=st.just(b""),
        timeout_ms=st.just(0),
        retries=st.integers(0, 3),
        retry_delay_ms=st.just(1),
        flags=st.integers(0, 1),
        depth=st.just(0),
        key=st.just(""),
        schedule=st.sampled_from(["", "f"]),
        due_ms=st.integers(0, 9),
        prefer=st.just(""),
        token=st.just(""),
        trace=st.just(""),
    ),
    st.builds(
        Claimed,
        st.sampled_from("abc"),
        st.sampled_from(["h/1", "h/2"]),
        st.integers(0, 3),
        st.integers(0, 20),
    ),
    st.builds(Expired, st.sampled_from("abc"), st.just("h/1"), st.just(0), st.just("h/2")),
    st.builds(Cancelled, st.sampled_from("abc"), st.just("")),
    st.builds(Passed, st.sampled_from("fg"), st.integers(0, 9), st.just("")),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(STEPS, st.integers(1, 20)), max_size=30), st.integers(0, 30))
def test_a_snapshot_is_as_good_as_the_records_before_it(
    steps: list[tuple[CallRecord, int]], cut: int
) -> None:
    time_ms, records = 0, []
    for seqnum, (step, later_ms) in enumerate(steps, 1):
        time_ms += later_ms
        records.append(Record(seqnum, encode(step), (), time_ms, None))
    whole, early, late = CallsState(), CallsState(), CallsState()
    for record in records:
        whole.apply(record)
        whole.check()
    for record in records[:cut]:
        early.apply(record)
    late.restore(early.snapshot())
    for record in records[cut:]:
        late.apply(record)
    assert late.snapshot() == whole.snapshot()
