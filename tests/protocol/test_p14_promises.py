"""P14: after a promise no acknowledgement of that term leaves, and its answer holds all there were.

1. A backup has an entry whose sync is not over. A controller seals it: the answer is without it.
2. The sync ends, and the backup tells the primary, which nobody has reached yet.

Were that told, the primary would publish an entry that is in nobody's answer.
"""

from __future__ import annotations

from bokilog.ids import Term
from bokilog.messages import (
    ConfirmTerm,
    Message,
    RunsHeld,
    Seal,
    Sealed,
    TermChanged,
    TermConfirmed,
)
from tests.unit.sequencer.trio import DRIVER, S1, S2, S3, SEQUENCERS, SPACE, Trio, started


def answer(trio: Trio) -> Sealed:
    (found,) = trio.sent_to(DRIVER, Sealed)[-1:]
    assert isinstance(found, Sealed)
    return found


def fresh() -> Trio:
    """Nothing was asked of anybody about the present term."""
    trio = started()
    trio.received.pop(DRIVER)
    return trio


def waiting(trio: Trio, kind: type[Message]) -> list[Message]:
    return [each for queue in trio.queues.values() for each in queue if isinstance(each, kind)]


def test_p14_the_answer_waits_for_the_promise_to_be_synced() -> None:
    trio = fresh()
    trio.seal(S2)
    assert trio.sent_to(DRIVER, Sealed) == []
    trio.sync(S2)
    sealed = answer(trio)
    assert sealed.term == trio.view.term
    assert sealed.disk_id == trio.disks[S2].id
    assert sealed.incarnation == trio.processes[S2].incarnation
    assert [row[:4] for row in sealed.ends] == [[SPACE, 1, 3, 2]]


def test_p14_a_sync_that_ends_after_the_promise_is_not_acknowledged() -> None:
    trio = fresh()
    trio.order(S1)
    trio.sync(S1)
    while trio.deliver(S1, S2):
        pass
    trio.seal(S2)
    trio.processes[S2].promises, promises = [], trio.processes[S2].promises
    trio.sync(S2)
    assert promises == [trio.view.term]
    assert waiting(trio, RunsHeld) == []


def test_p14_nothing_is_acknowledged_while_the_promise_is_being_stored() -> None:
    trio = fresh()
    trio.seal(S2)
    trio.order(S1)
    trio.isolate(S3)
    trio.sync(S1)
    while trio.deliver(S1, S2):
        pass
    trio.sync(S2)
    assert waiting(trio, RunsHeld) == []
    assert max(trio.published) == 3


def test_p14_a_sealed_primary_publishes_nothing_that_is_acknowledged_later() -> None:
    trio = fresh()
    trio.order(S1)
    trio.seal(S1)
    trio.settle()
    assert max(trio.published) == 3
    assert answer(trio).ends[0][2] == 3, "as of the moment when the promise was stored"


def test_p14_an_answer_is_given_again_and_may_be_longer() -> None:
    trio = fresh()
    trio.order(S1)
    trio.seal(S1)
    trio.settle()
    trio.seal(S1)
    assert len(trio.sent_to(DRIVER, Sealed)) == 2
    assert answer(trio).ends[0][2] == 4


def test_p14_a_promise_that_could_not_be_stored_is_stored_when_asked_again() -> None:
    trio = fresh()
    trio.seal(S2)
    trio.processes[S2].promises.clear()  # the disk was full
    trio.seal(S2)
    trio.sync(S2)
    assert len(trio.sent_to(DRIVER, Sealed)) == 1


def test_p14_a_promise_outlives_its_process() -> None:
    trio = fresh()
    trio.seal(S2)
    trio.sync(S2)
    trio.restart(S2)
    trio.order(S1)
    trio.isolate(S3)
    trio.settle()
    assert trio.count(S2) == 3
    assert max(trio.published) == 3
    trio.seal(S2)
    assert answer(trio).ends[0][2] == 3, "at once: it is stored"


def test_p14_a_sealed_backup_confirms_nothing() -> None:
    trio = fresh()
    trio.seal(S2)
    trio.tell(S2, ConfirmTerm(SPACE, trio.view.term, 1), source=S1)
    assert waiting(trio, TermConfirmed) == []


def test_p14_a_disk_that_the_view_does_not_name_holds_but_tells_nothing() -> None:
    trio = fresh()
    trio.crash(S2, wipe=True)
    trio.start(S2)
    trio.settle()
    assert trio.count(S2) == 3, "it catches up"
    trio.isolate(S3)
    trio.order(S1)
    trio.settle()
    assert trio.count(S2) == 4
    assert max(trio.published) == 3
    trio.seal(S2)
    trio.settle()
    assert trio.answers() == {}, "whoever counts votes knows it by its disk id"


def test_p14_its_vote_comes_with_a_view_that_names_its_disk() -> None:
    trio = started()
    trio.crash(S2, wipe=True)
    trio.start(S2)
    trio.change(S1, among=(S1, S3))
    trio.load_views(S2)
    trio.isolate(S3)
    trio.settle()
    trio.order(S1)
    trio.settle()
    assert trio.count(S2) == max(trio.published) == trio.count(S1)


def test_p14_a_term_that_is_not_known_yet_is_sealed_once_its_view_is_loaded() -> None:
    """What lies past the last term's end must be gone before it says what it holds (P13)."""
    trio = started()
    trio.isolate(S1)
    trio.order(S1)
    trio.sync(S1)
    assert trio.count(S1) == 4, "an entry that nobody else has"
    trio.change(S2, among=(S2, S3))
    assert trio.core(S1).view.term == 1
    trio.seal(S1)
    trio.sync(S1)
    assert trio.core(S1).view.term == 2
    assert answer(trio).ends[0][:3] == [SPACE, 1, 3]


def test_p14_about_a_term_that_is_over_its_sender_learns_the_present_one() -> None:
    trio = started()
    trio.change(S2)
    trio.received.pop(DRIVER)
    trio.tell(S3, Seal(1), source=DRIVER)
    assert trio.received[DRIVER] == [(S3, TermChanged(Term(2)))]
    assert {trio.core(node).view.term for node in SEQUENCERS} == {2}
