"""What a request says, checked: numbers, bodies, sessions; and what every answer has in common.

Decides what is refused before any function or LogBook is asked, and how. A request from a web page
of another site is refused (its browser says where it comes from), and so is one that found this
machine under a name that is not its own: a gateway on the loopback would else be at the mercy of
every page that somebody opens. Does not know functions, calls or LogBooks.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes, urlsplit

from aiohttp import web

from bokilog.errors import BokilogError
from bokilog.functions.gateway.problems import CONTENT_TYPE, Problem, of_error, of_request
from bokilog.functions.gateway.settings import GatewaySettings, is_loopback
from bokilog.record import shown

SESSION: Final = "Bokilog-Session"
CALL: Final = "Bokilog-Call"
JSON: Final = "application/json"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T")
_NUMBER_MAX: Final = 2**63 - 1
_DIGITS_MAX: Final = 19


class Refused(Exception):
    """The request is wrong by itself; carries the answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.body.decode())
        self.problem = problem


def refuse(status: int, detail: str, **extra: object) -> Refused:
    """To raise where a request is wrong by itself."""
    return Refused(of_request(status, detail, **extra))


def answer_problem(problem: Problem) -> web.Response:
    """The response for a problem."""
    return web.Response(
        status=problem.status,
        body=problem.body,
        content_type=CONTENT_TYPE,
        headers=problem.headers,
    )


def answer_json(value: object, *, status: int = 200, session: str = "") -> web.Response:
    """A JSON response; `session` is what the caller has seen now."""
    headers = {SESSION: session} if session else None
    body = json.dumps(value).encode()
    return web.Response(status=status, body=body, content_type=JSON, headers=headers)


def guarded(handler: Handler, settings: GatewaySettings) -> Handler:
    """A handler whose failures become problem answers, and that strangers do not reach."""

    async def guard(request: web.Request) -> web.StreamResponse:
        try:
            _check_origin(request)
            _check_text(request)
            return await handler(request)
        except Refused as refused:
            return answer_problem(refused.problem)
        except BokilogError as error:
            return answer_problem(of_error(error, show_traces=settings.show_traces))

    return guard


def _check_origin(request: web.Request) -> None:
    headers = request.headers
    host = headers.get("Host", "")
    if host and not is_loopback(_host_in(f"//{host}")):
        raise refuse(403, f"this gateway is not {host!r}: it serves its own machine only")
    origin = headers.get("Origin")
    if origin is not None and not is_loopback(_host_in(origin)):
        raise refuse(403, f"requests of pages from {origin!r} are not served")


def _host_in(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # a bracket without its other half, and the like
        return ""


def _check_text(request: web.Request) -> None:
    """Bytes that are no UTF-8 come as halves of surrogate pairs, which no message can carry."""
    for name, value in request.headers.items():
        if not value.isascii() and not is_text(value):
            raise refuse(400, f"the header {name} is not UTF-8")
    for part, said in zip(("path", "query"), request.raw_path.split("?", 1), strict=False):
        try:
            unquote_to_bytes(said).decode()
        except UnicodeDecodeError:  # a name or tag would become another one
            raise refuse(400, f"the {part} {shown(said)} is not UTF-8") from None


def is_text(said: str) -> bool:
    """Whether a text can be sent: it has no half of a surrogate pair."""
    try:
        said.encode()
    except UnicodeEncodeError:
        return False
    return True


async def read_body(request: web.Request, settings: GatewaySettings) -> bytes:
    """The whole body.

    Raises `Refused`: it is too large, takes too long to come, or is not encoded as it says.
    """
    limit = settings.body_bytes_max
    length = request.content_length
    if length is not None and length > limit:
        raise refuse(413, f"a body of {length} bytes: the limit is {limit} bytes", limit=limit)
    if length == 0 or not request.body_exists:
        return b""
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for part in request.content.iter_any():
                body += part
                if len(body) > limit:
                    raise refuse(413, f"a body of more than {limit} bytes", limit=limit)
    except web.RequestPayloadError as error:
        raise refuse(400, f"the body cannot be read: {error}") from None
    except TimeoutError:
        detail = f"the body was not here within {settings.body_timeout_s:g} s"
        raise refuse(408, detail) from None
    return bytes(body)


async def read_object(request: web.Request, settings: GatewaySettings) -> dict[str, object]:
    """A body that is one JSON object; an empty one is an empty object."""
    body = await read_body(request, settings)
    if not body:
        return {}
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise refuse(400, f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise refuse(400, "the body is not a JSON object")
    return value


def known(handler: Handler, *names: str) -> Handler:
    """A handler that refuses what else the query says: a property that is said in the wrong place
    or misspelt would else be left at its default, and nobody be told."""

    async def checked(request: web.Request) -> web.StreamResponse:
        only_known(request, *names)
        return await handler(request)

    return checked


def only_known(request: web.Request, *names: str, repeated: str = "") -> None:
    """Raises `Refused`: the query has something else than these names, or one of them twice; only
    `repeated` may be said more than once."""
    for name in request.query:
        if name not in names:
            may = f"known are {', '.join(names)}" if names else "nothing is"
            raise refuse(400, f"{name!r} is not known in this query: {may}", parameter=name)
        if name != repeated and len(request.query.getall(name)) > 1:
            raise refuse(400, f"{name!r} is said more than once in this query", parameter=name)


def whole(request: web.Request, name: str, default: int | None = None) -> int | None:
    """A whole number of the query that is not negative."""
    said = request.query.get(name)
    if said is None:
        return default
    is_number = said.isascii() and said.isdigit() and len(said) <= _DIGITS_MAX
    if not is_number or int(said) > _NUMBER_MAX:
        shown = repr(said[:_DIGITS_MAX] + "..." if len(said) > _DIGITS_MAX else said)
        raise refuse(400, f"{name}={shown} is not a whole number", parameter=name)
    return int(said)


def seconds(request: web.Request, name: str, default: float) -> float:
    """A duration of the query in seconds."""
    said = request.query.get(name)
    if said is None:
        return default
    try:
        value = float(said)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise refuse(400, f"{name}={said!r} is not a number of seconds", parameter=name)
    return value


def truth(request: web.Request, name: str) -> bool:
    """A flag of the query: `name`, `name=true` or `name=1`."""
    said = request.query.get(name)
    if said is None or said in ("0", "false"):
        return False
    if said in ("", "1", "true"):
        return True
    raise refuse(400, f"{name}={said!r} is neither true nor false", parameter=name)


async def cut_short_by(ended: asyncio.Event, work: Coroutine[object, object, T]) -> T | None:
    """What comes of something that may wait for long; None, and it is cancelled, if that is so
    before."""
    working, ending = asyncio.ensure_future(work), asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        ending.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
