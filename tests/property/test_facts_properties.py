"""Facts against a plain sorted list of every record there is."""

from __future__ import annotations

from bisect import bisect_left

from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bokilog.facts import UNKNOWN, Facts, Tail
from bokilog.limits import NO_END

BOOK = 1
TAGS = (None, "a", "b")
SEQNUMS = st.integers(0, 60)


class FactsMachine(RuleBasedStateMachine):
    """One LogBook, a replica that answers reads at its tail, a stream that follows behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.facts = Facts(3000)
        self.records: list[tuple[int, str | None]] = []
        """(seqnum, tag) as the replica has them."""
        self.tail = 1
        self.known_tail = Tail(1)
        self.trims: dict[str | None, int] = {}
        self.followed = False

    def seqnums(self, tag: str | None, start: int, until: int) -> list[int]:
        low = max(self.trims.get(None, 0), self.trims.get(tag, 0), start)
        return [
            seqnum
            for seqnum, own in self.records
            if low <= seqnum < until and (tag is None or own == tag) and not self._gone(seqnum, own)
        ]

    def _gone(self, seqnum: int, tag: str | None) -> bool:
        return tag is not None and seqnum < self.trims.get(tag, 0)

    @rule(tags=st.lists(st.sampled_from(TAGS), max_size=4), gap=st.integers(0, 2))
    def append(self, tags: list[str | None], gap: int) -> None:
        for tag in tags:
            self.records.append((self.tail, tag))
            self.tail += 1
        self.tail += gap

    @rule()
    def stream(self) -> None:
        """Everything since the stream's tail, in one message."""
        if self.followed:
            start = bisect_left(self.records, self.known_tail.seqnum, key=lambda pair: pair[0])
            fresh = self.records[start:]
            if fresh:
                self.facts.extend(BOOK, [pair[0] for pair in fresh], [pair[1] for pair in fresh])
        self.known_tail.seqnum = self.tail

    @rule()
    def follow(self) -> None:
        self.facts.follow(BOOK, self.known_tail)
        self.followed = True

    @rule()
    def unfollow(self) -> None:
        self.facts.unfollow(BOOK)
        self.followed = False

    @rule()
    def hole(self) -> None:
        self.facts.close(BOOK)
        self.known_tail.seqnum = self.tail
        if self.followed:
            self.facts.follow(BOOK, self.known_tail)

    @rule(
        tag=st.sampled_from(TAGS),
        start=SEQNUMS,
        until=st.one_of(SEQNUMS, st.just(NO_END)),
        limit=st.integers(1, 4),
        reverse=st.booleans(),
    )
    def reply(self, tag: str | None, start: int, until: int, limit: int, reverse: bool) -> None:
        """A replica answers a read, and its answer is learned."""
        end = min(until, self.tail)
        found = self.seqnums(tag, start, end)
        if start and start < max(self.trims.get(None, 0), self.trims.get(tag, 0)):
            return
        more = len(found) > limit
        if reverse:
            taken = found[-limit:]
            lo = taken[0] if more else start
            self.facts.learn(BOOK, tag, lo, end, taken, below=start if more else None)
        else:
            taken = found[:limit]
            hi = taken[-1] + 1 if more else end
            self.facts.learn(BOOK, tag, start, hi, taken, above=end if more else None)

    @rule(tag=st.sampled_from(TAGS), until=SEQNUMS)
    def trim(self, tag: str | None, until: int) -> None:
        until = min(until, self.tail)
        self.trims[tag] = max(self.trims.get(tag, 0), until)
        self.facts.trim(BOOK, tag, until)

    @rule(
        tag=st.sampled_from(TAGS),
        start=SEQNUMS,
        until=st.one_of(SEQNUMS, st.just(NO_END)),
        limit=st.integers(1, 4),
        reverse=st.booleans(),
    )
    def ask(self, tag: str | None, start: int, until: int, limit: int, reverse: bool) -> None:
        """Whatever is answered is right, in what is there and in what is not."""
        kept = max(self.trims.get(None, 0), self.trims.get(tag, 0))
        if start and start < kept:
            return
        known = self.facts.range(BOOK, tag, start=start, until=until, limit=limit, reverse=reverse)
        if known is UNKNOWN:
            return
        end = min(until, self.known_tail.seqnum) if known.at_tail else until
        found = self.seqnums(tag, start, end)
        if reverse:
            found.reverse()
        assert list(known.seqnums) == found[:limit]
        assert known.more == (len(found) > limit)
        if known.more:
            assert known.next_seqnum == known.seqnums[-1] + (0 if reverse else 1)

    @rule(tag=st.sampled_from(TAGS), start=SEQNUMS)
    def ask_next(self, tag: str | None, start: int) -> None:
        if start and start < max(self.trims.get(None, 0), self.trims.get(tag, 0)):
            return
        found = self.facts.next(BOOK, tag, start)
        if isinstance(found, int):
            assert found == self.seqnums(tag, start, NO_END)[0]

    @rule(tag=st.sampled_from(TAGS), until=SEQNUMS)
    def ask_prev(self, tag: str | None, until: int) -> None:
        found = self.facts.prev(BOOK, tag, until)
        if isinstance(found, int):
            assert found == self.seqnums(tag, 0, until)[-1]

    @invariant()
    def holds(self) -> None:
        self.facts.check()
        assert self.facts.bytes_used <= 3000 or len(self.facts) == 1


TestFacts = FactsMachine.TestCase
TestFacts.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 12)), max_size=12),
    st.sets(st.integers(0, 65)),
)
@settings(max_examples=50, deadline=None)
def test_whatever_is_learned_in_any_order_is_answered(
    parts: list[tuple[int, int]], everything: set[int]
) -> None:
    facts = Facts(1 << 20)
    covered: set[int] = set()
    for lo, size in parts:
        seqnums = sorted(seqnum for seqnum in everything if lo <= seqnum < lo + size)
        facts.learn(BOOK, "a", lo, lo + size, seqnums)
        covered.update(range(lo, lo + size))
        facts.check()
    for seqnum in range(66):
        found = facts.range(BOOK, "a", start=seqnum, until=seqnum + 1, limit=1)
        if seqnum in covered:
            assert found is not UNKNOWN
            assert list(found.seqnums) == [seqnum] * (seqnum in everything)
        else:
            assert found is UNKNOWN
