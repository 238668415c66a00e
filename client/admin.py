"""A log as its users hold it: its LogBooks, its sessions, its end.

Decides what of LogBooks' properties this version has, and when two of them conflict. Does not know:
how LogBooks are found (`routing.py`), or what is behind the connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, overload

from bokilog.client import routing
from bokilog.client.books import Created
from bokilog.client.logbook import ClientLogBook
from bokilog.client.node import Client
from bokilog.client.session import Session
from bokilog.errors import (
    InvalidToken,
    LogBookConflict,
    UnknownLogBook,
)
from bokilog.limits import KEY_HORIZON_S
from bokilog.logbook import Session as AnySession
from bokilog.record import (
    BookInfo,
    Buffer,
    Durability,
    check_book_name,
    check_durability,
    check_duration,
    check_retention,
)

if TYPE_CHECKING:
    from bokilog.client.codecs import Codec

T = TypeVar("T")


class ClientLog:
    """A connection to a log, or an embedded one; an async context manager that closes it.

    The calls, their arguments and errors are those of `bokilog.Log`; `book` also takes a type.
    """

    __slots__ = ("client",)

    def __init__(self, client: Client) -> None:
        self.client = client
        """The shell under it, for statistics."""

    def __repr__(self) -> str:
        return f"<Log {'connected' if self.client.core.up else 'not connected'}>"

    @overload
    def book(
        self, name: str, *, session: AnySession | None = None, system_tags: bool = False
    ) -> ClientLogBook[Buffer]: ...
    @overload
    def book(
        self,
        name: str,
        *,
        type: type[T],
        session: AnySession | None = None,
        system_tags: bool = False,
    ) -> ClientLogBook[T]: ...
    @overload
    def book(
        self,
        name: str,
        *,
        codec: Codec[T],
        session: AnySession | None = None,
        system_tags: bool = False,
    ) -> ClientLogBook[T]: ...
    @overload
    def book(
        self,
        name: str,
        *,
        codec: str,
        session: AnySession | None = None,
        system_tags: bool = False,
    ) -> ClientLogBook[object]: ...
    def book(
        self,
        name: str,
        *,
        type: type[T] | None = None,
        codec: Codec[T] | str | None = None,
        session: AnySession | None = None,
        system_tags: bool = False,
    ) -> ClientLogBook[T] | ClientLogBook[Buffer] | ClientLogBook[object]:
        """The LogBook of that name, whether it exists or not; costs nothing.

        Args:
            name: 1 to 128 bytes of UTF-8, not starting with `$`.
            type: of what is appended: `str`, a dataclass, a pydantic model, a msgspec Struct, or
                what JSON has. `record.value` gives it back.
            codec: instead of a type: "bytes", "str", "json", "msgpack", or an object with `encode`
                and `decode`.
            session: None for the connection's own, shared by all that name none.
            system_tags: whether tags may start with `$`: for the libraries that own those.
        """
        if type is None and codec is None:
            return self.typed_book(name, None, session=session, system_tags=system_tags)
        from bokilog.client.codecs import codec_for  # at first use: most logs are of bytes

        codec_of_type = codec_for(type, codec)
        return self.typed_book(name, codec_of_type, session=session, system_tags=system_tags)

    def typed_book(
        self,
        name: str,
        codec: Codec[T] | None,
        *,
        session: AnySession | None = None,
        system_tags: bool = False,
        kind: type[ClientLogBook[T]] = ClientLogBook,
    ) -> ClientLogBook[T]:
        """`book`, once the codec is known; None: the data is bytes as they are. `kind` is the class
        of what is returned."""
        name = check_book_name(name)
        if session is not None and not isinstance(session, Session):
            raise InvalidToken(repr(session), "is of another log's session")
        return kind(
            self.client,
            self.client.core.book(name),
            session if session is not None else self.client.default_session,
            codec=codec,
            system_tags=system_tags,
        )

    def session(self, token: str | None = None) -> Session:
        """A new session that has seen what `token` says; None: all that this connection has.

        Raises:
            InvalidToken: it is no session token.
            HistoryChanged: it is from before a restore or a recovery with loss.
        """
        return self.client.core.session(token)

    async def create_book(
        self,
        name: str,
        *,
        durability: Durability = "sync",
        retention_s: float | None = None,
        retention_bytes: int | None = None,
        timeout_s: float | None = None,
    ) -> BookInfo:
        """Create a LogBook with properties of its own; creating it again alike changes nothing.

        Args:
            name: as in `book`.
            durability: "sync" (synced on the write quorum before the ack), "flush" (written to the
                OS there) or "memory" (in RAM there).
            retention_s: records older than this are let go, by the time of the log; None: kept.
            retention_bytes: the oldest records beyond so many bytes of data are let go; the newest
                that have them together stay. None: kept.
            timeout_s: bounds the call; None: the connection's default.

        Raises:
            LogBookConflict: it exists with another property.
            InvalidRange: a retention outside its limits.
            NotSupported: a class that the cluster has no log space for.
        """
        name = check_book_name(name)
        check_durability(durability)
        check_retention(retention_s, retention_bytes)
        check_duration("timeout_s", timeout_s)
        self.client.check()
        client, session = self.client, self.client.default_session
        client.core.check(session)
        deadline_s, timeout_s = client.deadline(timeout_s)
        created = Created(name, durability, KEY_HORIZON_S, retention_s, retention_bytes)
        route = await routing.find_or_create(
            client, created, session, deadline_s=deadline_s, timeout_s=timeout_s
        )
        client.core.found(client.core.book(name), route)
        for field in ("durability", "retention_s", "retention_bytes"):
            existing, wanted = getattr(route, field), getattr(created, field)
            if existing != wanted:
                raise LogBookConflict(name, field, str(existing), str(wanted))
        if retention_s is not None or retention_bytes is not None:
            await routing.retain(client, route, session, deadline_s=deadline_s, timeout_s=timeout_s)
        return await routing.info(
            client, route, session, deadline_s=deadline_s, timeout_s=timeout_s
        )

    async def delete_book(self, name: str, *, timeout_s: float | None = None) -> None:
        """Delete a LogBook with all it holds; its name may be used again, by a new incarnation.

        Raises:
            UnknownLogBook: there is none of that name.
        """
        name = check_book_name(name)
        check_duration("timeout_s", timeout_s)
        self.client.check()
        client, session = self.client, self.client.default_session
        client.core.check(session)
        deadline_s, timeout_s = client.deadline(timeout_s)
        route = await routing.delete(
            client, name, session, deadline_s=deadline_s, timeout_s=timeout_s
        )
        client.core.deleted(name, route.number)

    async def books(self, *, timeout_s: float | None = None) -> Sequence[BookInfo]:
        """All LogBooks, by name."""
        check_duration("timeout_s", timeout_s)
        self.client.check()
        client, session = self.client, self.client.default_session
        client.core.check(session)
        deadline_s, timeout_s = client.deadline(timeout_s)
        routes = await routing.all_routes(
            client, session, deadline_s=deadline_s, timeout_s=timeout_s
        )
        infos = []
        for route in routes:
            try:
                infos.append(
                    await routing.info(
                        client, route, session, deadline_s=deadline_s, timeout_s=timeout_s
                    )
                )
            except UnknownLogBook:
                pass  # deleted since
        return infos

    async def aclose(self) -> None:
        """Send what is on its way, then close; again it does nothing, other calls: `Closed`.

        Raises:
            WrongLoop: it was called from another loop; the log stays open.
        """
        await self.client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
