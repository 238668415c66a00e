"""Which units are void, and which verdicts on them are kept."""

from __future__ import annotations

import pytest

from bokilog.errors import InvalidTag
from bokilog.messages import (
    VERDICT_CONDITION_FAILED,
    VERDICT_DUPLICATE,
    VERDICT_KEY_REUSED,
    VERDICT_TAGS_ENDED,
    VERDICT_VISIBLE,
)
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.storage_nodes.unit_verdicts import not_derived, verdicts_of
from tests.unit.storage_nodes.folds import (
    FAR,
    Fold,
    U,
    restarted,
)


def test_plain_frames_have_no_verdicts(fold: Fold) -> None:
    outcome = fold.append(U(["a"]), U(["b", None]))
    assert (outcome.verdicts, outcome.void_units) == ([], ())
    assert verdicts_of(fold.index, outcome.frame, 1) == []


def test_p22_units_see_the_units_before_them(fold: Fold) -> None:
    first = [U(["lock"], unless=[("lock", 0)]), U(["lock", "x"], unless=[("lock", 0)])]
    outcomes = fold.cut([first, [U(["lock"], unless=[("lock", 1)])]])
    assert outcomes[0].verdicts == [
        [0, VERDICT_VISIBLE, 1, None],
        [1, VERDICT_CONDITION_FAILED, "lock", 1],
    ]
    assert outcomes[0].void_units == (1,)
    assert outcomes[1].verdicts == [[0, VERDICT_VISIBLE, 4, None]]
    assert fold.visible("lock") == [1, 4]
    assert fold.visible("x") == []  # a void unit is void as a whole
    assert fold.visible() == [1, 4]


def test_p22_trimmed_records_count_for_conditions(fold: Fold) -> None:
    fold.append(U(["a"]))
    fold.trim(FAR)
    fold.index.checkpoint()
    outcome = fold.append(U(["a"], unless=[("a", 0)]))
    assert outcome.verdicts == [[0, VERDICT_CONDITION_FAILED, "a", 1]]
    outcome = fold.append(U(["a"], unless=[(None, 1)]))
    assert outcome.verdicts == [[0, VERDICT_VISIBLE, 3, None]]


def test_p34_conditions_on_impossible_tags_trip_nothing_up(fold: Fold) -> None:
    fold.append(U(["a"]))
    tests = [("", 0), ("x" * 100_000, 0), ("b", -5)]
    outcome = fold.append(U(["a"], unless=tests), U(key="k", horizon_s=2**63))
    assert [verdict[1] for verdict in outcome.verdicts] == [VERDICT_VISIBLE] * 2
    fold.index.checkpoint()


def test_a_key_returns_the_first_span_also_after_a_trim(fold: Fold) -> None:
    fold.append(U(["a", "a"], key="k"))
    fold.trim(FAR)
    fold.index.checkpoint()
    outcome = fold.append(U(["a", "a"], key="k", unless=[("a", 0)]))
    assert outcome.verdicts == [[0, VERDICT_DUPLICATE, 1, 2]]
    assert outcome.void_units == (0,)
    outcome = fold.append(U(["a"], key="k", digest=b"e" * 16))
    assert outcome.verdicts == [[0, VERDICT_KEY_REUSED, 1, "k"]]
    assert fold.append(U(["a"], book=6, key="k")).void_units == ()  # keys belong to a LogBook


def test_a_void_unit_does_not_use_up_its_key(fold: Fold) -> None:
    fold.append(U(["a"]))
    assert fold.append(U(["a"], key="k", unless=[("a", 0)])).void_units == (0,)
    assert fold.append(U(["a"], key="k", unless=[("a", 1)])).void_units == ()


def test_p22_keys_are_forgotten_by_an_entry_at_their_expiry(fold: Fold) -> None:
    fold.append(U(key="k", horizon_s=1), at_ms=2000)
    fold.forget_keys(2999)
    assert fold.append(U(key="k", horizon_s=1)).void_units == (0,)
    fold.forget_keys(3000)
    assert fold.append(U(key="k", horizon_s=1)).void_units == ()


def test_p22_ended_tags_make_units_void(fold: Fold) -> None:
    assert fold.append(U(["$w/1"])).verdicts == [[0, VERDICT_VISIBLE, 1, None]]
    assert isinstance(fold.end_tags("w/"), InvalidTag)
    assert fold.end_tags("$w/") == []
    assert fold.end_tags("$w/1") == []
    outcome = fold.append(U(["$w/1"]), U(["a"]), U(["a"], unless=[("$w/2", 0)]), U([["a", "$w/3"]]))
    ended = [VERDICT_TAGS_ENDED, "$w/", None]
    assert outcome.verdicts == [[0, *ended], [2, *ended], [3, *ended]]
    assert fold.append(U(["$v"]), U(["a"])).verdicts == [[0, VERDICT_VISIBLE, 6, None]]
    assert fold.visible("a") == [3, 7]
    assert fold.visible("$w/1") == [1]  # what was there stays until it is trimmed


def test_p23_verdicts_are_answered_again_after_a_checkpoint(fold: Fold, store: MemoryStore) -> None:
    outcome = fold.append(U(["a"]), U(["a"], unless=[("a", 0)]), U(key="k"))
    assert verdicts_of(fold.index, outcome.frame, 1) == outcome.verdicts
    fold.index.checkpoint()
    assert verdicts_of(restarted(fold, store), outcome.frame, 1) == outcome.verdicts


def test_p23_what_follows_from_a_frame_is_told_again_and_not_kept(fold: Fold) -> None:
    units = [U(["$w/1"]), U(["a"]), U(["$w/2"], unless=[("$w/1", 0)]), U(["$w/3"], key="k")]
    outcome = fold.append(*units)
    assert outcome.verdicts == [
        [0, VERDICT_VISIBLE, 1, None],
        [2, VERDICT_CONDITION_FAILED, "$w/1", 1],
        [3, VERDICT_VISIBLE, 4, None],
    ]
    kept = not_derived(outcome.frame.columns, outcome.verdicts)
    assert kept == outcome.verdicts[1:]
    assert fold.index.key_uses.verdicts(1) == kept
    assert verdicts_of(fold.index, outcome.frame, 1) == outcome.verdicts


def test_a_frame_that_is_not_folded_has_no_verdicts_yet(fold: Fold) -> None:
    frame = fold.append(U()).frame
    with pytest.raises(AssertionError, match="not folded yet"):
        verdicts_of(fold.index, frame, 2)
