"""Functions over HTTP: forms of bodies, answers by outcome, calls that are records, streams."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

import pytest

from bokilog.call_errors import (
    CallCancelled,
    CallTimeout,
    FunctionFailed,
    InvalidArguments,
    UnknownFunction,
    WorkerLost,
)
from bokilog.codec import pack
from bokilog.errors import BokilogError, Overloaded
from bokilog.functions.calls.node import DurableCalls
from bokilog.functions.gateway import server
from bokilog.functions.gateway.requests import CALL, SESSION
from bokilog.functions.runtime.messages import Encoding, Start
from bokilog.functions.runtime.runner import END_OF_STREAM
from tests.unit.functions.gateway.conftest import Serve, Served

pytestmark = pytest.mark.asyncio


async def echo(start: Start) -> tuple[int, bytes]:
    return start.encoding, bytes(start.payload)


async def never(start: Start) -> tuple[int, bytes]:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(
    ("content_type", "body", "encoding"),
    [
        ("application/json", b'{"x": 1}', Encoding.JSON),
        ("application/msgpack", pack([[1], {}]), Encoding.MSGPACK),
        ("application/x-msgpack", pack([[1], {}]), Encoding.MSGPACK),
        ("image/png", b"\x89PNG", Encoding.RAW),
    ],
)
async def test_a_body_is_handed_on_as_it_is(
    serve: Serve, content_type: str, body: bytes, encoding: Encoding
) -> None:
    async with serve({"echo": echo}) as served:
        headers = {"Content-Type": content_type}
        async with served.http.post("/f/echo", data=body, headers=headers) as answer:
            assert await answer.read() == body
        (start,) = served.runner.started
        assert (start.encoding, start.function, start.depth) == (encoding, "echo", 0)
        assert answer.headers[CALL] == start.call_id


async def test_no_body_is_no_arguments(serve: Serve) -> None:
    async with serve({"echo": echo}) as served, served.http.post("/f/echo") as answer:
        assert answer.content_type == "application/json"
        assert await answer.read() == b"{}"


async def test_time_session_and_trace_travel(serve: Serve) -> None:
    async with serve({"echo": echo}) as served:
        headers = {"Bokilog-Timeout": "2.5", "traceparent": "00-ab-cd-01"}
        headers[SESSION] = served.log.session().token
        async with served.http.post("/f/echo", json={}, headers=headers) as answer:
            assert answer.headers[SESSION] == headers[SESSION]
        (start,) = served.runner.started
        assert (start.deadline_ms, start.token) == (2_500, headers[SESSION])
        assert start.trace == "00-ab-cd-01"


@pytest.mark.parametrize(("retry_after_s", "said"), [(0.01, "1"), (3.2, "4")])
async def test_who_is_refused_is_told_when_to_come_back(
    serve: Serve, retry_after_s: float, said: str
) -> None:
    async def fails(start: Start) -> tuple[int, bytes]:
        raise Overloaded(retry_after_s, "too many calls")

    async with serve({"f": fails}) as served, served.http.post("/f/f") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, said)


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (UnknownFunction("nope"), 404, {"function": "nope"}),
        (InvalidArguments("price", "item", "is missing"), 400, {"argument": "item"}),
        (CallTimeout("slow", 2.0), 504, {"definite": False}),
        (Overloaded(1.0, "too many calls"), 429, {"retryable": True}),
        (WorkerLost("f", "killed"), 502, {"retryable": True, "definite": False}),
        (FunctionFailed("f", "ValueError", "no", "Traceback"), 500, {"type_name": "ValueError"}),
        (FunctionFailed("f", "CallTooDeep", "at depth 65", "Traceback"), 508, {"definite": False}),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_what_came_of_a_call_is_a_status_and_a_problem(
    serve: Serve, error: BokilogError, status: int, told: dict[str, object]
) -> None:
    async def fails(start: Start) -> tuple[int, bytes]:
        raise error

    async with serve({"f": fails}) as served, served.http.post("/f/f") as answer:
        problem = await answer.json(content_type="application/problem+json")
        assert answer.status == problem["status"] == status
        assert ("Retry-After" in answer.headers) == (status == 429)
    assert problem["title"] == type(error).__name__
    assert told.items() <= problem.items()
    assert problem["call"]
    assert "trace" not in problem, "pages of it, for nobody who asked"


async def test_a_python_object_cannot_be_answered(serve: Serve) -> None:
    async def pickled(start: Start) -> tuple[int, bytes]:
        return Encoding.PICKLE, b"..."

    async with serve({"f": pickled}) as served, served.http.post("/f/f") as answer:
        problem = await answer.json()
        assert (answer.status, problem["retryable"], problem["definite"]) == (406, False, False)


async def test_a_stop_that_has_waited_tells_callers_what_became_of_their_calls(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_TELL_S", 60.0)

    async def until_cancelled(start: Start) -> tuple[int, bytes]:
        (running,) = served.runner.running
        await running.gone.wait()
        raise CallCancelled("f", "its caller does not want it")

    async with serve({"f": until_cancelled}, drain_s=0.01) as served:
        asking = asyncio.ensure_future(served.http.post("/f/f").__aenter__())
        while not served.runner.running:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await served.gateway.aclose()
        answer = await asking
        problem = await answer.json()
        assert (answer.status, problem["title"], problem["definite"]) == (502, "WorkerLost", False)
        assert "its host stops" in problem["detail"] and problem["call"]
        assert served.runner.running[0].cancelled == ["its host stops"]


@pytest.mark.parametrize("how", ["status", "result", "key"])
async def test_a_stop_says_of_durable_calls_how_they_stand(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(server, "_TELL_S", 60.0)
    async with serve({"echo": echo}, drain_s=0.01) as served:
        key = {"Idempotency-Key": "k"}
        headers = {"Prefer": "respond-async", **key}
        async with served.http.post("/f/echo", json={"x": 1}, headers=headers) as answer:
            where = answer.headers["Location"]
        asking = {
            "status": served.http.get(where, params={"wait_s": "50"}),
            "result": served.http.get(f"{where}/result", params={"wait_s": "50"}),
            "key": served.http.post("/f/echo", json={"x": 1}, headers=key),
        }
        asked = asyncio.ensure_future(asking.pop(how).__aenter__())
        for other in asking.values():
            other.close()
        while not served.log.client.core.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await served.gateway.aclose()
        answer = await asked
        told = await answer.json()
        assert told["call"] == where.removeprefix("/calls/")
        assert (answer.status, told["state" if how == "status" else "status"]) == (
            (200, "waiting") if how == "status" else (202, where)
        )


async def test_a_client_that_goes_has_cancelled_its_call(serve: Serve) -> None:
    async with serve({"never": never}) as served:
        asking = asyncio.ensure_future(served.http.post("/f/never").__aenter__())
        while not served.runner.running:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        asking.cancel()
        (running,) = served.runner.running
        await asyncio.wait_for(running.gone.wait(), 10)
        assert running.cancelled == ["the client is gone"]
        assert running.task is not None
        running.task.cancel()


async def run_durable(served: Served) -> DurableCalls:
    durable = DurableCalls(served.log, "shop", served.runner, "host-1")
    await durable.start()
    return durable


async def test_an_accepted_call_can_be_asked_for(serve: Serve) -> None:
    async with serve({"echo": echo}) as served:
        headers = {"Prefer": "respond-async"}
        async with served.http.post("/f/echo", json={"x": 1}, headers=headers) as answer:
            assert answer.status == 202
            where = answer.headers["Location"]
        async with served.http.get(f"{where}/result") as answer:
            assert answer.status == 202, "nobody runs it yet"
        async with served.http.get(where) as answer:
            assert (await answer.json())["state"] == "waiting"
        durable = await run_durable(served)
        try:
            async with served.http.get(f"{where}/result?wait_s=10") as answer:
                assert await answer.json() == {"x": 1}
            async with served.http.get(where) as answer:
                assert (await answer.json())["state"] == "finished"
        finally:
            await durable.aclose()


async def test_a_key_gives_the_result_of_the_first_call(serve: Serve) -> None:
    async with serve({"echo": echo}) as served:
        durable = await run_durable(served)
        try:
            headers = {"Idempotency-Key": "k"}
            for _ in range(2):
                async with served.http.post("/f/echo", json={"x": 1}, headers=headers) as answer:
                    assert await answer.json() == {"x": 1}
            assert len(served.runner.started) == 1
            async with served.http.post("/f/echo", json={"x": 2}, headers=headers) as answer:
                assert answer.status == 422
        finally:
            await durable.aclose()


async def test_a_session_that_is_none_is_the_callers_mistake(serve: Serve) -> None:
    async with serve({"echo": echo}) as served:
        headers = {"Bokilog-Session": "garbage"}
        async with served.http.post("/f/echo", json={}, headers=headers) as answer:
            assert (answer.status, (await answer.json())["title"]) == (400, "InvalidToken")
        assert served.runner.started == []


async def test_a_result_is_the_only_event_of_what_is_no_generator(serve: Serve) -> None:
    async with serve({"echo": echo}) as served:
        durable = await run_durable(served)
        try:
            headers = {"Accept": "text/event-stream"}
            async with served.http.post("/f/echo", json={"x": 1}, headers=headers) as answer:
                events = (await answer.text()).split("\n\n")
            assert [each.partition("\n")[0] for each in events if each] == [
                "event: call",
                'data: {"x": 1}',
                "event: done",
            ]
        finally:
            await durable.aclose()


@pytest.mark.parametrize(
    ("end", "shown"), [((Encoding.JSON, b"null"), ["data: null"]), (END_OF_STREAM, [])]
)
async def test_none_is_a_result_and_the_end_of_a_generator_is_none(
    serve: Serve, end: tuple[int, bytes], shown: list[str]
) -> None:
    async def over(start: Start) -> tuple[int, bytes]:
        return end

    async with serve({"f": over}) as served:
        durable = await run_durable(served)
        try:
            headers = {"Accept": "text/event-stream", "Content-Type": "application/msgpack"}
            body = pack([[], {}])
            async with served.http.post("/f/f", data=body, headers=headers) as answer:
                events = (await answer.text()).split("\n\n")
        finally:
            await durable.aclose()
    told = [each.partition("\n")[0] for each in events if each]
    assert told == ["event: call", *shown, "event: done"]


async def test_a_python_object_is_no_event_but_a_problem(serve: Serve) -> None:
    async def pickled(start: Start) -> tuple[int, bytes]:
        return Encoding.PICKLE, b"..."

    async with serve({"f": pickled}) as served:
        durable = await run_durable(served)
        try:
            headers = {"Accept": "text/event-stream"}
            async with served.http.post("/f/f", headers=headers) as answer:
                lines = (await answer.text()).splitlines()
        finally:
            await durable.aclose()
    assert "event: problem" in lines
    assert "event: done" not in lines
    told = json.loads(lines[lines.index("event: problem") + 1].removeprefix("data: "))
    assert told["title"] == "NotSupported", "and not what msgpack says of a pickle"


async def test_a_call_can_be_cancelled(serve: Serve) -> None:
    async with serve({"never": never}) as served:
        headers = {"Prefer": "respond-async"}
        async with served.http.post("/f/never", headers=headers) as answer:
            where = answer.headers["Location"]
        async with served.http.delete(where) as answer:
            assert (await answer.json())["state"] == "cancelled"
        async with served.http.get(f"{where}/result") as answer:
            assert answer.status == 409


@pytest.mark.parametrize("name", ["Bokilog-Session", "Idempotency-Key", "traceparent"])
async def test_a_header_that_is_no_utf_8_is_refused_before_it_reaches_the_host(
    serve: Serve, name: str
) -> None:
    async with serve({"echo": echo}) as served:
        url = urlsplit(served.gateway.url)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        head = f"POST /f/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n{name}: ".encode()
        writer.write(head + b"\xff\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400")
        assert f"the header {name} is not UTF-8".encode() in answer
        assert served.runner.started == []


async def _said(served: Served, request: bytes) -> bytes:
    """All that is answered to some bytes."""
    url = urlsplit(served.gateway.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/f/%ff", "the path '/f/%ff'"),
        ("/books/%ed%a0%80/records", "the path '/books/%ed%a0%80/records'"),
        ("/books/b/records?tag=%ff", "the query 'tag=%ff'"),
    ],
)
async def test_a_path_or_query_that_is_no_utf_8_is_refused(
    serve: Serve, path: str, part: str
) -> None:
    async with serve({"echo": echo}) as served:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
        answer = await _said(served, head.encode() + b"Connection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400")
        assert f"{part} is not UTF-8".encode() in answer
        assert served.runner.started == []
        assert await served.log.books() == []


async def test_bytes_that_are_no_http_leave_no_traceback(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve({"echo": echo}) as served:
        head = b"POST /f/echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await _said(served, head + b"zz\r\n")
        assert b" 400 Bad Request" in answer.splitlines()[0]
        assert b"Invalid character in chunk size" in answer
    assert not [each for each in caplog.records if each.exc_info]


async def test_a_body_that_is_not_encoded_as_it_says_is_refused(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve({"echo": echo}) as served:
        headers = {"Content-Encoding": "gzip"}
        async with served.http.post("/f/echo", data=b"not gzip", headers=headers) as answer:
            assert answer.status == 400
            assert "gzip" in (await answer.json())["detail"]
    assert not [each for each in caplog.records if each.exc_info]


@pytest.mark.parametrize("key", ["", "k" * 257])
async def test_a_key_that_is_none_is_refused(serve: Serve, key: str) -> None:
    async with serve({"echo": echo}) as served:
        headers = {"Idempotency-Key": key}
        async with served.http.post("/f/echo", headers=headers) as answer:
            assert answer.status == 400
            assert (await answer.json())["title"] == "InvalidKey"


async def test_unknown_functions_and_calls_are_not_accepted(serve: Serve) -> None:
    async with serve({"echo": echo}) as served:
        headers = {"Prefer": "respond-async"}
        async with served.http.post("/f/ecko", headers=headers) as answer:
            assert answer.status == 404
            assert "GET /functions" in (await answer.json(content_type=None))["detail"]
        async with served.http.get("/calls/0123") as answer:
            assert answer.status == 404
        async with served.http.post("/f/echo", headers={"Bokilog-Timeout": "soon"}) as answer:
            assert answer.status == 400


async def test_functions_are_listed_but_not_those_of_the_app_itself(serve: Serve) -> None:
    async with serve({"echo": echo, "$pickled": echo}) as served:
        async with served.http.get("/functions") as answer:
            (row,) = (await answer.json())["functions"]
            assert (row["name"], row["signature"]) == ("echo", "(x: int) -> int")
        async with served.http.post("/f/$pickled", data=b"code") as answer:
            assert answer.status == 404
        assert served.runner.started == []


async def test_a_stream_goes_on_at_another_gateway(serve: Serve) -> None:
    from bokilog.functions.books import app_book
    from bokilog.functions.calls.records import (
        Finished,
        ItemYielded,
        encode,
        tags_of,
    )
    from bokilog.functions.calls.spawning import spawn

    async with serve({"count": never}) as served:
        call = await spawn(served.log, "shop", "count", b"{}", Encoding.JSON, stream=True)
        book = served.log.book(app_book("shop"))

        async def yield_one(place: int) -> None:
            item = ItemYielded(call.id, 0, place, Encoding.JSON, json.dumps(place).encode())
            await book.append(encode(item), tags_of(item))

        await yield_one(0)
        await yield_one(1)
        async with served.http.get(f"/calls/{call.id}/items") as answer:
            assert (await answer.content.readuntil(b"\n\n")).startswith(b"event: call\n")
            first = await answer.content.readuntil(b"\n\n")
            place = first.split(b"\n")[0].removeprefix(b"id: ")
            assert first.endswith(b"data: 0\n\n")
        await yield_one(2)
        over = Finished(call.id, "host-1/x", 0, Encoding.JSON, "", [], 1, b"null")
        await book.append(encode(over), tags_of(over, stream=True))
        after = {"Last-Event-ID": place.decode()}
        async with served.http.get(f"/calls/{call.id}/items", headers=after) as answer:
            rest = await answer.content.read()
        data = [line for line in rest.decode().split("\n") if line.startswith("data: ")]
        assert data[:2] == ["data: 1", "data: 2"]
        assert b"event: done" in rest
