"""What a caller has seen: a position per log space, each LogBook's trim; as object and as text.

Decides how far a read must have come (P27) and what a token says. Invariants: nothing in a session
ever goes back; a token is never longer than its limit, so it fits into an HTTP header.

Trims are the part that may be forgotten beyond a bound: a position at or past a trim already makes
every index answer as trimmed, and only caches need to be told.

Does not know: who reads, or whether an engine is there. Token format 1 is golden-tested.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Final

from bokilog.codec import pack, unpack
from bokilog.errors import HistoryChanged, InvalidToken, RemoteProtocolError
from bokilog.ids import START, Position, Term
from bokilog.limits import TOKEN_CHARACTERS_MAX
from bokilog.named import NamedTuple
from bokilog.record import shown

TOKEN_VERSION: Final = 1
TRIMS_MAX: Final = 1_024  # LogBooks whose trim one session remembers
TOKEN_TRIMS_MAX: Final = 64  # of these, the newest travel in the token: 64 of 18 bytes each


class Seen(NamedTuple):
    """What a token says."""

    history_id: str
    positions: dict[int, Position]
    trims: dict[int, int]


class Session:
    """What one caller has seen; shared by any number of calls."""

    __slots__ = ("_token", "history_id", "positions", "trims")

    def __init__(
        self,
        history_id: str,
        positions: Mapping[int, Position] | None = None,
        trims: Mapping[int, int] | None = None,
    ) -> None:
        self.history_id = history_id
        """The history the positions are of (P15)."""
        self.positions: dict[int, Position] = dict(positions or {})
        self.trims: dict[int, int] = dict(trims or {})
        """LogBook number -> first kept seqnum: no level answers below it."""
        self._token = ""
        """As it was asked for last; empty: more was seen since."""

    def __repr__(self) -> str:
        return f"<Session {self.positions}>"

    @property
    def token(self) -> str:
        """What was seen so far, as text for a header, a message or a child's arguments."""
        if not self._token:  # calls that are made in one turn have one token
            self._token = encode_token(Seen(self.history_id, self.positions, self.trims))
        return self._token

    def merge(self, token: str) -> None:
        """Take over what the holder of `token` has seen.

        Raises:
            InvalidToken: it is no token of bokilog.
            HistoryChanged: it is from before a restore or a recovery with loss.
        """
        seen = decode_token(token)
        if seen.history_id != self.history_id:
            raise HistoryChanged(seen.history_id, self.history_id)
        for space, position in seen.positions.items():
            self.observe(space, position)
        for book, trim_until in seen.trims.items():
            self.saw_trim(book, trim_until)

    def position(self, space: int) -> Position:
        """How far the index must be to answer this session."""
        return self.positions.get(space, START)

    def observe(self, space: int, position: Position) -> None:
        """Something answered at `position` was seen."""
        if position > self.positions.get(space, START):
            self.positions[space] = position
            self._token = ""

    def saw_trim(self, book: int, trim_until: int) -> None:
        """The first kept seqnum of a LogBook was seen."""
        if trim_until <= self.trims.get(book, 0):
            return
        self.trims.pop(book, None)  # to the end: the newest are the last
        self.trims[book] = trim_until
        self._token = ""
        if len(self.trims) > TRIMS_MAX:
            del self.trims[next(iter(self.trims))]

    def trim_until(self, book: int) -> int:
        """The first kept seqnum of a LogBook as far as this session has seen; 0: none."""
        return self.trims.get(book, 0)


def encode_token(seen: Seen) -> str:
    """The token of format 1; trims that do not fit are left out, the oldest first."""
    newest = list(seen.trims.items())[-TOKEN_TRIMS_MAX:]
    plain = (TOKEN_VERSION, seen.history_id, seen.positions, dict(newest))
    token = base64.urlsafe_b64encode(pack(plain)).rstrip(b"=").decode()
    if len(token) > TOKEN_CHARACTERS_MAX and newest:
        return encode_token(seen._replace(trims=dict(newest[len(newest) // 2 + 1 :])))
    return token


def decode_token(token: str) -> Seen:
    """What `encode_token` wrote.

    Raises:
        InvalidToken: it is something else, or was cut short.
    """
    if not isinstance(token, str):
        raise InvalidToken(shown(token), f"is {type(token).__name__}, not str")
    if len(token) > TOKEN_CHARACTERS_MAX:
        limit = f"the limit is {TOKEN_CHARACTERS_MAX} characters"
        raise InvalidToken(token, f"has {len(token)} characters: {limit}")
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        version, history_id, positions, trims = unpack(data)
        if version != TOKEN_VERSION or type(history_id) is not str:
            raise InvalidToken(token, f"is not of version {TOKEN_VERSION}")
        return Seen(
            history_id,
            {_count(space): _position(each) for space, each in positions.items()},
            {_count(book): _count(until) for book, until in trims.items()},
        )
    except (
        *(binascii.Error, UnicodeEncodeError, RemoteProtocolError),
        *(TypeError, ValueError, AttributeError),
    ):
        raise InvalidToken(token, "is no session token, or was cut short") from None


def _position(value: object) -> Position:
    if type(value) is not list or len(value) != 2:
        raise ValueError("not a position")
    return Position(Term(_count(value[0])), _count(value[1]))


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a count")
    return value
