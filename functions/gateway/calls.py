"""Functions over HTTP: calls that wait, calls that are accepted, their results and their streams.

    GET    /functions                what can be called
    POST   /f/{name}                 run it; the answer is its result
             Prefer: respond-async     accepted as a record: 202, and where to ask
             Idempotency-Key: K        the first call's result, however often it is asked for
             Accept: text/event-stream what it yields, as events; it goes on from Last-Event-ID
    GET    /calls/{id}               how it stands; wait_s=S waits for its end
    GET    /calls/{id}/result        its result, as `POST /f` would have given it
    GET    /calls/{id}/items         what it yields
    DELETE /calls/{id}               cancel it

Decides how calls look in HTTP. The body of a request is the arguments as they are: the worker reads
them by the function's types, so a wrong one is found there and named (400). A call with a key, and
one that yields, is a record, so that it outlives this gateway and this node. A client that goes
away has cancelled its call, unless that is a record.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from aiohttp import web

from bokilog.call_errors import CallCancelled, UnknownFunction, WorkerLost
from bokilog.client.admin import ClientLog
from bokilog.codec import unpack
from bokilog.errors import NotSupported, from_wire, to_wire
from bokilog.functions.calls.call import Call
from bokilog.functions.calls.finding import find_call
from bokilog.functions.calls.spawning import spawn
from bokilog.functions.calls.status import CallStatus
from bokilog.functions.gateway.events import (
    ServerEvent,
    last_event,
    send_events,
    wants_events,
)
from bokilog.functions.gateway.problems import of_error
from bokilog.functions.gateway.requests import (
    CALL,
    JSON,
    SESSION,
    Handler,
    answer_json,
    answer_problem,
    cut_short_by,
    known,
    read_body,
    refuse,
    seconds,
)
from bokilog.functions.gateway.settings import GatewaySettings
from bokilog.functions.runtime.messages import Done, Encoding, Start
from bokilog.functions.runtime.options import TIMEOUT_S_MAX, FunctionOptions
from bokilog.functions.runtime.references import fetch
from bokilog.functions.runtime.runner import END_OF_STREAM, CallRunner, RunningCall

MSGPACK: Final = "application/msgpack"
_HOST_STOPS: Final = "its host stops"
_HINT: Final = ": GET /functions lists what there is"
_ENCODING_OF: Final[Mapping[str, Encoding]] = {
    JSON: Encoding.JSON,
    MSGPACK: Encoding.MSGPACK,
    "application/x-msgpack": Encoding.MSGPACK,
    "application/vnd.msgpack": Encoding.MSGPACK,
}
_TYPE_OF: Final[Mapping[int, str]] = {
    Encoding.JSON: JSON,
    Encoding.MSGPACK: MSGPACK,
    Encoding.RAW: "application/octet-stream",
}


class CallApi:
    """The handlers of functions and calls."""

    def __init__(
        self,
        runner: CallRunner,
        log: ClientLog,
        *,
        app: str,
        settings: GatewaySettings,
        stopping: asyncio.Event,
    ) -> None:
        self._runner = runner
        self._log = log
        self._app = app
        self._settings = settings
        self._stopping = stopping
        self._waited_for: dict[str, RunningCall] = {}
        self._given_up = asyncio.Event()

    def give_up(self) -> None:
        """The host stops, and has waited long enough: callers are told while they can be."""
        self._given_up.set()
        for running in list(self._waited_for.values()):
            running.cancel(_HOST_STOPS)

    def routes(self) -> list[tuple[str, str, Handler]]:
        """(method, path, handler) of each."""
        return [
            ("GET", "/functions", known(self.list_functions)),
            ("POST", "/f/{name}", known(self.call)),  # arguments are its body
            ("GET", "/calls/{id}", known(self.status, "wait_s")),
            ("GET", "/calls/{id}/result", known(self.result, "wait_s")),
            ("GET", "/calls/{id}/items", known(self.items)),
            ("DELETE", "/calls/{id}", known(self.cancel)),
        ]

    # --- calls ------------------------------------------------------------------------------------

    async def list_functions(self, request: web.Request) -> web.StreamResponse:
        """What can be called, with signatures and options."""
        rows = [
            {"name": name, "signature": signature, "help": help_line, "options": options}
            for name, options, signature, help_line in self._runner.functions()
            if not str(name).startswith("$")
        ]
        return answer_json({"app": self._app, "functions": rows})

    async def call(self, request: web.Request) -> web.StreamResponse:
        """Run a function."""
        start = await self._start(request)
        headers = request.headers
        key = headers.get("Idempotency-Key")
        if wants_events(request):
            call = await self._spawn(start, key, stream=True)
            return await self._send_items(request, call, after=None)
        if "respond-async" in headers.get("Prefer", ""):
            return _accepted(await self._spawn(start, key))
        if key is not None:
            call = await self._spawn(start, key)
            return await self._outcome(call, wait_s=self._patience_s(start))
        return await self._answer(await self._done(start), start.call_id)

    async def status(self, request: web.Request) -> web.StreamResponse:
        """How a call stands."""
        call = await self._found(request)
        wait_s = self._wait_s(request)
        if wait_s:
            await cut_short_by(self._given_up, call.outcome(wait_s=wait_s))
        return _status(await call.status())

    async def result(self, request: web.Request) -> web.StreamResponse:
        """The result of a call, or 202 while there is none."""
        return await self._outcome(await self._found(request), wait_s=self._wait_s(request))

    async def items(self, request: web.Request) -> web.StreamResponse:
        """What a call has yielded and goes on to yield."""
        call = await self._found(request)
        return await self._send_items(request, call, after=last_event(request))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """The call is not wanted any more."""
        call = await self._found(request)
        await call.cancel("by DELETE")
        return _status(await call.status())

    # --- pieces -----------------------------------------------------------------------------------

    async def _start(self, request: web.Request) -> Start:
        name = request.match_info["name"]
        if name.startswith("$"):  # the app's own way of sending code, for its programs only
            raise UnknownFunction(name, _HINT)
        headers = request.headers
        if token := headers.get(SESSION):
            self._log.session(token)  # one that is none is the caller's mistake, not the function's
        body = await read_body(request, self._settings)
        content = request.content_type if "Content-Type" in headers else ""
        encoding = _ENCODING_OF.get(content, Encoding.RAW)
        if not body and encoding is not Encoding.MSGPACK:
            body, encoding = b"{}", Encoding.JSON
        return Start(
            call=0,
            function=name,
            encoding=encoding,
            deadline_ms=_deadline_ms(headers.get("Bokilog-Timeout")),
            depth=0,
            attempt=0,
            flags=0,
            call_id=secrets.token_hex(8),
            token=headers.get(SESSION, ""),
            trace=headers.get("traceparent", ""),
            payload=body,
        )

    async def _done(self, start: Start) -> Done:
        """What came of a call that is no record; `WorkerLost` where the host stopped before."""
        running = self._runner.start(start)
        self._waited_for[start.call_id] = running
        try:
            done = await asyncio.shield(running.done)
        except asyncio.CancelledError:
            running.cancel("the client is gone")
            raise
        finally:
            del self._waited_for[start.call_id]
        if (
            self._given_up.is_set()
            and done.error
            and isinstance(from_wire(done.error), CallCancelled)
        ):
            return done._replace(error=to_wire(WorkerLost(start.function, _HOST_STOPS)))
        return done

    def _options(self, function: str) -> FunctionOptions:
        """What the function was declared with. Raises `UnknownFunction`."""
        for name, options, _, _ in self._runner.functions():
            if name == function and isinstance(options, dict):
                return FunctionOptions.from_plain(options)
        raise UnknownFunction(function, _HINT)

    async def _spawn(self, start: Start, key: str | None, *, stream: bool = False) -> Call:
        return await spawn(
            self._log,
            self._app,
            start.function,
            start.payload,
            start.encoding,
            options=self._options(start.function),
            timeout_s=start.deadline_ms / 1_000 if start.deadline_ms else None,
            key=key,
            session=self._log.session(start.token or None),
            trace=start.trace,
            stream=stream,
        )

    async def _found(self, request: web.Request) -> Call:
        session = self._log.session(request.headers.get(SESSION) or None)
        return await find_call(self._log, self._app, request.match_info["id"], session=session)

    def _patience_s(self, start: Start) -> float:
        """How long somebody waits who sent a key: as long as for a call without one."""
        if start.deadline_ms:
            return start.deadline_ms / 1_000
        return self._options(start.function).timeout_s

    async def _outcome(self, call: Call, *, wait_s: float) -> web.StreamResponse:
        done = await cut_short_by(self._given_up, call.outcome(wait_s=wait_s))
        return _accepted(call) if done is None else await self._answer(done, call.id)

    async def _send_items(
        self, request: web.Request, call: Call, *, after: int | None
    ) -> web.StreamResponse:
        return await send_events(
            request,
            self._events(call, after=after),
            settings=self._settings,
            stopping=self._stopping,
            headers={CALL: call.id},
        )

    async def _events(self, call: Call, *, after: int | None) -> AsyncGenerator[ServerEvent, None]:
        told = json.dumps({"call": call.id})
        if after is None:
            yield ServerEvent(told, event="call")
        async with aclosing(call.items(0 if after is None else after + 1)) as items:
            async for item in items:
                yield ServerEvent(_as_text(item.encoding, item.payload), id=str(item.seqnum))
        done = await call.outcome(wait_s=0)
        if done is not None and (done.encoding, bytes(done.payload)) != END_OF_STREAM:
            yield ServerEvent(_as_text(*await self._whole(done)))  # of one that is no generator
        yield ServerEvent(told, event="done")

    async def _whole(self, done: Done) -> tuple[int, bytes]:
        """The (encoding, payload) of a result, read where it is a record."""
        if done.encoding != Encoding.REFERENCE:
            return done.encoding, bytes(done.payload)
        return await fetch(self._log, done.payload, self._log.session(done.token or None))

    async def _answer(self, done: Done, call_id: str) -> web.StreamResponse:
        """What came of a call that somebody waited for."""
        if done.error:
            error = from_wire(done.error)
            shown = self._settings.show_traces
            return answer_problem(of_error(error, call_id=call_id, show_traces=shown))
        encoding, payload = await self._whole(done)
        headers = {CALL: call_id}
        if done.token:
            headers[SESSION] = done.token
        content_type = _TYPE_OF.get(encoding)
        if content_type is None:
            detail = "the result is a Python object that only Python programs can read"
            raise refuse(406, detail, definite=False)  # the function has run
        return web.Response(body=payload, content_type=content_type, headers=headers)

    def _wait_s(self, request: web.Request) -> float:
        return min(seconds(request, "wait_s", 0.0), self._settings.wait_s_max)


def _accepted(call: Call) -> web.Response:
    """It is a record; where to ask for what comes of it."""
    where = f"/calls/{call.id}"
    answer = answer_json({"call": call.id, "status": where}, status=202)
    answer.headers["Location"] = where
    answer.headers["Preference-Applied"] = "respond-async"
    return answer


def _status(status: CallStatus) -> web.Response:
    told = status._asdict()
    return answer_json({"call": told.pop("id"), **told})


def _as_text(encoding: int, payload: bytes) -> str:
    """A value of a stream as JSON; bytes as base64."""
    if encoding == Encoding.JSON:
        return payload.decode()
    if encoding == Encoding.RAW:
        return json.dumps({"data_base64": base64.b64encode(payload).decode()})
    if encoding != Encoding.MSGPACK:
        raise NotSupported(
            "this result", "it is a Python object that only Python programs can read"
        )
    return json.dumps(unpack(payload), default=_bytes_as_text)


def _bytes_as_text(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _deadline_ms(said: str | None) -> int:
    if said is None:
        return 0
    try:
        timeout_s = float(said)
    except ValueError:
        timeout_s = math.nan
    if not 0 < timeout_s <= TIMEOUT_S_MAX:
        problem = f"is not a number of seconds in 0..{TIMEOUT_S_MAX:g}"
        raise refuse(400, f"Bokilog-Timeout {said!r} {problem}")
    return max(1, round(timeout_s * 1_000))
