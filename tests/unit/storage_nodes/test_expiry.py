"""Which records retention lets go, who proposes it, and how much work a look is (P25)."""

from collections.abc import Mapping, Sequence

from hypothesis import given, settings, strategies as st

from bokilog.metalog import Trim
from bokilog.storage_nodes.books import Retention
from bokilog.storage_nodes.expiry import (
    BOOKS_MAX,
    GAP_MIN_S,
    GRANULES,
    RECORDS_MAX,
    SERVICE,
    STAND_IN_S,
    Expiry,
    Sizes,
)

BOOK = 5


class FakeFold:
    """One LogBook of records: seqnum n was ordered at n * 1000 ms."""

    def __init__(self, retention: Retention, records: int) -> None:
        self.retained: Mapping[int, Retention] = {BOOK: retention}
        self.tail = records + 1
        self.timestamp_ms = records * 1000
        self.trimmed = 0
        self.held: int | None = None

    def trim_until(self, book: int, tag: str | None = None) -> int:
        return self.trimmed

    def trim_reach(self, book: int, until: int, *, now_ms: int) -> int:
        lowest = self.tail if self.held is None else self.held
        return max(self.trimmed, min(until, self.tail, lowest))

    def seqnum_at(self, timestamp_ms: int) -> int:
        return min(self.tail, max(1, -(-timestamp_ms // 1000)))

    def seqnums(
        self,
        book: int,
        tag: str | None,
        start: int,
        until: int,
        *,
        limit: int,
        reverse: bool = False,
    ) -> list[int]:
        return list(range(max(1, start), until))[:limit]


class FakeLengths:
    def __init__(self, length: int = 10, at_once: int = RECORDS_MAX) -> None:
        self.length = length
        self.at_once = at_once
        self.asked = 0

    def lengths(self, seqnums: Sequence[int]) -> list[int]:
        self.asked += len(seqnums[: self.at_once])
        return [self.length] * len(seqnums[: self.at_once])


def trim(until: int) -> Trim:
    return Trim(0, BOOK, None, until, SERVICE)


def test_age_is_told_by_cut_timestamps() -> None:
    fold = FakeFold(Retention(retention_ms=4000), 10)
    assert Expiry().look(fold, FakeLengths(), rank=0, now_s=1e9).trims == [trim(6)]


def test_p10_time_goes_on_by_the_monotonic_clock_while_nothing_is_ordered() -> None:
    fold, expiry = FakeFold(Retention(retention_ms=4000), 10), Expiry()
    fold.trimmed = 6
    assert expiry.look(fold, FakeLengths(), rank=0, now_s=50.0).trims == []
    assert expiry.look(fold, FakeLengths(), rank=0, now_s=52.0).trims == [trim(8)]
    fold.timestamp_ms, fold.tail, fold.trimmed = 11_000, 12, 8
    # A new entry sets the time: what passed here since the last one counts no more.
    assert expiry.look(fold, FakeLengths(), rank=0, now_s=54.0).trims == []


def test_the_newest_records_that_have_the_bytes_stay() -> None:
    fold = FakeFold(Retention(retention_bytes=25), 10)
    assert Expiry().look(fold, FakeLengths(), rank=0, now_s=0.0).trims == [trim(8)]


def test_p25_a_hold_keeps_back_and_nothing_is_proposed_in_vain() -> None:
    fold, expiry = FakeFold(Retention(retention_bytes=25), 10), Expiry()
    fold.held = 4
    assert expiry.look(fold, FakeLengths(), rank=0, now_s=0.0).trims == [trim(4)]
    fold.trimmed = 4
    assert expiry.look(fold, FakeLengths(), rank=0, now_s=9.0).trims == []


def test_a_proposal_is_repeated_after_a_while_only() -> None:
    fold, expiry = FakeFold(Retention(retention_bytes=25), 10), Expiry()
    looks = [
        expiry.look(fold, FakeLengths(), rank=0, now_s=now_s).trims
        for now_s in (0.0, GAP_MIN_S / 2, GAP_MIN_S)
    ]
    assert looks == [[trim(8)], [], [trim(8)]]


def test_the_next_replica_stands_in_for_a_dead_one() -> None:
    fold, expiry = FakeFold(Retention(retention_bytes=25), 10), Expiry()
    turn_s = GAP_MIN_S + STAND_IN_S
    assert expiry.look(fold, FakeLengths(), rank=1, now_s=0.0).trims == []
    assert expiry.look(fold, FakeLengths(), rank=1, now_s=turn_s - 0.1).trims == []
    assert expiry.look(fold, FakeLengths(), rank=1, now_s=turn_s).trims == [trim(8)]


def test_the_next_replica_is_quiet_while_the_first_one_trims() -> None:
    fold, expiry = FakeFold(Retention(retention_bytes=25), 10), Expiry()
    for second in range(100):
        now_s = float(second)
        assert expiry.look(fold, FakeLengths(), rank=1, now_s=now_s).trims == []
        fold.trimmed = 8 + second  # by the first, which is a look ahead
        fold.tail += 1
        fold.timestamp_ms += 1000
        assert expiry.look(fold, FakeLengths(), rank=1, now_s=now_s + 0.5).trims == []


def test_a_look_reads_a_bounded_number_of_sizes() -> None:
    fold, expiry = FakeFold(Retention(retention_bytes=25), 10_000), Expiry()
    lengths = FakeLengths(at_once=100)
    assert expiry.look(fold, lengths, rank=0, now_s=0.0) == (
        [trim(98)],
        True,
    )
    assert lengths.asked == 100
    while expiry.look(fold, lengths, rank=0, now_s=1e6).behind:
        pass
    assert lengths.asked == 10_000


def test_a_look_at_very_many_logbooks_takes_turns() -> None:
    looked_at: set[int] = set()

    class ManyBooks(FakeFold):
        def seqnum_at(self, timestamp_ms: int) -> int:
            return 0

        def trim_until(self, book: int, tag: str | None = None) -> int:
            looked_at.add(book)
            return 0

    fold = ManyBooks(Retention(retention_ms=1), 10)
    fold.retained = {number: Retention(retention_ms=1) for number in range(3 * BOOKS_MAX)}
    expiry = Expiry()
    for turn in range(1, 4):
        expiry.look(fold, FakeLengths(), rank=0, now_s=0.0)
        assert len(looked_at) == turn * BOOKS_MAX


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 2000), min_size=1, max_size=80),
    retained=st.integers(1, 20_000),
    trims=st.lists(st.integers(0, 80), max_size=3),
)
def test_p25_never_fewer_bytes_than_asked_for_stay(
    lengths: list[int], retained: int, trims: list[int]
) -> None:
    sizes, trimmed = Sizes(retained, 1), 1
    for place, length in enumerate(lengths):
        sizes.add([place + 1], [length])
        sizes.cursor = place + 2
        if trims and place % 20 == 0:
            until = min(trims.pop(), sizes.cursor)
            sizes.forget_below(until)
            trimmed = max(trimmed, until)
    kept = sum(lengths[max(0, sizes.due - 1) :])
    assert sizes.due <= 1 or kept >= retained
    largest = max(lengths)
    kept = sum(lengths[max(sizes.due, trimmed) - 1 :])
    assert kept <= retained + retained // GRANULES + 1 + 2 * largest or not sizes.due
