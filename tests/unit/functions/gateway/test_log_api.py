"""The log over HTTP, asked by a client that is not ours."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from bokilog.functions.gateway.requests import SESSION
from tests.unit.functions.gateway.conftest import Serve

pytestmark = pytest.mark.asyncio


async def test_a_record_goes_in_and_comes_out_by_seqnum_and_by_tag(serve: Serve) -> None:
    async with serve() as served:
        body = {"data": "2 coats", "tags": ["order:42"]}
        async with served.http.post("/books/orders/records", json=body) as answer:
            assert answer.status == 201
            seqnum = (await answer.json())["seqnum"]
            session = answer.headers[SESSION]
        seen = {SESSION: session}
        async with served.http.get(f"/books/orders/records/{seqnum}", headers=seen) as answer:
            assert await answer.read() == b"2 coats"
            assert answer.headers["Bokilog-Tags"] == '["order:42"]'
        wanted = {"tag": "order:42"}
        json_only = {"Accept": "application/json", **seen}
        async with served.http.get(
            "/books/orders/prev", params=wanted, headers=json_only
        ) as answer:
            record = await answer.json()
        assert (record["seqnum"], record["data"]) == (seqnum, "2 coats")


async def test_bytes_of_any_kind_go_in_as_they_are(serve: Serve) -> None:
    async with serve() as served:
        raw = bytes(range(256))
        headers = {"Content-Type": "application/octet-stream", "Idempotency-Key": "k"}
        tags = [("tag", "a"), ("tag", "b")]
        seqnums = []
        for _ in range(2):
            async with served.http.post(
                "/books/blobs/records", params=tags, data=raw, headers=headers
            ) as answer:
                seqnums.append((await answer.json())["seqnum"])
        assert seqnums[0] == seqnums[1], "one key, one record"
        record = await served.log.book("blobs").read_next(tag="b")
        assert record is not None
        assert record.data == raw
        async with served.http.get("/books/blobs/records") as answer:
            page = await answer.json()
        assert base64.b64decode(page["records"][0]["data_base64"]) == raw
        assert page["more"] is False


async def test_a_unit_with_a_condition_is_whole_or_absent(serve: Serve) -> None:
    async with serve() as served:
        unit = {
            "records": [{"data": "a", "tags": "x"}, {"data_base64": "Yg=="}],
            "unless": {"x": 0},
        }
        async with served.http.post("/books/b/records", json=unit) as answer:
            told = await answer.json()
            assert told["until"] - told["first"] == 2
        async with served.http.post("/books/b/records", json=unit) as answer:
            assert answer.status == 412
            assert answer.content_type == "application/problem+json"
            problem = await answer.json()
        assert (problem["title"], problem["tag"], problem["winner"]) == (
            "ConditionFailed",
            "x",
            told["first"],
        )
        assert problem["definite"] is True


async def test_a_follow_goes_on_after_the_last_event(serve: Serve) -> None:
    async with serve() as served:
        book = served.log.book("news")
        first = await book.append(b"one", "t")
        second = await book.append(b"two", "t")
        after = {"Last-Event-ID": str(first)}
        async with served.http.get(
            "/books/news/follow", params={"tag": "t"}, headers=after
        ) as answer:
            assert answer.content_type == "text/event-stream"
            assert await answer.content.readline() == f"id: {second}\n".encode()
            line = (await answer.content.readline()).decode()
            assert json.loads(line.removeprefix("data: "))["data"] == "two"
            await answer.content.readline()
            third = await book.append(b"three", "t")
            assert await answer.content.readline() == f"id: {third}\n".encode()


async def test_a_stop_ends_streams(serve: Serve) -> None:
    async with serve() as served:
        await served.log.book("news").append(b"one")
        async with served.http.get("/books/news/follow") as answer:
            await answer.content.readuntil(b"\n\n")
            await asyncio.wait_for(served.gateway.aclose(), 5)
            assert await answer.content.read() == b""


async def test_a_long_poll_waits_for_a_record(serve: Serve) -> None:
    async with serve() as served:
        book = served.log.book("jobs")
        await book.append(b"other")
        params = {"tag": "job", "wait_s": "10"}
        asked = asyncio.create_task(served.http.get("/books/jobs/next", params=params).__aenter__())
        await asyncio.sleep(0)
        await book.append(b"here", "job")
        answer = await asked
        assert await answer.read() == b"here"
        answer.release()


@pytest.mark.parametrize("path", ["next", "prev", "records", "records/7"])
async def test_a_long_poll_is_told_that_its_host_stops(serve: Serve, path: str) -> None:
    async with serve(drain_s=60.0) as served:
        await served.log.create_book("jobs")
        where = {"wait_s": "50", **({} if path == "records/7" else {"tag": "job"})}
        async with served.http.get("/books/jobs"):
            pass  # the connection is there
        asked = asyncio.create_task(
            served.http.get(f"/books/jobs/{path}", params=where).__aenter__()
        )
        while not served.log.client.core.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await served.gateway.aclose()
        answer = await asked
        problem = await answer.json()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert (problem["title"], problem["retryable"]) == ("NotReady", True)
        assert "this host stops before the wait is over" in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/books/b/next", 404),
        ("PUT", "/books", 405),
        ("GET", "/books/b/next?wait=1", 400),
    ],
)
async def test_every_refusal_says_what_may_be_concluded(
    serve: Serve, method: str, path: str, status: int
) -> None:
    async with serve() as served, served.http.request(method, path) as answer:
        problem = await answer.json()
        assert (answer.status, problem["retryable"], problem["definite"]) == (status, False, True)


@pytest.mark.parametrize("place", ["body", "header"])
async def test_an_empty_key_is_refused(serve: Serve, place: str) -> None:
    """As of a variable that is not set: the append would else be no retry, and nobody be told."""
    body = {"data": "x", **({"key": ""} if place == "body" else {})}
    headers = {"Idempotency-Key": ""} if place == "header" else {}
    async with serve() as served:
        path = "/books/b/records"
        async with served.http.post(path, json=body, headers=headers) as answer:
            assert (answer.status, (await answer.json())["title"]) == (400, "InvalidKey")
        assert await served.log.books() == []


async def test_logbooks_are_made_told_trimmed_and_deleted(serve: Serve) -> None:
    async with serve() as served:
        made = {"durability": "flush", "retention_s": 60}
        async with served.http.put("/books/b", json=made) as answer:
            assert (await answer.json())["durability"] == "flush"
        seqnum = await served.log.book("b").append(b"x")
        async with served.http.post("/books/b/trim", json={"until": seqnum + 1}) as answer:
            assert await answer.json() == {"until": seqnum + 1, "held_by": None}
        async with served.http.get("/books/b/tail") as answer:
            assert (await answer.json())["tail"] > seqnum
        async with served.http.get(f"/books/b/records/{seqnum}") as answer:
            assert answer.status == 410
        async with served.http.get("/books") as answer:
            assert [each["book"] for each in (await answer.json())["books"]] == ["b"]
        async with served.http.delete("/books/b") as answer:
            assert answer.status == 204
        async with served.http.get("/books/b") as answer:
            assert answer.status == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "told"),
    [
        ("GET", "/nowhere", None, 404, "GET / says what is there"),
        ("GET", "/books/b/records?limit=many", None, 400, "limit='many' is not a whole number"),
        ("GET", "/books/b/records?limit=" + "9" * 5000, None, 400, "is not a whole number"),
        ("GET", "/books/b/next?wait_s=-1", None, 400, "wait_s='-1'"),
        ("GET", "/books/b/next?consistency=maybe", None, 400, "neither session nor linearizable"),
        ("GET", "/books/b/records?reverse=perhaps", None, 400, "neither true nor false"),
        ("GET", "/books/b/records?limit=0", None, 400, "limit"),
        ("POST", "/books/b/records", b"{", 400, "the body is not JSON"),
        ("POST", "/books/b/records", b"[" * 100_000, 400, "the body is not JSON"),
        ("POST", "/books/b/records", b"[]", 400, "not a JSON object"),
        ("POST", "/books/b/records", b'{"data": 1}', 400, "say bytes as data_base64"),
        ("POST", "/books/b/records", b'{"data_base64": "?"}', 400, "data_base64"),
        ("POST", "/books/b/records", '{"data_base64": "é"}'.encode(), 400, "data_base64"),
        ("POST", "/books/b/records", b'{"date": "x"}', 400, "'date' is not known here"),
        ("POST", "/books/b/records", b'{"data": "x", "tags": 3}', 400, "tags is not a list"),
        ("POST", "/books/b/records", b'{"data": "x", "tags": [3]}', 400, "tag"),
        ("POST", "/books/b/records", b'{"records": []}', 400, "a unit"),
        ("POST", "/books/b/trim", b'{"until": "now"}', 400, "until is not a seqnum"),
        ("PUT", "/books/b", b'{"durability": "paper"}', 400, "'paper' is none of"),
        ("PUT", "/books/b", b'{"retention_s": "long"}', 400, "retention_s is not a number"),
        ("PUT", "/books/b?durability=flush", None, 400, "'durability' is not known in this query"),
        ("GET", "/books/b/records?limt=3", None, 400, "'limt' is not known in this query"),
        ("GET", "/books/b/records?limit=1&limit=2", None, 400, "'limit' is said more than once"),
        ("GET", "/books/b/next?tag=a&tag=a", None, 400, "'tag' is said more than once"),
        ("POST", "/books/b/records?tag=a", b'{"data": "x"}', 400, "'tag' is not known"),
        ("GET", "/books/b/tail?consistency=maybe", None, 400, "neither session nor linearizable"),
        ("POST", "/f/price?item=coat", b"{}", 400, "'item' is not known in this query: nothing is"),
        ("PATCH", "/books/b", None, 405, "/books/b takes DELETE, GET, PUT, and not PATCH"),
        ("GET", "/f/price", None, 405, "/f/price takes POST, and not GET"),
    ],
)
async def test_a_wrong_request_is_told_what_is_wrong(
    serve: Serve, method: str, path: str, body: bytes | None, status: int, told: str
) -> None:
    async with serve() as served:
        headers = {"Content-Type": "application/json"}
        async with served.http.request(method, path, data=body, headers=headers) as answer:
            problem = await answer.json(content_type="application/problem+json")
            assert (answer.status, problem["status"]) == (status, status)
        assert told in problem["detail"]


async def test_a_bad_session_is_refused(serve: Serve) -> None:
    wrong = {SESSION: "nonsense"}
    async with serve() as served, served.http.get("/books/b/tail", headers=wrong) as answer:
        assert answer.status == 400
        problem = await answer.json(content_type="application/problem+json")
        assert problem["title"] == "InvalidToken"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "[::1"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://[::1"},
    ],
    ids=str,
)
async def test_pages_of_other_sites_get_nothing(serve: Serve, headers: dict[str, str]) -> None:
    async with serve() as served, served.http.get("/books", headers=headers) as answer:
        assert answer.status == 403


async def test_text_that_is_no_text_is_refused(serve: Serve) -> None:
    async with serve() as served:
        headers, body = {"Content-Type": "application/json"}, b'{"data": "\\ud800"}'
        async with served.http.post("/books/b/records", data=body, headers=headers) as answer:
            assert answer.status == 400
            assert "data_base64" in (await answer.json())["detail"]


@pytest.mark.parametrize("chunked", [True, None])
async def test_a_body_over_the_limit_is_refused(serve: Serve, chunked: bool | None) -> None:
    async with serve(body_bytes_max=1 << 10) as served:
        body = b"x" * 2_000
        async with served.http.post("/books/b/records", data=body, chunked=chunked) as answer:
            assert answer.status == 413
            assert "1024" in (await answer.json())["detail"]
