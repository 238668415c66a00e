"""Sessions only grow; tokens are text that fits into a header, or are refused."""

from __future__ import annotations

import base64

import pytest

from bokilog.client.session import TRIMS_MAX, Seen, Session, decode_token, encode_token
from bokilog.codec import pack
from bokilog.errors import HistoryChanged, InvalidToken
from bokilog.ids import START, Position, Term
from bokilog.limits import SEQNUM_MAX, TOKEN_CHARACTERS_MAX


def at(count: int, term: int = 1) -> Position:
    return Position(Term(term), count)


def test_a_session_never_goes_back() -> None:
    session = Session("h")
    session.observe(0, at(5))
    session.observe(0, at(3))
    session.observe(1, at(1, term=2))
    session.observe(1, at(9, term=1))
    assert session.positions == {0: at(5), 1: at(1, term=2)}
    assert session.position(7) == START
    session.saw_trim(3, 10)
    session.saw_trim(3, 4)
    assert (session.trim_until(3), session.trim_until(4)) == (10, 0)


def test_a_token_carries_all_of_it_to_another_session() -> None:
    session = Session("h", {0: at(5), 2: at(8)}, {7: 100})
    other = Session("h", {0: at(9)})
    other.merge(session.token)
    assert other.positions == {0: at(9), 2: at(8)}
    assert other.trims == {7: 100}


def test_the_token_of_version_1_is_as_it_was() -> None:
    token = encode_token(Seen("h", {0: at(5)}, {7: 100}))
    assert token == "lAGhaIEAkgEFgQdk"
    assert decode_token(token) == Seen("h", {0: at(5)}, {7: 100})


def test_a_token_is_never_longer_than_a_header_allows() -> None:
    session = Session("h" * 32, {space: at(2**40, term=2**30) for space in range(40)})
    for book in range(TRIMS_MAX + 100):
        session.saw_trim(SEQNUM_MAX - book, SEQNUM_MAX)
    assert len(session.trims) == TRIMS_MAX
    token = session.token
    assert len(token) <= TOKEN_CHARACTERS_MAX
    seen = decode_token(token)
    assert seen.positions == session.positions
    assert list(seen.trims)[-1] == list(session.trims)[-1]  # the newest are the ones kept


@pytest.mark.parametrize(
    "plain",
    [
        (2, "h", {}, {}),
        (1, 5, {}, {}),
        (1, "h", {0: [1]}, {}),
        (1, "h", {0: [1, -1]}, {}),
        (1, "h", {"0": [1, 1]}, {}),
        (1, "h", {}, {1: "x"}),
        (1, "h", [], {}),
        (1, "h"),
        "h",
    ],
)
def test_what_only_looks_like_a_token_is_refused(plain: object) -> None:
    with pytest.raises(InvalidToken):
        decode_token(base64.urlsafe_b64encode(pack(plain)).rstrip(b"=").decode())


@pytest.mark.parametrize("token", ["", "x", "é", "lAGhaIEAkgEFgQd", "!" * 9, "a" * 5000, None, 5])
def test_what_is_no_token_at_all_is_refused(token: str) -> None:
    with pytest.raises(InvalidToken):
        decode_token(token)


def test_a_token_of_another_history_is_refused() -> None:
    with pytest.raises(HistoryChanged, match="old"):
        Session("new").merge(Session("old").token)
