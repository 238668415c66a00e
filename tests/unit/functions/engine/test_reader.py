"""Reads: from facts and cached bytes, else from a storage node."""

from __future__ import annotations

from bokilog.columns import Tags
from bokilog.effects import BatchEnded, CancelTimer, Effect, LinkDown, Send, SetTimer, TimerFired
from bokilog.errors import (
    BokilogError,
    CorruptRecord,
    DataLost,
    NotReady,
    Overloaded,
    Trimmed,
    to_wire,
)
from bokilog.ids import START, NodeId, Position
from bokilog.messages import (
    Answer,
    BookState,
    CancelRead,
    FollowIndex,
    IndexStream,
    Read,
    ReadReply,
    RequestFailed,
    SeqnumAt,
    SetAux,
    Tail,
    TailRequest,
)
from tests.unit.functions.engine.world import (
    BOOK,
    CLIENT,
    NUMBER,
    PRIMARY,
    SPACE,
    STORAGE,
    Sim,
    append,
    at,
    cut,
    engine,
    read,
    reply,
    run,
    sends,
)

S1 = STORAGE[0]


def stream(
    position: int,
    *,
    since: int,
    tail: int,
    entries: list[list[object]] | None = None,
    trims: list[list[object]] | None = None,
    following: list[int] | None = None,
    deleted: list[int] | None = None,
) -> IndexStream:
    return IndexStream(
        *(SPACE, at(since), at(position), tail, entries or [], trims or [], [], []),
        *(following or [], deleted or []),
    )


def entry(first: int, *tags: Tags, books: int | list[int] = BOOK) -> list[object]:
    return [first, books, None, list(tags), [], 1000]


def own(number: int, asked: Read, to: NodeId | None = S1) -> Send:
    """A read as it is passed on."""
    return Send(to, asked._replace(request=number))


def request_of(effects: list[Effect]) -> int:
    (effect,) = effects
    assert isinstance(effect, Send) and isinstance(effect.message, Read)
    return effect.message.request


def following(*replicas: NodeId, tail: int = 100) -> Sim:
    """An engine that follows BOOK at position 10 and knows tag "t" up to the tail: 20, 40, 60."""
    sim = Sim().start(*replicas or (S1,))
    request = request_of(sim.get(CLIENT, read(tag="t")))
    sim.do(BatchEnded(0))
    chosen = sim.core.following.spaces[SPACE].chosen
    sim.get(chosen, reply(request, [20, 40, 60], position=at(10), tail=tail, next_seqnum=tail))
    sim.get(chosen, stream(10, since=10, tail=tail, following=[BOOK]))
    return sim


def answered(effects: list[Effect]) -> ReadReply:
    (effect,) = effects
    assert isinstance(effect, Send) and isinstance(effect.message, ReadReply), effect
    assert effect.to == CLIENT
    return effect.message


def failed(request: int, error: BokilogError, position: Position = START) -> Send:
    return Send(CLIENT, RequestFailed(request, to_wire(error), position))


# --- passing on -----------------------------------------------------------------------------------


def test_a_read_of_something_unknown_goes_to_the_index_replica_and_comes_back() -> None:
    sim = Sim().start()
    asked = read(77, tag="t", position=at(3))
    assert sim.get(CLIENT, asked) == [own(1, asked)]
    found = reply(1, [20], position=at(5), tail=30, next_seqnum=30)
    assert sim.get(S1, found) == [Send(CLIENT, found._replace(request=77))]


def test_the_book_of_a_read_is_followed_from_the_end_of_the_tick() -> None:
    sim = Sim().start()
    assert sends(sim.do(BatchEnded(0))) == [Send(S1, FollowIndex(SPACE, NUMBER, [], []))]
    sim.get(CLIENT, read(1, tag="t"))
    sim.get(CLIENT, read(2, tag="u", book=8))
    assert sends(sim.do(BatchEnded(0))) == [Send(S1, FollowIndex(SPACE, NUMBER, [BOOK, 8], []))]
    sim.get(CLIENT, read(3, tag="v"))
    assert sim.do(BatchEnded(0)) == []


def test_the_book_read_longest_ago_is_dropped_when_too_many_are_followed() -> None:
    sim = Sim(engine(followed_books_max=2)).start()
    for book in (7, 8, 7, 9):
        sim.get(CLIENT, read(tag="t", book=book))
    assert sends(sim.do(BatchEnded(0))) == [Send(S1, FollowIndex(SPACE, NUMBER, [7, 9], []))]


def test_a_book_dropped_and_wanted_again_is_followed_from_its_last_naming_on() -> None:
    """What the replica orders while it thinks of the request in between is not streamed."""
    sim = Sim(engine(followed_books_max=1)).start(S1)
    for book in (BOOK, 8, BOOK):
        sim.get(CLIENT, read(tag="t", book=book))
        sim.do(BatchEnded(0))
    following = sim.core.following.spaces[SPACE].following
    sim.get(S1, stream(10, since=10, tail=30, following=[BOOK]))
    sim.get(S1, stream(10, since=10, tail=30, following=[8]))
    assert following == set()
    sim.get(S1, stream(11, since=10, tail=31))  # a record of BOOK, which was not wanted just then
    sim.get(S1, stream(11, since=11, tail=31, following=[BOOK]))
    assert following == {BOOK}


def test_a_naming_from_before_a_book_was_dropped_means_nothing_once_it_is_wanted_again() -> None:
    """The replica has heard of the drop by then, and streams nothing of it until told again."""
    sim = Sim(engine(followed_books_max=1)).start(S1)
    for book in (BOOK, 8):
        sim.get(CLIENT, read(tag="t", book=book))
        sim.do(BatchEnded(0))
    following = sim.core.following.spaces[SPACE].following
    sim.get(CLIENT, read(tag="t", book=BOOK))  # wanted again, and the replica is not told yet
    sim.get(S1, stream(10, since=10, tail=30, following=[BOOK]))
    assert following == set()
    sim.do(BatchEnded(0))
    sim.get(S1, stream(11, since=10, tail=31, following=[8]))
    sim.get(S1, stream(11, since=11, tail=31, following=[BOOK]))
    assert following == {BOOK}


def test_without_facts_every_read_is_passed_on_and_nothing_is_followed_or_kept() -> None:
    sim = Sim(engine(facts_bytes=0, cache_bytes=0)).start()
    sim.do(BatchEnded(0))
    for number in (1, 2):
        asked = read(5, tag="t", wait_ms=100)
        assert sim.get(CLIENT, asked) == [own(number, asked)]
        found = reply(number, [20], position=at(5), tail=30, next_seqnum=30)
        assert sim.get(S1, found) == [Send(CLIENT, found._replace(request=5))]
    assert sim.do(BatchEnded(0)) == []
    assert sim.core.stats().facts_bytes == sim.core.stats().cache_bytes == 0


def test_questions_whose_answer_nobody_keeps_are_passed_on() -> None:
    sim = Sim().start()
    asked = SeqnumAt(5, SPACE, 1000, at(2))
    assert sim.get(CLIENT, asked) == [Send(S1, asked._replace(request=1))]
    assert sim.get(S1, Answer(1, at(3), [20])) == [Send(CLIENT, Answer(5, at(3), [20]))]
    state = BookState(6, SPACE, BOOK, at(2), False)
    assert sim.get(CLIENT, state) == [Send(S1, state._replace(request=2))]
    assert sim.get(S1, Answer(2, at(3), [0, 1])) == [Send(CLIENT, Answer(6, at(3), [0, 1]))]


def test_an_error_of_the_storage_node_reaches_the_client() -> None:
    sim = Sim().start()
    sim.get(CLIENT, read(5, start=10, until=11))
    lost = RequestFailed(1, to_wire(CorruptRecord(10)), at(4))
    assert sim.get(S1, lost) == [failed(5, CorruptRecord(10), at(4))]


def test_p33_a_read_goes_to_every_replica_before_its_client_is_told_that_none_has_it() -> None:
    """One that was wiped may have it later: then it is not called lost."""
    sim = Sim().start(*STORAGE)
    asked = sim.get(CLIENT, read(1, tag="t"))
    nodes = []
    for error in (NotReady("it is rebuilt"), DataLost(5)):
        (sent,) = [effect for effect in asked if isinstance(effect, Send)]
        nodes.append(sent.to)
        request = request_of(asked)
        asked = sim.get(sent.to, RequestFailed(request, to_wire(error), START))
    (sent,) = [effect for effect in asked if isinstance(effect, Send)]
    assert {*nodes, sent.to} == set(STORAGE)
    error_there = RequestFailed(request_of(asked), to_wire(CorruptRecord(5)), START)
    assert sim.get(sent.to, error_there) == [failed(1, NotReady("it is rebuilt"))]


def test_p33_a_read_at_another_replica_comes_back_when_that_one_is_gone() -> None:
    sim = Sim().start(*STORAGE)
    first = sim.get(CLIENT, read(1, tag="t"))
    (sent,) = [effect for effect in first if isinstance(effect, Send)]
    chosen = sent.to
    error = RequestFailed(request_of(first), to_wire(NotReady("it is rebuilt")), START)
    (other,) = [each for each in sim.get(chosen, error) if isinstance(each, Send)]
    again = [each for each in sim.do(LinkDown(other.to)) if isinstance(each, Send)]
    assert [each.to for each in again if isinstance(each.message, Read)] == [chosen]


def test_reads_are_bounded() -> None:
    sim = Sim(engine(reads_max=1)).start()
    sim.get(CLIENT, read(1))
    assert sim.get(CLIENT, read(2)) == [failed(2, Overloaded(0.02, "the read"))]


def test_a_log_space_of_no_view_is_refused() -> None:
    error = NotReady("log space 1 is in no view known here")
    assert Sim().get(CLIENT, read(3)) == [failed(3, error)]


def test_a_reply_for_a_client_that_is_gone_is_dropped_and_counted() -> None:
    sim = Sim().start()
    sim.get(CLIENT, read(5))
    sim.do(LinkDown(CLIENT))
    assert sim.get(S1, reply(1, [], position=at(1), tail=1, next_seqnum=1)) == []
    assert sim.core.stats().ignored == 1


# --- answering from facts -------------------------------------------------------------------------


def test_a_read_that_was_answered_once_is_answered_here() -> None:
    sim = Sim().start()
    request = request_of(sim.get(CLIENT, read(1, tag="t", limit=2)))
    found = reply(request, [20, 40], position=at(10), tail=100, next_seqnum=41, more=True)
    sim.get(S1, found)
    # At a position that is not known here: a record inside a fact needs none (P27).
    again = sim.get(CLIENT, read(2, tag="t", limit=2, position=at(99)))
    assert answered(again) == found._replace(request=2)
    assert sim.core.stats().reads_local == 1


def test_the_end_of_a_followed_book_is_answered_at_the_streams_position() -> None:
    sim = following()
    got = answered(sim.get(CLIENT, read(1, tag="t", start=41, position=at(10))))
    assert got == reply(1, [60], position=at(10), tail=100, next_seqnum=100)
    nothing = answered(sim.get(CLIENT, read(1, tag="t", start=61)))
    assert nothing == reply(1, [], position=at(10), tail=100, next_seqnum=100)
    newest = answered(sim.get(CLIENT, read(1, tag="t", limit=1, reverse=True)))
    assert newest == reply(1, [60], position=at(10), tail=100, next_seqnum=60, more=True)


def test_p27_none_and_newest_need_the_position_of_the_token() -> None:
    sim = following()
    for asked in (read(1, tag="t", start=61), read(1, tag="t", limit=1, reverse=True)):
        passed_on = sim.get(CLIENT, asked._replace(position=at(11)))
        assert passed_on == [own(request_of(passed_on), asked._replace(position=at(11)))]


def test_the_stream_extends_what_is_known() -> None:
    sim = following()
    news = [entry(100, "t", "u"), entry(102, "u"), entry(103, ["u", "t"], "t", books=[8, BOOK])]
    sim.get(S1, stream(12, since=10, tail=105, entries=news))
    fetch = sim.get(CLIENT, read(1, tag="t", start=61))
    # 103 belongs to another LogBook. The seqnums are known; the bytes are fetched.
    assert fetch == [
        own(
            request_of(fetch),
            read(tag="t", start=100, until=105, limit=2, position=at(12)),
        )
    ]
    found = reply(request_of(fetch), [100, 104], position=at(12), tail=105, next_seqnum=105)
    assert answered(sim.get(S1, found)) == reply(
        1, [100, 104], position=at(12), tail=105, next_seqnum=105
    )
    assert answered(sim.get(CLIENT, read(2, tag="t", start=61))).seqnums == [100, 104]


def test_void_units_are_no_facts() -> None:
    sim = following()
    news: list[object] = [100, BOOK, [1, 2, 1], ["t", "t", "t", "t"], [1], 1000]
    sim.get(S1, stream(12, since=10, tail=104, entries=[news]))
    fetch = sim.get(CLIENT, read(1, tag="t", start=61))
    (effect,) = fetch
    assert isinstance(effect, Send) and isinstance(effect.message, Read)
    assert (effect.message.start, effect.message.until, effect.message.limit) == (100, 104, 2)


def test_a_hole_in_the_stream_closes_facts_until_they_are_learned_again() -> None:
    sim = following()
    sim.get(S1, stream(30, since=20, tail=300, entries=[entry(290, "t")]))
    passed_on = sim.get(CLIENT, read(1, tag="t", start=61))
    assert passed_on == [own(request_of(passed_on), read(1, tag="t", start=61))]
    closed = answered(sim.get(CLIENT, read(1, tag="t", start=41, until=100)))
    assert closed.seqnums == [60]
    found = reply(request_of(passed_on), [200, 290], position=at(30), tail=300, next_seqnum=300)
    sim.get(S1, found)
    sim.get(S1, stream(31, since=30, tail=310))
    assert answered(sim.get(CLIENT, read(2, tag="t", start=61))).seqnums == [200, 290]


def test_entries_that_another_replica_brought_already_are_skipped() -> None:
    sim = following()
    news = [entry(90, "t"), entry(100, "t")]
    sim.get(S1, stream(12, since=8, tail=101, entries=news))
    fetch = sim.get(CLIENT, read(1, tag="t", start=61))
    assert fetch == [
        own(request_of(fetch), read(tag="t", start=100, until=101, limit=1, position=at(12)))
    ]


def test_an_own_record_is_read_by_seqnum_without_asking_anybody() -> None:
    sim = following()
    sim.get(CLIENT, append(0, "a", ["b", "c"], data=[b"one", b"two"]))
    sim.get(PRIMARY, run(11, cut(100, (0, 2))))
    got = answered(sim.get(CLIENT, read(9, start=101, until=102, limit=1)))
    assert (got.seqnums, got.tags, [bytes(data) for data in got.payload]) == (
        *([101], [["b", "c"]]),
        [b"two"],
    )
    assert (got.position, got.tail) == (at(12), 102)  # what is known of the order by the cut


def test_an_own_record_past_a_tags_trim_is_asked_about() -> None:
    sim = following()
    sim.get(CLIENT, append(0, "a", None))
    sim.get(PRIMARY, run(11, cut(100, (0, 2))))
    sim.get(S1, stream(13, since=10, tail=102, trims=[[BOOK, "a", 102]]))
    assert isinstance(sim.get(CLIENT, read(1, start=100, until=101))[0].message, Read)  # type: ignore[union-attr]
    assert answered(sim.get(CLIENT, read(1, start=101, until=102))).seqnums == [101]


def test_a_byte_range_of_a_cached_record_is_cut_here() -> None:
    sim = following()
    asked = read(1, tag="t", start=20, until=21, bytes_start=1, bytes_until=3)
    assert [bytes(data) for data in answered(sim.get(CLIENT, asked)).payload] == [b"at"]
    rest = asked._replace(bytes_start=4, bytes_until=-1)
    assert [bytes(data) for data in answered(sim.get(CLIENT, rest)).payload] == [b"-20"]


def test_a_byte_range_of_a_record_that_is_not_cached_is_passed_on_and_not_kept() -> None:
    sim = following()
    sim.get(S1, stream(12, since=10, tail=101, entries=[entry(100, "t")]))
    asked = read(1, tag="t", start=100, until=101, bytes_start=1, bytes_until=3)
    passed_on = sim.get(CLIENT, asked)
    assert passed_on == [own(request_of(passed_on), asked)]
    sim.get(
        S1,
        reply(request_of(passed_on), [100], position=at(12), tail=101, next_seqnum=101),
    )
    assert sim.core._cache.find(SPACE, 100) is None


def test_a_page_ends_at_its_bytes_but_holds_one_record() -> None:
    sim = following()
    got = answered(sim.get(CLIENT, read(1, tag="t", max_bytes=15)))
    assert (got.seqnums, got.next_seqnum, got.more) == ([20, 40], 41, True)
    got = answered(sim.get(CLIENT, read(1, tag="t", max_bytes=1, reverse=True)))
    assert (got.seqnums, got.next_seqnum, got.more) == ([60], 60, True)


# --- fetching bytes -------------------------------------------------------------------------------


def with_unknown_bytes() -> Sim:
    sim = following()
    sim.get(S1, stream(12, since=10, tail=110, entries=[entry(100, *["t"] * 10)]))
    return sim


def test_readers_of_the_same_records_share_one_fetch() -> None:
    sim = with_unknown_bytes()
    request = request_of(sim.get(CLIENT, read(1, tag="t", start=61)))
    assert sim.get(2, read(9, tag="t", start=61)) == []
    found = reply(request, range(100, 110), position=at(12), tail=110, next_seqnum=110)
    told = sim.get(S1, found)
    assert [(each.to, each.message.request) for each in told if isinstance(each, Send)] == [  # type: ignore[union-attr]
        *((CLIENT, 1), (2, 9))
    ]
    assert sim.core.stats().reads_fetched == 1


def test_a_fetch_that_brings_less_makes_a_shorter_page() -> None:
    sim = with_unknown_bytes()
    request = request_of(sim.get(CLIENT, read(1, tag="t", start=41)))
    part = reply(request, [100, 101], position=at(12), tail=110, next_seqnum=102, more=True)
    got = answered(sim.get(S1, part))
    assert (got.seqnums, got.next_seqnum, got.more) == ([60, 100, 101], 102, True)


def test_a_fetch_that_brings_nothing_is_passed_on() -> None:
    sim = with_unknown_bytes()
    asked = read(1, tag="t", start=61)
    request = request_of(sim.get(CLIENT, asked))
    passed_on = sim.get(S1, reply(request, [], position=at(12), tail=110, next_seqnum=110))
    assert passed_on == [own(request_of(passed_on), asked)]


def test_a_fetch_that_fails_is_passed_on_to_learn_why() -> None:
    sim = with_unknown_bytes()
    asked = read(1, tag="t", start=61)
    request = request_of(sim.get(CLIENT, asked))
    passed_on = sim.get(S1, RequestFailed(request, to_wire(CorruptRecord(100)), at(12)))
    assert passed_on == [own(request_of(passed_on), asked)]


def test_fetches_are_spread_over_the_replicas_by_seqnum() -> None:
    sim = following(*STORAGE)
    chosen = sim.core.following.spaces[SPACE].chosen
    news = [entry(5000 * place, "t") for place in (1, 2, 3)]
    sim.get(chosen, stream(12, since=10, tail=20_000, entries=news))
    asked = {
        effect.to
        for place in (1, 2, 3)
        for effect in sim.get(CLIENT, read(place, tag="t", start=5000 * place, limit=1))
        if isinstance(effect, Send)
    }
    assert asked == set(STORAGE)


# --- trims ----------------------------------------------------------------------------------------


def test_a_position_behind_a_known_trim_is_an_error_and_zero_is_the_first_kept() -> None:
    sim = following()
    sim.get(S1, stream(11, since=10, tail=101, trims=[[BOOK, None, 30]]))
    assert sim.get(CLIENT, read(1, tag="t", start=29)) == [failed(1, Trimmed(30))]
    assert sim.get(CLIENT, read(1, tag="t", until=29)) == [failed(1, Trimmed(30))]
    got = answered(sim.get(CLIENT, read(1, tag="t")))
    assert (got.seqnums, got.trim_until) == ([40, 60], 30)


def test_a_session_is_told_of_a_later_trim_of_the_tag_by_the_storage_node() -> None:
    """Facts keep a tag's trim only beside its line; of "u" there is none."""
    sim = following()
    sim.get(S1, stream(11, since=10, tail=101, trims=[[BOOK, None, 30], [BOOK, "u", 50]]))
    request = request_of(sim.get(CLIENT, read(1, tag="u", start=29, position=at(11))))
    error = RequestFailed(request, to_wire(Trimmed(50)), at(11))
    assert sim.get(S1, error) == [failed(1, Trimmed(50), at(11))]


def test_a_trim_that_a_storage_node_reports_is_kept() -> None:
    sim = following()
    request = request_of(sim.get(CLIENT, read(5, tag="u", start=10)))
    error = RequestFailed(request, to_wire(Trimmed(50)), at(12))
    assert sim.get(S1, error) == [failed(5, Trimmed(50), at(12))]
    request = request_of(sim.get(CLIENT, read(5, tag="t", start=61, position=at(12))))
    sim.get(
        S1,
        reply(request, [], position=at(12), tail=100, next_seqnum=100, trim_until=50),
    )
    assert sim.get(CLIENT, read(1, tag="t", start=20)) == [failed(1, Trimmed(50))]


def test_a_tags_trim_comes_with_the_reply_that_first_tells_of_the_tag() -> None:
    """Else a page without records would say "none" of a place that was trimmed."""
    sim = following()
    request = request_of(sim.get(CLIENT, read(5, tag="u", position=at(12))))
    sim.get(
        S1,
        reply(request, [], position=at(12), tail=100, next_seqnum=100, trim_until=50),
    )
    assert sim.get(CLIENT, read(1, tag="u", start=20)) == [failed(1, Trimmed(50))]


def test_a_deleted_book_is_forgotten_and_not_followed_any_more() -> None:
    sim = following()
    sim.get(S1, stream(11, since=10, tail=101, deleted=[BOOK]))
    assert sends(sim.do(BatchEnded(0))) == [Send(S1, FollowIndex(SPACE, NUMBER, [], []))]
    asked = read(1, tag="t")
    passed_on = sim.get(CLIENT, asked)
    assert passed_on == [own(request_of(passed_on), asked)]


# --- waiting --------------------------------------------------------------------------------------


def test_p28_a_read_waits_here_for_the_stream_and_is_answered_when_a_record_comes() -> None:
    sim = following()
    asked = read(1, tag="t", start=61, wait_ms=500)
    (timer,) = sim.get(CLIENT, asked)
    assert isinstance(timer, SetTimer) and timer.delay_s == 0.5
    assert sim.get(S1, stream(11, since=10, tail=102, entries=[entry(100, "u")])) == []
    told = sim.get(S1, stream(12, since=11, tail=103, entries=[entry(102, "t")]))
    assert told[0] == CancelTimer(timer.timer)
    request = request_of(told[1:])
    found = reply(request, [102], position=at(12), tail=103, next_seqnum=103)
    assert answered(sim.get(S1, found)).seqnums == [102]
    assert sim.do(TimerFired(timer.timer)) == []


def test_p28_a_read_that_waits_is_answered_by_what_a_reply_brings_before_the_stream() -> None:
    """1. One client waits for more of a tag. 2. Another has seen position 11 and reads the tag: the
    storage node is asked, and its reply has a new record. 3. The stream brings that record: it is
    known already, so nothing has grown, and the one who waits would do so until its time is over.
    """
    sim = following()
    (timer,) = sim.get(CLIENT, read(1, tag="t", start=61, wait_ms=500))
    assert isinstance(timer, SetTimer)
    ahead = request_of(sim.get(CLIENT + 1, read(7, tag="t", start=61, position=at(11))))
    brought = reply(ahead, [100], position=at(11), tail=101, next_seqnum=101)
    first, cancelled, *asked = sim.get(S1, brought)
    assert isinstance(first, Send) and first.to == CLIENT + 1
    assert cancelled == CancelTimer(timer.timer)
    own_request = request_of(asked)  # where there is a record, nobody waits
    assert sim.get(S1, stream(11, since=10, tail=101, entries=[entry(100, "t")])) == []
    assert answered(sim.get(S1, brought._replace(request=own_request))).seqnums == [100]
    assert sim.core.stats().reads_waiting == 0


def test_p28_a_wait_that_is_over_is_answered_with_what_there_is() -> None:
    sim = following()
    (timer,) = sim.get(CLIENT, read(1, tag="t", start=61, wait_ms=500))
    assert isinstance(timer, SetTimer)
    sim.now_s = 0.5
    got = answered(sim.do(TimerFired(timer.timer)))
    assert (got.seqnums, got.next_seqnum, got.position) == ([], 100, at(10))


def test_a_wait_whose_stream_breaks_goes_on_at_the_next_replica_with_what_is_left_of_it() -> None:
    sim = following(*STORAGE[:2])
    chosen = sim.core.following.spaces[SPACE].chosen
    other = next(node for node in STORAGE[:2] if node != chosen)
    asked = read(1, tag="t", start=61, wait_ms=500)
    (timer,) = sim.get(CLIENT, asked)
    assert isinstance(timer, SetTimer)
    sim.now_s = 0.2
    told = sim.do(LinkDown(chosen))
    assert told[0] == CancelTimer(timer.timer)
    assert told[1:] == [own(request_of(told[1:]), asked._replace(wait_ms=300), other)]


def test_a_wait_that_the_storage_node_holds_is_asked_again_with_what_is_left_of_it() -> None:
    sim = Sim().start(*STORAGE[:2])
    asked = read(1, tag="t", wait_ms=500)
    chosen = sim.core.following.spaces[SPACE].chosen
    other = next(node for node in STORAGE[:2] if node != chosen)
    assert sim.get(CLIENT, asked) == [own(1, asked, chosen)]
    sim.now_s = 0.4
    assert sim.do(LinkDown(chosen)) == [own(1, asked._replace(wait_ms=100), other)]


def test_a_waiting_read_of_a_client_that_is_gone_is_forgotten() -> None:
    sim = following()
    (timer,) = sim.get(CLIENT, read(1, tag="t", start=61, wait_ms=500))
    assert isinstance(timer, SetTimer)
    assert sim.do(LinkDown(CLIENT)) == [CancelTimer(timer.timer)]
    assert sim.core.stats().reads_waiting == 0


def test_a_read_whose_client_waits_no_longer_is_forgotten() -> None:
    sim = following()
    (timer,) = sim.get(CLIENT, read(1, tag="t", start=61, wait_ms=500))
    assert isinstance(timer, SetTimer)
    assert sim.get(2, CancelRead(SPACE, 1)) == [], "it is of another client"
    assert sim.get(CLIENT, CancelRead(SPACE, 1)) == [CancelTimer(timer.timer)]
    assert sim.get(CLIENT, CancelRead(SPACE, 1)) == []
    assert sim.core.stats().reads_waiting == 0


def test_one_number_for_two_reads_that_wait_is_the_clients_own_trouble() -> None:
    sim = following()
    for _ in range(2):
        sim.get(CLIENT, read(1, tag="t", start=61, wait_ms=500))
    sim.get(CLIENT, CancelRead(SPACE, 1))
    assert sim.core.stats().reads_waiting == 1
    sim.do(LinkDown(CLIENT))
    assert sim.core.stats().reads_waiting == 0


def test_a_trim_past_what_is_waited_for_is_told_at_once() -> None:
    sim = following()
    (timer,) = sim.get(CLIENT, read(1, tag="t", start=61, wait_ms=500))
    assert isinstance(timer, SetTimer)
    told = sim.get(S1, stream(11, since=10, tail=101, trims=[[BOOK, None, 90]]))
    assert told == [CancelTimer(timer.timer), failed(1, Trimmed(90))]


# --- replicas -------------------------------------------------------------------------------------


def test_engines_are_spread_over_the_replicas() -> None:
    chosen = set()
    for number in range(20):
        sim = Sim()
        sim.core = type(sim.core)(sim.core.settings, NodeId(f"engine-{number}"), NUMBER)
        sim.start(*STORAGE)
        chosen.add(sim.core.following.spaces[SPACE].chosen)
    assert chosen == set(STORAGE)


def test_reads_wait_while_no_storage_node_is_connected() -> None:
    sim = Sim().start()
    sim.do(LinkDown(S1))
    asked = read(1, tag="t")
    assert sim.get(CLIENT, asked) == []
    assert sim.up(S1) == [own(1, asked)]
    assert sends(sim.do(BatchEnded(0))) == [Send(S1, FollowIndex(SPACE, NUMBER, [BOOK], []))]


def test_another_replica_streams_on_from_its_own_position() -> None:
    """It names the LogBook at once; what it folded before that is not taken for complete."""
    sim = following(*STORAGE[:2])
    chosen = sim.core.following.spaces[SPACE].chosen
    other = next(node for node in STORAGE[:2] if node != chosen)
    sim.do(LinkDown(chosen))
    news = stream(12, since=10, tail=102, entries=[entry(101, "t")], following=[BOOK])
    sim.get(other, news)
    asked = read(1, tag="t", start=61)
    passed_on = sim.get(CLIENT, asked)
    assert passed_on == [own(request_of(passed_on), asked, other)]


# --- aux data -------------------------------------------------------------------------------------


def test_aux_data_goes_to_all_storage_nodes_and_comes_back_with_cached_records() -> None:
    sim = following(*STORAGE[:2])
    message = SetAux(4, SPACE, BOOK, 40, b"derived")
    assert sim.get(CLIENT, message) == [
        *(Send(node, message) for node in STORAGE[:2]),
        Send(CLIENT, Answer(4, at(10), [])),
    ]
    assert answered(sim.get(CLIENT, read(1, tag="t"))).auxes == [None, b"derived", None]


def test_aux_data_for_a_seqnum_of_another_logbook_never_stands_beside_its_record() -> None:
    """Whether the record is of the LogBook that is named only storage nodes know. Found by the
    simulator."""
    sim = following(*STORAGE[:2])
    sim.get(CLIENT, SetAux(4, SPACE, BOOK + 1, 40, b"of another"))
    assert answered(sim.get(CLIENT, read(1, tag="t"))).auxes is None


def test_the_trims_of_a_logbook_come_with_its_naming() -> None:
    """They were decided before it was followed: an own record that they took is not answered."""
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a"))
    sim.get(PRIMARY, run(1, cut(100, (0, 1))))
    sim.get(CLIENT, read(1, tag="t"))
    sim.do(BatchEnded(0))
    sim.get(S1, stream(3, since=3, tail=101, trims=[[BOOK, "a", 101]], following=[BOOK]))
    asked = read(2, start=100, until=101)
    passed_on = sim.get(CLIENT, asked)
    assert passed_on == [own(request_of(passed_on), asked)]


def test_p26_a_linearizable_read_is_answered_by_facts_only_where_the_stream_has_come() -> None:
    """1. A trim is ordered at position 11 and acknowledged. 2. This engine's stream stands at 10,
    where the trimmed record is a fact. 3. Who reads linearizably must not get that record.
    """
    sim = following()
    wanted = read(5, tag="t", start=0, linearizable=True)._replace(limit=1)

    def asked_at(count: int) -> list[Effect]:
        sim.get(CLIENT, wanted)
        sent = [each for each in sim.do(BatchEnded(0)) if isinstance(each, Send)]
        (request,) = (each.message for each in sent if isinstance(each.message, TailRequest))
        return sim.get(sent[-1].to, Tail(request.request, SPACE, at(count), 100))

    assert answered(asked_at(10)).seqnums == [20]
    (passed_on,) = asked_at(11)
    assert isinstance(passed_on, Send) and isinstance(passed_on.message, Read)
    assert (passed_on.to, passed_on.message.position) == (S1, at(11))
