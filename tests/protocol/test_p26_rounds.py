"""P26 with several sequencers: a tail is told once a majority confirmed that the term goes on.

1. A primary is cut off; the others are sealed, and the next one publishes an entry.
2. A reader who knows of the entry asks the old primary, which it can still reach, for the tail.

Were that one to answer by itself, the reader would not find the entry.
"""

from __future__ import annotations

from bokilog.messages import ConfirmTerm, RequestFailed, Tail, TailRequest
from bokilog.sequencer.replication import ROUNDS_MAX
from tests.unit.sequencer.trio import S1, S2, S3, SPACE, Trio, started

READER = "reader"


def ask(trio: Trio, *requests: int) -> None:
    trio.tell(S1, *(TailRequest(request, SPACE) for request in requests), source=READER)


def told(trio: Trio) -> list[tuple[int, int]]:
    """Requests that were answered, with the count of entries."""
    tails = trio.sent_to(READER, Tail)
    return [(each.request, each.position.count) for each in tails if isinstance(each, Tail)]


def test_p26_a_tail_waits_for_one_backup_of_two() -> None:
    trio = started()
    ask(trio, 7)
    assert told(trio) == []
    trio.deliver(S1, S3)
    trio.deliver(S3, S1)
    assert told(trio) == [(7, 3)]


def test_p26_it_tells_what_is_published_when_it_is_answered() -> None:
    trio = started()
    ask(trio, 7)
    trio.order(S1)
    trio.settle()
    assert told(trio)[0][0] == 7
    ask(trio, 8)
    trio.settle()
    assert told(trio)[1] == (8, 4)


def test_p26_who_came_after_the_round_began_waits_for_the_next() -> None:
    trio = started()
    ask(trio, 7)
    trio.deliver(S1, S2)
    ask(trio, 8)
    trio.deliver(S2, S1)
    assert told(trio) == [(7, 3)]
    trio.settle()
    assert told(trio) == [(7, 3), (8, 3)]


def test_p26_all_who_came_in_a_tick_share_a_round() -> None:
    trio = started()
    ask(trio, 7, 8, 9)
    rounds = [each for each in trio.queues[S1, S2] if isinstance(each, ConfirmTerm)]
    assert len(rounds) == 1
    trio.settle()
    assert [request for request, _ in told(trio)] == [7, 8, 9]


def test_p26_a_primary_that_is_cut_off_answers_nobody() -> None:
    trio = started()
    trio.isolate(S1)
    ask(trio, 7)
    trio.change(S2, among=(S2, S3))
    trio.order(S2)
    trio.settle()
    assert told(trio) == []
    trio.load_views(S1)
    (refused,) = trio.sent_to(READER, RequestFailed)
    assert isinstance(refused, RequestFailed)
    assert refused.request == 7


def test_p26_one_sealed_backup_does_not_hold_readers_up_but_two_do() -> None:
    trio = started()
    trio.seal(S2)
    ask(trio, 7)
    trio.settle()
    assert told(trio) == [(7, 3)]
    trio.seal(S3)
    ask(trio, 8)
    trio.settle()
    assert told(trio) == [(7, 3)]


def test_p26_a_round_that_was_lost_with_a_link_is_asked_again() -> None:
    trio = started()
    trio.isolate(S3)
    ask(trio, 7)
    trio.cut(S1, S2)
    trio.link(S1, S2)
    trio.settle()
    assert told(trio) == [(7, 3)]


def test_p26_who_asks_again_while_no_majority_answers_takes_no_more_room() -> None:
    """The backups are away for hours, and an engine asks again every so often."""
    trio = started()
    trio.isolate(S1)
    primary = trio.processes[S1].core.primaries[SPACE]
    for _ in range(3 * ROUNDS_MAX):
        ask(trio, 7, 8)
    assert len(primary._tails) == 2
