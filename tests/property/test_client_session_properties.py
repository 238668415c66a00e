"""Sessions and tokens, whatever they hold and in whatever order they are merged."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from bokilog.client.session import Seen, Session, decode_token, encode_token
from bokilog.errors import InvalidToken
from bokilog.ids import Position, Term

COUNTS = st.integers(0, 2**53)
POSITIONS = st.builds(lambda term, count: Position(Term(term), count), COUNTS, COUNTS)
HELD = st.tuples(
    st.dictionaries(st.integers(0, 9), POSITIONS, max_size=6),
    st.dictionaries(COUNTS, COUNTS.filter(bool), max_size=6),
)


def session(held: tuple[dict[int, Position], dict[int, int]]) -> Session:
    return Session("h", *held)


@settings(max_examples=60)
@given(HELD, st.text(max_size=40))
def test_a_token_says_what_its_session_had(
    held: tuple[dict[int, Position], dict[int, int]], history: str
) -> None:
    seen = Seen(history, *held)
    assert decode_token(encode_token(seen)) == seen


@settings(max_examples=60)
@given(st.lists(HELD, min_size=1, max_size=4))
def test_merging_is_the_largest_of_all_in_any_order(
    several: list[tuple[dict[int, Position], dict[int, int]]],
) -> None:
    forward, backward = Session("h"), Session("h")
    for held in several:
        before = dict(forward.positions)
        forward.merge(session(held).token)
        assert all(forward.positions[space] >= at for space, at in before.items())
    for held in reversed(several):
        backward.merge(session(held).token)
        backward.merge(backward.token)
    assert forward.positions == backward.positions
    assert forward.trims == backward.trims


@settings(max_examples=100)
@given(HELD, st.data())
def test_garbage_is_refused_and_nothing_else_happens(
    held: tuple[dict[int, Position], dict[int, int]], data: st.DataObject
) -> None:
    token = session(held).token
    place = data.draw(st.integers(0, len(token) - 1))
    garbled = token[:place] + data.draw(st.text(max_size=3)) + token[place + 1 :]
    try:
        decode_token(garbled)
    except InvalidToken:
        pass
