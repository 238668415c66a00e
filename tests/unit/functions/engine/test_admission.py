"""Which frames are taken, and what is said of those that are not."""

from __future__ import annotations

from bokilog.effects import Effect, Send, SetTimer
from bokilog.errors import (
    BokilogError,
    NotReady,
    Overloaded,
    ReadOnly,
    RemoteProtocolError,
    to_wire,
)
from bokilog.functions.engine.admission import RECORD_BYTES, Admission
from bokilog.functions.engine.order import Horizon
from bokilog.functions.engine.settings import EngineSettings
from bokilog.functions.engine.taken import Taken
from bokilog.messages import FrameRefused
from tests.unit.functions.engine.world import CLIENT, ENGINE, SPACE, append, at

SIZE = RECORD_BYTES + 1
"""Of a frame with one record of one byte."""
FULL = Overloaded(EngineSettings().overloaded_retry_s, "the append")


class Rig:
    def __init__(self, **settings: int) -> None:
        self.horizon = Horizon()
        self.settings = EngineSettings(**settings)
        self.admission = Admission(SPACE, node=ENGINE, settings=self.settings, horizon=self.horizon)

    def taken(self, number: int, client: int = CLIENT) -> Taken:
        found = self.admission.take(client, append(number, "t"))
        assert isinstance(found, Taken), found
        return found

    def refused(self, number: int, client: int = CLIENT) -> list[Effect]:
        found = self.admission.take(client, append(number, "t"))
        assert isinstance(found, list), found
        return found


def refusal(number: int, error: BokilogError, client: int = CLIENT) -> Send:
    return Send(client, FrameRefused(SPACE, number, to_wire(error)))


def test_what_is_taken_counts_until_it_is_let_go() -> None:
    rig = Rig()
    first, _ = rig.taken(1), rig.taken(2)
    assert (rig.admission.frames, rig.admission.bytes) == (2, 2 * SIZE)
    assert first.size_bytes == SIZE
    rig.admission.let_go(first)
    assert (rig.admission.frames, rig.admission.bytes) == (1, SIZE)


def test_p32_frames_are_bounded_and_none_after_a_refused_one_is_taken() -> None:
    rig = Rig(unordered_frames_max=1)
    first = rig.taken(1)
    assert rig.refused(2) == [refusal(2, FULL)]
    rig.admission.let_go(first)
    assert rig.refused(3) == [refusal(3, FULL)]  # P4: 2 has not come back
    rig.taken(2)
    assert rig.admission.refused_count == 2


def test_p32_bytes_are_bounded_but_one_frame_is_always_taken() -> None:
    rig = Rig(unordered_bytes_max=1)
    first = rig.taken(1)
    assert rig.refused(2) == [refusal(2, FULL)]
    rig.admission.let_go(first)
    rig.taken(2)


def test_p4_the_numbers_of_one_client_say_nothing_of_another() -> None:
    rig = Rig()
    rig.taken(7)
    rig.taken(1, client=2)
    again = RemoteProtocolError("frame 7 where frame 8 was expected")
    assert rig.refused(7) == [refusal(7, again)]
    rig.taken(8)


def test_a_connection_that_is_new_begins_with_any_number() -> None:
    rig = Rig()
    rig.taken(7)
    rig.admission.forget_client(CLIENT)
    rig.taken(1)


def test_p32_appends_wait_while_the_index_is_too_far_behind() -> None:
    rig = Rig(lag_records_max=10)
    rig.horizon.followed = True
    rig.horizon.saw(at(1), 12)
    behind = Overloaded(
        rig.settings.overloaded_retry_s,
        "the append, while the index is 11 records behind (at most 10 are allowed)",
    )
    timer = SetTimer(("lag", int(SPACE)), rig.settings.retry_s)
    assert rig.refused(1) == [refusal(1, behind), timer]
    assert rig.refused(1) == [refusal(1, behind)]  # the timer runs
    assert rig.admission.lag_timer()
    assert rig.refused(1) == [refusal(1, behind), timer]
    rig.horizon.indexed_tail = 2
    assert not rig.admission.lag_timer()
    rig.taken(1)


def test_nothing_is_taken_while_the_journal_takes_nothing() -> None:
    rig = Rig()
    rig.admission.read_only = "the disk is full"
    assert rig.refused(1) == [refusal(1, ReadOnly("the disk is full"))]
    rig.admission.read_only = ""
    rig.taken(1)


def test_p2_nothing_is_taken_once_a_newer_start_has_taken_over() -> None:
    rig = Rig()
    error = rig.admission.close()
    assert isinstance(error, NotReady)
    rig.admission.read_only = "the disk is full"
    assert rig.refused(1) == [refusal(1, error)]


def test_p4_what_is_given_back_comes_again_first() -> None:
    rig = Rig()
    frames = [rig.taken(number) for number in (1, 2, 3)]
    error = ReadOnly("the disk is full")
    told = [effect for each in frames[1:] for effect in rig.admission.give_back(each, error)]
    assert told == [refusal(2, error), refusal(3, error)]
    assert rig.admission.frames == 1
    assert rig.refused(3) == [refusal(3, FULL)]
    rig.taken(2)


def test_nobody_is_told_of_a_frame_whose_client_is_gone() -> None:
    rig = Rig()
    taken = rig.taken(1)
    rig.admission.forget_client(CLIENT)
    taken.client = None
    assert rig.admission.give_back(taken, ReadOnly("full")) == []
    assert (rig.admission.frames, rig.admission.bytes) == (0, 0)
