"""Tails and proposals: what an engine asks primaries for its clients."""

from bokilog.effects import BatchEnded, Effect, LinkDown, Send, SetTimer, TimerFired
from bokilog.errors import NotPrimary, NotReady, RemoteProtocolError, Trimmed, to_wire
from bokilog.ids import START, NodeId
from bokilog.messages import (
    Answer,
    BookState,
    CancelRead,
    IndexStream,
    Propose,
    Read,
    RequestFailed,
    Tail,
    TailRequest,
)
from bokilog.metalog import Cut, Hold, Proposer, Trim
from tests.unit.functions.engine.world import (
    BOOK,
    CLIENT,
    NUMBER,
    PRIMARY,
    SPACE,
    STORAGE,
    Sim,
    at,
    read,
    reply,
    sends,
    view,
)

S1 = STORAGE[0]
RETRY = SetTimer("requests", 1.0)
TRIM = Trim(0, BOOK, None, 50, Proposer(0, 0))


def started() -> Sim:
    sim = Sim().start()
    sim.do(BatchEnded(0))
    return sim


def decided(*answers: list[object], position: int = 12) -> IndexStream:
    return IndexStream(*(SPACE, at(0), at(position), 100, [], [], [], list(answers), [], []))


def own_proposal(number: int, entry: Trim = TRIM) -> Send:
    own = entry._replace(proposer=Proposer(NUMBER, number))
    return Send(PRIMARY, Propose(number, SPACE, own))


def requests(effects: list[Effect]) -> list[int]:
    return [
        effect.message.request
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, TailRequest)
    ]


# --- P26: tails -----------------------------------------------------------------------------------


def test_p26_one_round_per_tick_serves_all_who_arrived_in_it() -> None:
    sim = started()
    sim.get(CLIENT, TailRequest(5, SPACE))
    sim.get(2, TailRequest(6, SPACE))
    assert sim.do(BatchEnded(0)) == [Send(PRIMARY, TailRequest(1, SPACE)), RETRY]
    assert sim.get(PRIMARY, Tail(1, SPACE, at(9), 77)) == [
        Send(CLIENT, Tail(5, SPACE, at(9), 77)),
        Send(2, Tail(6, SPACE, at(9), 77)),
    ]


def test_p26_who_arrives_later_waits_for_a_round_of_its_own() -> None:
    sim = started()
    sim.get(CLIENT, TailRequest(5, SPACE))
    (first,) = requests(sim.do(BatchEnded(0)))
    sim.get(CLIENT, TailRequest(6, SPACE))
    (second,) = requests(sim.do(BatchEnded(0)))
    assert sim.get(PRIMARY, Tail(first, SPACE, at(9), 77)) == [
        Send(CLIENT, Tail(5, SPACE, at(9), 77))
    ]
    assert sim.get(PRIMARY, Tail(second, SPACE, at(10), 78)) == [
        Send(CLIENT, Tail(6, SPACE, at(10), 78))
    ]


def test_p26_a_linearizable_read_asks_for_the_tail_and_then_reads_at_its_position() -> None:
    sim = started()
    asked = read(5, tag="t", linearizable=True, position=at(3))
    assert sim.get(CLIENT, asked) == []
    (request,) = requests(sim.do(BatchEnded(0)))
    (passed_on,) = sim.get(PRIMARY, Tail(request, SPACE, at(9), 77))
    assert isinstance(passed_on, Send) and isinstance(passed_on.message, Read)
    assert passed_on == Send(
        S1,
        asked._replace(request=passed_on.message.request, linearizable=False, position=at(9)),
    )


def test_a_cancelled_read_does_not_go_on_once_its_tail_is_here() -> None:
    """It would wait for a record of which nobody wants to hear."""
    sim = started()
    sim.get(CLIENT, read(5, tag="t", linearizable=True, wait_ms=60_000))
    sim.get(CLIENT, read(6, tag="t", linearizable=True, wait_ms=60_000))
    sim.get(CLIENT, CancelRead(SPACE, 5))
    (request,) = requests(sim.do(BatchEnded(0)))
    sim.get(CLIENT, CancelRead(SPACE, 6))
    assert sim.get(PRIMARY, Tail(request, SPACE, at(9), 77)) == []
    assert sim.core.stats().reads_waiting == 0


def test_p26_a_linearizable_question_about_a_book_does_the_same() -> None:
    sim = started()
    sim.get(CLIENT, BookState(5, SPACE, BOOK, at(10), True))
    (request,) = requests(sim.do(BatchEnded(0)))
    (passed_on,) = sim.get(PRIMARY, Tail(request, SPACE, at(9), 77))
    assert passed_on == Send(S1, BookState(2, SPACE, BOOK, at(10), False))


def test_a_tail_is_asked_for_again_when_the_primary_comes_back_or_another_takes_over() -> None:
    sim = started()
    sim.get(CLIENT, TailRequest(5, SPACE))
    (request,) = requests(sim.do(BatchEnded(0)))
    sim.do(LinkDown(PRIMARY))
    assert requests(sim.up(PRIMARY)) == [request]
    other = NodeId("sequencer-2")
    sim.up(other)
    effects = sim.install(view(2, end=at(1), primary=other))
    assert Send(other, TailRequest(request, SPACE)) in effects
    assert sim.get(other, Tail(request, SPACE, at(9, 2), 77)) == [
        Send(CLIENT, Tail(5, SPACE, at(9, 2), 77))
    ]


def test_a_primary_that_is_none_any_more_is_asked_again_later() -> None:
    sim = started()
    sim.get(CLIENT, TailRequest(5, SPACE))
    (request,) = requests(sim.do(BatchEnded(0)))
    assert sim.get(PRIMARY, RequestFailed(request, to_wire(NotPrimary()), START)) == []
    assert sim.do(TimerFired("requests")) == [Send(PRIMARY, TailRequest(request, SPACE)), RETRY]


def test_a_primary_that_has_stopped_is_an_answer() -> None:
    sim = started()
    sim.get(CLIENT, TailRequest(5, SPACE))
    sim.get(CLIENT, read(6, linearizable=True))
    (request,) = requests(sim.do(BatchEnded(0)))
    error = to_wire(NotReady("sequencing has stopped"))
    assert sim.get(PRIMARY, RequestFailed(request, error, at(3))) == [
        Send(CLIENT, RequestFailed(5, error, at(3))),
        Send(CLIENT, RequestFailed(6, error, at(3))),
    ]
    assert sim.do(TimerFired("requests")) == []


def test_nobody_is_asked_for_a_client_that_is_gone() -> None:
    sim = started()
    sim.get(CLIENT, TailRequest(5, SPACE))
    (request,) = requests(sim.do(BatchEnded(0)))
    sim.do(LinkDown(CLIENT))
    assert sim.get(PRIMARY, Tail(request, SPACE, at(9), 77)) == []
    assert sim.core.stats().requests_waiting == 0


# --- proposals ------------------------------------------------------------------------------------


def test_a_proposal_is_answered_by_the_fold_under_the_clients_number() -> None:
    sim = started()
    assert sim.get(CLIENT, Propose(5, SPACE, TRIM)) == [own_proposal(1), RETRY]
    assert sim.get(S1, decided([1, [40, "report"], None])) == [
        Send(CLIENT, Answer(5, at(12), [40, "report"]))
    ]
    assert sim.get(S1, decided([1, [40, "report"], None], position=13)) == []


def test_an_error_of_the_fold_is_the_answer() -> None:
    sim = started()
    sim.get(CLIENT, Propose(5, SPACE, Hold(0, BOOK, "report", 3, 1000, Proposer(0, 0))))
    error = to_wire(Trimmed(9))
    assert sim.get(S1, decided([1, None, error])) == [Send(CLIENT, RequestFailed(5, error, at(12)))]


def test_a_trim_is_known_here_as_soon_as_it_is_answered() -> None:
    """Also of a LogBook that is not followed (yet): no level answers below it (P27)."""
    sim = started()
    sim.get(CLIENT, read(9, tag="t", limit=1))
    sim.get(S1, reply(1, [10], position=at(9), tail=90, next_seqnum=60, more=True))
    sim.get(CLIENT, Propose(5, SPACE, TRIM))
    sim.get(S1, decided([2, [50, None], None]))
    assert sim.get(CLIENT, read(9, tag="t", start=10)) == [
        Send(CLIENT, RequestFailed(9, to_wire(Trimmed(50)), START))
    ]


def test_an_entry_that_no_client_may_propose_is_refused() -> None:
    sim = started()
    error = RemoteProtocolError("a client cannot propose Cut")
    assert sim.get(CLIENT, Propose(5, SPACE, Cut(1, 1, ()))) == [
        Send(CLIENT, RequestFailed(5, to_wire(error), START))
    ]


def test_a_log_space_of_no_view_is_refused() -> None:
    error = to_wire(NotReady("log space 1 is in no view known here"))
    for message in (Propose(5, SPACE, TRIM), TailRequest(5, SPACE)):
        assert Sim().get(CLIENT, message) == [Send(CLIENT, RequestFailed(5, error, START))]


def test_proposals_are_repeated_when_the_primary_or_the_index_replica_changes() -> None:
    sim = Sim().start(*STORAGE[:2])
    sim.do(BatchEnded(0))
    sim.get(CLIENT, Propose(5, SPACE, TRIM))
    sim.do(LinkDown(PRIMARY))
    assert own_proposal(1) in sim.up(PRIMARY)
    chosen = sim.core.following.spaces[SPACE].chosen
    assert sim.do(LinkDown(chosen)) == [own_proposal(1)]
    assert own_proposal(1) in sim.install(view(2, end=at(1), replicas=STORAGE[:2]))
    assert sim.do(TimerFired("requests")) == [own_proposal(1), RETRY]
    assert sim.core.stats().requests_repeated == 4


def test_proposals_wait_for_a_primary() -> None:
    sim = started()
    sim.do(LinkDown(PRIMARY))
    assert sim.get(CLIENT, Propose(5, SPACE, TRIM)) == [RETRY]
    assert own_proposal(1) in sends(sim.up(PRIMARY))


def test_the_stream_of_a_replica_that_is_not_followed_answers_nothing() -> None:
    sim = started()
    sim.get(CLIENT, Propose(5, SPACE, TRIM))
    assert sim.get(STORAGE[1], decided([1, [50, None], None])) == []
    assert sim.core.stats().ignored == 1
