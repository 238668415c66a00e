"""Questions that storage nodes are asked, and who is asked next."""

from __future__ import annotations

from itertools import count

from bokilog.effects import Effect, Send
from bokilog.errors import BokilogError, DataLost, NotReady, Overloaded, to_wire
from bokilog.facts import Facts
from bokilog.functions.engine.index_follower import IndexFollower
from bokilog.functions.engine.links import Links
from bokilog.functions.engine.order import Horizon
from bokilog.functions.engine.passed import PassedQuestions
from bokilog.functions.engine.settings import EngineSettings
from bokilog.ids import START, LogSpaceId, NodeId
from bokilog.messages import BookState, CancelRead, RequestFailed
from tests.unit.functions.engine.world import BOOK, CLIENT, SPACE, STORAGE, read

S1, S2, S3 = STORAGE
OTHER_SPACE = LogSpaceId(2)


class Rig:
    """Three replicas, all connected, of which the first is followed; no reads wait here."""

    def __init__(self, reads_max: int = 10) -> None:
        self.links = Links()
        for node in STORAGE:
            self.links.went_up(node)
        self.space = self._follower(SPACE)
        self.other = self._follower(OTHER_SPACE)
        self.parked: list[int] = []
        self.passed = PassedQuestions(
            settings=EngineSettings(reads_max=reads_max),
            links=self.links,
            ids=count(1),
            spaces={SPACE: self.space, OTHER_SPACE: self.other},
            parked=self.parked,
        )

    def _follower(self, number: LogSpaceId) -> IndexFollower:
        space = IndexFollower(number, facts=Facts(0), horizon=Horizon())
        space.replicas = STORAGE
        space.choose(S1)
        return space

    def fails(self, request: int, error: BokilogError, now_s: float = 0.0) -> list[Effect]:
        passed = self.passed.take(request)
        assert passed is not None
        message = RequestFailed(request, to_wire(error), START)
        return self.passed.ask_another(message, passed, error, now_s)


def asked(request: int, node: NodeId, **more: object) -> list[Effect]:
    return [Send(node, read(77)._replace(request=request, **more))]  # type: ignore[arg-type]


def test_equal_numbers_of_two_clients_go_out_under_different_ones() -> None:
    rig = Rig()
    assert rig.passed.pass_on(rig.space, CLIENT, read(77), 0.0) == asked(1, S1)
    assert rig.passed.pass_on(rig.space, 2, read(77), 0.0) == asked(2, S1)
    state = BookState(77, SPACE, BOOK, START, linearizable=False)
    sent = Send(S1, state._replace(request=3))
    assert rig.passed.pass_on(rig.space, CLIENT, state, 0.0) == [sent]
    assert rig.passed.count == 3


def test_reads_that_wait_here_count_as_waiting_too() -> None:
    rig = Rig(reads_max=2)
    rig.parked.append(1)
    assert rig.passed.pass_on(rig.space, CLIENT, read(77), 0.0) == asked(1, S1)
    error = to_wire(Overloaded(EngineSettings().overloaded_retry_s, "the read"))
    refused = Send(CLIENT, RequestFailed(78, error, START))
    assert rig.passed.pass_on(rig.space, CLIENT, read(78), 0.0) == [refused]


def test_a_question_without_a_replica_waits_for_one() -> None:
    rig = Rig()
    rig.space.choose(None)
    assert rig.passed.pass_on(rig.space, CLIENT, read(77), 0.0) == []
    rig.space.choose(S2)
    assert rig.passed.ask_anew(rig.space, 0.0) == asked(1, S2)


def test_only_questions_of_the_log_space_are_asked_anew() -> None:
    rig = Rig()
    rig.passed.pass_on(rig.other, CLIENT, read(77)._replace(space=OTHER_SPACE), 0.0)
    assert rig.passed.ask_anew(rig.space, 0.0) == []


def test_what_was_waited_already_counts_when_it_is_asked_anew() -> None:
    rig = Rig()
    rig.passed.pass_on(rig.space, CLIENT, read(77, wait_ms=500), 1.0)
    assert rig.passed.ask_anew(rig.space, 1.25) == asked(1, S1, wait_ms=250)
    assert rig.passed.ask_anew(rig.space, 9.0) == asked(1, S1, wait_ms=0)


def test_p33_each_replica_is_asked_once_and_then_the_client_is_told() -> None:
    rig = Rig()
    rig.passed.pass_on(rig.space, CLIENT, read(77), 0.0)
    assert rig.fails(1, DataLost(5)) == asked(1, S2)
    assert rig.fails(1, DataLost(5)) == asked(1, S3)
    assert rig.fails(1, DataLost(5)) == [
        Send(CLIENT, RequestFailed(77, to_wire(DataLost(5)), START))
    ]
    assert not rig.passed.by_request


def test_p33_nobody_is_told_of_a_loss_while_one_replica_may_have_it_later() -> None:
    rig = Rig()
    rig.links.went_down(S3)
    rig.passed.pass_on(rig.space, CLIENT, read(77), 0.0)
    not_ready = NotReady("it is being rebuilt")
    assert rig.fails(1, not_ready) == asked(1, S2)
    assert rig.fails(1, DataLost(5)) == [Send(CLIENT, RequestFailed(77, to_wire(not_ready), START))]


def test_what_another_replica_was_asked_comes_back_when_that_one_is_gone() -> None:
    rig = Rig()
    rig.passed.pass_on(rig.space, CLIENT, read(77), 0.0)
    rig.fails(1, DataLost(5))
    rig.links.went_down(S2)
    assert rig.passed.move_on(S3, 0.0) == []
    assert rig.passed.move_on(S2, 0.0) == asked(1, S1)


def test_nobody_is_asked_for_a_client_that_is_gone() -> None:
    rig = Rig()
    rig.passed.pass_on(rig.space, CLIENT, read(77), 0.0)
    rig.passed.pass_on(rig.space, 2, read(77), 0.0)
    rig.passed.forget_client(CLIENT)
    assert rig.passed.ask_anew(rig.space, 0.0) == asked(2, S1)


def test_a_storage_node_hears_of_a_wait_that_nobody_waits_for_any_more() -> None:
    rig = Rig()
    waits = read(77)._replace(wait_ms=500)
    rig.passed.pass_on(rig.space, CLIENT, waits, 0.0)
    rig.passed.pass_on(rig.space, 2, waits, 0.0)
    assert rig.passed.cancel(3, 77) == []
    assert rig.passed.cancel(CLIENT, 77) == [Send(S1, CancelRead(SPACE, 1))]
    assert rig.passed.cancel(CLIENT, 77) == []
    assert rig.passed.ask_anew(rig.space, 0.0) == [Send(S1, waits._replace(request=2))]
    rig.passed.take(2)
    assert rig.passed.cancel(2, 77) == [], "it was answered meanwhile"


def test_a_wait_that_another_replica_was_asked_is_cancelled_there() -> None:
    rig = Rig()
    rig.passed.pass_on(rig.space, CLIENT, read(77)._replace(wait_ms=500), 0.0)
    rig.fails(1, DataLost(5))
    assert rig.passed.cancel(CLIENT, 77) == [Send(S2, CancelRead(SPACE, 1))]


def test_a_wait_without_a_storage_node_is_only_forgotten() -> None:
    rig = Rig()
    for node in (S1, S2, S3):
        rig.links.went_down(node)
    rig.space.choose(None)
    rig.passed.pass_on(rig.space, CLIENT, read(77)._replace(wait_ms=500), 0.0)
    assert rig.passed.cancel(CLIENT, 77) == []
    assert not rig.passed.by_request
