"""The log itself over HTTP: LogBooks, appends, reads, pages, follows, trims.

    GET    /books                            PUT, GET, DELETE  /books/{book}
    POST   /books/{book}/records             one record, or a unit
    GET    /books/{book}/records             a page          GET  /books/{book}/records/{seqnum}
    GET    /books/{book}/next, /prev         the first or last of a tag, long poll with wait_s
    GET    /books/{book}/follow              server-sent events, resumed by Last-Event-ID
    GET    /books/{book}/tail                POST  /books/{book}/trim

Decides how the contract of `LogBook` looks in HTTP, and nothing else: what is refused is refused by
the LogBook. Data is `data` where it is UTF-8 and `data_base64` where it is not; a body that is no
JSON is one record's data as it is. The session travels as `Bokilog-Session`, both ways. Does not
know functions.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import asdict
from typing import Final, Literal, TypeVar, cast, get_args

from aiohttp import web

from bokilog.errors import NotReady
from bokilog.functions.gateway.events import ServerEvent, last_event, send_events
from bokilog.functions.gateway.requests import (
    JSON,
    SESSION,
    Handler,
    answer_json,
    cut_short_by,
    is_text,
    known,
    only_known,
    read_body,
    read_object,
    refuse,
    seconds,
    truth,
    whole,
)
from bokilog.functions.gateway.settings import GatewaySettings
from bokilog.logbook import Log, LogBook, Session
from bokilog.record import Consistency, Durability, Entry, Record

T = TypeVar("T")
_UNIT_FIELDS: Final = frozenset({"records", "unless", "key"})
_RECORD_FIELDS: Final = frozenset({"data", "data_base64", "tags"})
_BOOK_FIELDS: Final = frozenset({"durability", "retention_s", "retention_bytes", "key_horizon_s"})
_PAGE_BYTES: Final = 1 << 20
_READ_QUERY: Final = ("wait_s", "consistency")
_PAGE_QUERY: Final = ("tag", "min_seqnum", "until", "limit", "max_bytes", "reverse", *_READ_QUERY)


class LogApi:
    """The handlers of everything under `/books`."""

    def __init__(self, log: Log, settings: GatewaySettings, stopping: asyncio.Event) -> None:
        self._log = log
        self._settings = settings
        self._stopping = stopping

    def routes(self) -> list[tuple[str, str, Handler]]:
        """(method, path, handler) of each."""
        book = "/books/{book}"
        return [
            ("GET", "/books", known(self.list_books)),
            ("PUT", book, known(self.create)),
            ("GET", book, known(self.info)),
            ("DELETE", book, known(self.delete)),
            ("POST", f"{book}/records", self.append),  # depends on the form of its body
            ("GET", f"{book}/records", known(self.page, *_PAGE_QUERY)),
            ("GET", book + "/records/{seqnum:[0-9]{1,16}}", known(self.read, *_READ_QUERY)),
            ("GET", f"{book}/next", known(self.read_next, "tag", "min_seqnum", *_READ_QUERY)),
            ("GET", f"{book}/prev", known(self.read_prev, "tag", "max_seqnum", *_READ_QUERY)),
            ("GET", f"{book}/follow", known(self.follow, "tag", "min_seqnum", "consistency")),
            ("GET", f"{book}/tail", known(self.tail, "consistency")),
            ("POST", f"{book}/trim", known(self.trim)),
        ]

    # --- LogBooks ---------------------------------------------------------------------------------

    async def list_books(self, request: web.Request) -> web.StreamResponse:
        """All LogBooks."""
        return answer_json({"books": [asdict(each) for each in await self._log.books()]})

    async def create(self, request: web.Request) -> web.StreamResponse:
        """A LogBook with its durability and retention; the same again is no error."""
        said = await read_object(request, self._settings)
        _only(said, _BOOK_FIELDS)
        durability = said.pop("durability", "sync")
        if durability not in get_args(Durability):
            raise refuse(400, f"durability {durability!r} is none of {get_args(Durability)}")
        numbers = {name: _number(said, name) for name in said}
        await self._log.create_book(
            request.match_info["book"],
            durability=cast("Durability", durability),
            **numbers,  # type: ignore[arg-type]  # the names were checked, and so were the values
        )
        return await self.info(request)

    async def info(self, request: web.Request) -> web.StreamResponse:
        """One LogBook."""
        return answer_json(asdict(await self._log.book(request.match_info["book"]).info()))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """It ends, with all its records."""
        await self._log.delete_book(request.match_info["book"])
        return web.Response(status=204)

    # --- appends and trims ------------------------------------------------------------------------

    async def append(self, request: web.Request) -> web.StreamResponse:
        """One record or one unit; 201 with its seqnums, once it is durable."""
        book, session = self._book(request)
        key = request.headers.get("Idempotency-Key")
        only_known(request, *(["tag"] if request.content_type != JSON else []), repeated="tag")
        if request.content_type != JSON:
            data = await read_body(request, self._settings)
            tags = request.query.getall("tag", [])
            seqnum = await book.append(data, tags, key=key)
            return answer_json({"seqnum": seqnum}, status=201, session=session.token)
        said = await read_object(request, self._settings)
        if "records" not in said:
            _only(said, _RECORD_FIELDS | {"unless", "key"})
            entry = _entry({name: said[name] for name in said if name in _RECORD_FIELDS})
            entries, is_unit = [entry], False
        else:
            _only(said, _UNIT_FIELDS)
            records = said["records"]
            if not isinstance(records, list):
                raise refuse(400, "records is not a list")
            entries, is_unit = [_entry(each) for each in records], True
        said_key = _key(said)
        key = key if said_key is None else said_key  # an empty one is refused, and not left out
        span = await book.append_batch(entries, unless=_unless(said), key=key)
        told = {"first": span.start, "until": span.stop} if is_unit else {"seqnum": span.start}
        return answer_json(told, status=201, session=session.token)

    async def trim(self, request: web.Request) -> web.StreamResponse:
        """Let go of what lies below `until`."""
        book, session = self._book(request)
        said = await read_object(request, self._settings)
        _only(said, frozenset({"until", "tag"}))
        until, tag = said.get("until"), said.get("tag")
        if isinstance(until, bool) or not isinstance(until, int):
            raise refuse(400, "until is not a seqnum")
        if tag is not None and not isinstance(tag, str):
            raise refuse(400, "tag is not a text")
        done = await book.trim(until, tag)
        return answer_json(done._asdict(), session=session.token)

    # --- reads ------------------------------------------------------------------------------------

    async def read(self, request: web.Request) -> web.StreamResponse:
        """One record: its bytes, or all of it as JSON if the client accepts only that."""
        book, session = self._book(request)
        reading = book.read(
            int(request.match_info["seqnum"]),
            wait_s=self._wait_s(request),
            consistency=_consistency(request),
        )
        record = await self._waited(request, reading)
        return _one(request, record, session)

    async def read_next(self, request: web.Request) -> web.StreamResponse:
        """The first record of a tag from a seqnum on."""
        book, session = self._book(request)
        reading = book.read_next(
            tag=request.query.get("tag"),
            min_seqnum=whole(request, "min_seqnum", 0) or 0,
            wait_s=self._wait_s(request),
            consistency=_consistency(request),
        )
        record = await self._waited(request, reading)
        return _one(request, record, session)

    async def read_prev(self, request: web.Request) -> web.StreamResponse:
        """The last record of a tag up to a seqnum."""
        book, session = self._book(request)
        reading = book.read_prev(
            tag=request.query.get("tag"),
            max_seqnum=whole(request, "max_seqnum"),
            wait_s=self._wait_s(request),
            consistency=_consistency(request),
        )
        record = await self._waited(request, reading)
        return _one(request, record, session)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Some records of a range."""
        book, session = self._book(request)
        reading = book.read_range(
            tag=request.query.get("tag"),
            min_seqnum=whole(request, "min_seqnum", 0) or 0,
            until=whole(request, "until"),
            limit=whole(request, "limit", 100) or 0,
            max_bytes=whole(request, "max_bytes", _PAGE_BYTES) or 0,
            reverse=truth(request, "reverse"),
            wait_s=self._wait_s(request),
            consistency=_consistency(request),
        )
        page = await self._waited(request, reading)
        assert page is not None, "a page may be empty, and is one"
        told = {
            "records": [record_as_plain(each) for each in page.records],
            "next_seqnum": page.next_seqnum,
            "more": page.more,
        }
        return answer_json(told, session=session.token)

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """Every record from a seqnum on, for ever, as events whose ids are seqnums."""
        book, _ = self._book(request)
        _consistency(request)  # whichever: what follows is what comes to be
        place = last_event(request)
        start = place + 1 if place is not None else whole(request, "min_seqnum", 0) or 0
        return await send_events(
            request,
            _as_events(book, tag=request.query.get("tag"), min_seqnum=start),
            settings=self._settings,
            stopping=self._stopping,
        )

    async def tail(self, request: web.Request) -> web.StreamResponse:
        """The first seqnum not yet ordered."""
        book, session = self._book(request)
        _consistency(request)  # it is always linearizable
        return answer_json({"tail": await book.tail()}, session=session.token)

    # --- pieces -----------------------------------------------------------------------------------

    def _book(self, request: web.Request) -> tuple[LogBook, Session]:
        session = self._log.session(request.headers.get(SESSION))
        return self._log.book(request.match_info["book"], session=session), session

    async def _waited(
        self, request: web.Request, reading: Coroutine[object, object, T]
    ) -> T | None:
        """What a read gives; one that waits is refused at a stop, since nobody can say that there
        was nothing for as long as it wanted to wait."""
        if not self._wait_s(request):
            return await reading
        found = await cut_short_by(self._stopping, reading)
        if found is None and self._stopping.is_set():
            raise NotReady("this host stops before the wait is over: ask again, or another one")
        return found

    def _wait_s(self, request: web.Request) -> float:
        return min(seconds(request, "wait_s", 0.0), self._settings.wait_s_max)


async def _as_events(
    book: LogBook, *, tag: str | None, min_seqnum: int
) -> AsyncGenerator[ServerEvent, None]:
    async with aclosing(book.follow(tag=tag, min_seqnum=min_seqnum)) as records:
        async for record in records:
            yield ServerEvent(json.dumps(record_as_plain(record)), id=str(record.seqnum))


def record_as_plain(record: Record) -> dict[str, object]:
    """A record as JSON has it; `data` where that is UTF-8, else `data_base64`."""
    plain: dict[str, object] = {
        "seqnum": record.seqnum,
        "timestamp_ms": record.timestamp_ms,
        "tags": list(record.tags),
    }
    data = bytes(record.data)
    try:
        plain["data"] = data.decode()
    except UnicodeDecodeError:
        plain["data_base64"] = base64.b64encode(data).decode()
    if record.aux is not None:
        plain["aux_base64"] = base64.b64encode(record.aux).decode()
    return plain


def _one(request: web.Request, record: Record | None, session: Session) -> web.StreamResponse:
    token = session.token
    if record is None:
        raise refuse(404, "no visible record is there", session=token)
    if JSON in request.headers.get("Accept", ""):
        return answer_json(record_as_plain(record), session=token)
    headers = {
        SESSION: token,
        "Bokilog-Seqnum": str(record.seqnum),
        "Bokilog-Timestamp-Ms": str(record.timestamp_ms),
        "Bokilog-Tags": json.dumps(list(record.tags)),
        "X-Content-Type-Options": "nosniff",  # it is data: no browser runs it
    }
    return web.Response(
        body=bytes(record.data), content_type="application/octet-stream", headers=headers
    )


def _entry(said: object) -> Entry:
    if not isinstance(said, dict):
        raise refuse(400, "a record is not a JSON object")
    _only(said, _RECORD_FIELDS)
    data: object = said.get("data")
    encoded: object = said.get("data_base64")
    if (data is None) == (encoded is None):
        raise refuse(400, "a record has either data (a text) or data_base64")
    tags: object = said.get("tags", [])
    if isinstance(tags, str):
        tags = [tags]
    if not isinstance(tags, list):
        raise refuse(400, "tags is not a list")
    if isinstance(data, str):
        if not is_text(data):
            raise refuse(400, "data holds half of a surrogate pair: say bytes as data_base64")
        return Entry(data.encode(), tags=tags)
    if not isinstance(encoded, str):
        raise refuse(400, "data is not a text: say bytes as data_base64")
    try:
        return Entry(base64.b64decode(encoded, validate=True), tags=tags)
    except ValueError as error:
        raise refuse(400, f"data_base64: {error}") from None


def _unless(said: dict[str, object]) -> dict[str | None, int] | None:
    unless = said.get("unless")
    if unless is None:
        return None
    if not isinstance(unless, dict):
        raise refuse(400, 'unless is not an object of seqnums by tag ("" is the whole LogBook)')
    return {tag or None: after for tag, after in unless.items()}


def _key(said: dict[str, object]) -> str | None:
    key = said.get("key")
    if key is not None and not isinstance(key, str):
        raise refuse(400, "key is not a text")
    return key


def _only(said: dict[str, object], known: frozenset[str]) -> None:
    strange = sorted(said.keys() - known)
    if strange:
        raise refuse(400, f"{strange[0]!r} is not known here: known are {sorted(known)}")


def _number(said: dict[str, object], name: str) -> float | None:
    value = said[name]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise refuse(400, f"{name} is not a number")
    return value


def _consistency(request: web.Request) -> Consistency:
    said = request.query.get("consistency", "session")
    if said not in get_args(Consistency):
        raise refuse(400, f"consistency={said!r} is neither session nor linearizable")
    return cast("Literal['session', 'linearizable']", said)
