"""What callers of appends are told, and what is sent again instead (P23)."""

from __future__ import annotations

import pytest

from bokilog.client import outcomes
from bokilog.client.units import SETTLED
from bokilog.errors import (
    AppendUnknown,
    Closed,
    ConditionFailed,
    KeyReused,
    LocalProtocolError,
    Overloaded,
    TagsEnded,
    UnitMalformed,
)
from bokilog.messages import (
    VERDICT_BOOK_DELETED,
    VERDICT_CONDITION_FAILED,
    VERDICT_DUPLICATE,
    VERDICT_KEY_REUSED,
    VERDICT_TAGS_ENDED,
    VERDICT_VISIBLE,
)
from tests.unit.client.units import Author


@pytest.fixture
def author() -> Author:
    return Author()


def full() -> Overloaded:
    return Overloaded(0.1)


def test_single_records_get_the_seqnums_of_their_places(author: Author) -> None:
    batch = author.batch(*[author.unit(b"x") for _ in range(3)])
    author.told[1].set_result(99)  # it waits no more
    batch.first_seqnum = 10
    outcomes.settle(batch)
    assert author.outcomes == [10, 99, 12]


def test_units_get_the_seqnum_of_their_first_record_but_those_with_a_verdict_to_come(
    author: Author,
) -> None:
    batch = author.batch(author.unit(b"a", b"b"), author.unit(b"c", key="k"), author.unit(b"d"))
    batch.first_seqnum, batch.awaited = 10, {1}
    outcomes.settle(batch)
    assert author.outcomes == [10, None, 13]


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        ([VERDICT_VISIBLE, 12, 0], 12),
        ([VERDICT_DUPLICATE, 4, 1], 4),
        ([VERDICT_CONDITION_FAILED, "t", 3], ConditionFailed),
        ([VERDICT_CONDITION_FAILED, None, 3], ConditionFailed),
        ([VERDICT_KEY_REUSED, 3, "k"], KeyReused),
        ([VERDICT_TAGS_ENDED, "t", 0], TagsEnded),
        ([99, 0, 0], UnitMalformed),
        ([VERDICT_VISIBLE, "not a seqnum", 0], UnitMalformed),
    ],
    ids=repr,
)
def test_a_verdict_is_the_outcome(author: Author, verdict: list[object], outcome: object) -> None:
    batch = author.batch(author.unit(b"x", key="k"))
    batch.awaited = {0}
    assert outcomes.judge(batch, [[0, *verdict]]) == []
    assert author.outcomes == [outcome]
    assert batch.awaited == set()


def test_verdicts_about_no_unit_or_one_that_has_its_outcome_change_nothing(author: Author) -> None:
    batch = author.batch(author.unit(b"x"))
    author.told[0].set_result(5)
    verdicts: list[list[object]] = [[at, VERDICT_VISIBLE, 9, 0] for at in (-1, 0, 1, "0", True)]
    assert outcomes.judge(batch, verdicts) == []
    assert author.outcomes == [5]


def test_a_unit_whose_log_book_is_gone_leaves_the_batch_untold(author: Author) -> None:
    batch = author.batch(author.unit(b"a"), author.unit(b"b"))
    ((route, unit),) = outcomes.judge(batch, [[1, VERDICT_BOOK_DELETED, 0, 0]])
    assert (route, unit.datas, unit.waiter) == (author.route, [b"b"], author.told[1])
    assert batch.waiters[1] is SETTLED
    assert author.outcomes == [None, None]


def test_callers_of_a_frame_that_is_wrong_get_an_error_each(author: Author) -> None:
    batch = author.batch(author.unit(b"a"), author.unit(b"b"))
    error = LocalProtocolError("not like this")
    outcomes.refuse(batch, error)
    assert author.outcomes == [LocalProtocolError] * 2
    whats = [told.what for told in author.told]
    assert len({id(what) for what in (*whats, error)}) == 3, "a traceback belongs to one"
    assert str(whats[0]) == str(error)


def test_p23_only_units_with_keys_are_sent_again_when_nobody_knows(author: Author) -> None:
    batch = author.batch(*[author.unit(b"x", key=key) for key in (None, "k", "l", "m")])
    author.told[2].set_result(1)
    assert outcomes.lose(batch, "cut") == [1, 3]
    assert author.outcomes == [AppendUnknown, None, 1, None]


def test_what_is_with_the_engine_when_its_time_is_over_is_unknown(author: Author) -> None:
    batch = author.batch(author.unit(b"a", deadline_s=1.0), author.unit(b"b"), deadline_s=5.0)
    outcomes.expire_sent(batch, 2.0)
    assert author.outcomes == [AppendUnknown, None]


def test_what_waits_when_its_time_is_over_did_not_happen_unless_it_was_sent_before(
    author: Author,
) -> None:
    batch = author.batch(
        author.unit(b"a", deadline_s=1.0),
        author.unit(b"b", key="k", deadline_s=1.0, sent_before=True),
        author.unit(b"c"),
        deadline_s=5.0,
    )
    left = outcomes.expire_unsent(batch, 2.0, full)
    assert author.outcomes == [Overloaded, AppendUnknown, None]
    assert left is not None and left.payload == [b"c"]
    assert outcomes.expire_unsent(left, 3.0, full) is left, "nothing is due"
    assert outcomes.expire_unsent(left, 5.0, full) is None


def test_a_unit_that_waits_for_its_log_book_ends_as_one_in_a_batch_does(author: Author) -> None:
    units = [author.unit(b"a"), author.unit(b"b", key="k", sent_before=True), author.unit(b"c")]
    author.told[2].set_result(1)
    for unit in units:
        outcomes.expire_held(unit, full())
    assert author.outcomes == [Overloaded, AppendUnknown, 1]


def test_the_end_of_the_client_is_definite_for_what_never_left(author: Author) -> None:
    sent = author.batch(author.unit(b"a"))
    unsent = author.batch(author.unit(b"b"), author.unit(b"c", key="k", sent_before=True))
    outcomes.close_sent(sent)
    outcomes.close_unsent(unsent, lambda: Closed("the log"))
    assert author.outcomes == [AppendUnknown, Closed, AppendUnknown]
