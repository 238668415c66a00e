"""URLs, seeds, and the port over a socket of this machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bokilog.client import connect as connecting, opening
from bokilog.client.admin import ClientLog
from bokilog.client.connect import NetworkPort, addresses_of, connect
from bokilog.client.node import Client
from bokilog.client.opening import register_opener
from bokilog.client.port import Events, Frames
from bokilog.errors import AppendUnknown, InvalidSettings, NodeUnreachable, RemoteProtocolError
from bokilog.framing import WireMessage
from bokilog.io.link import Link, LinkCallbacks
from bokilog.io.transport import Listener, listen
from bokilog.messages import AppendFrame, Hello, Message, StatusRequest, Welcome
from bokilog.shared_records import SharedReader
from bokilog.wire import decode, encode
from tests.unit.client.fake_engine import FakeEngine
from tests.unit.client.opened import until


class Served(FakeEngine):
    """The fake engine behind a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[Link] = []
        self.hellos: list[Hello] = []
        self.cluster = "c"

    def on_up(self, welcome: Welcome) -> None: ...

    def on_shared(self, shared: SharedReader | None) -> None: ...

    def on_down(self, reason: str, unsent: Frames = ()) -> None: ...

    def on_messages(self, messages: list[Message]) -> None:
        for message in messages:
            self.links[-1].send(*encode(message))

    def on_wire(self, link: Link, wire: Sequence[WireMessage]) -> None:
        for each in wire:
            message = decode(*each)
            if isinstance(message, Hello):
                self.hellos.append(message)
                self.links.append(link)
                self.attach(self)
                link.send(*encode(self.welcome()._replace(cluster_id=self.cluster)))
            else:
                self.send(message)

    async def listen(self, path: Path) -> Listener:
        return await listen(f"unix:{path}", LinkCallbacks(on_messages=self.on_wire))


@asynccontextmanager
async def served(path: Path) -> AsyncGenerator[Served, None]:
    engine = Served()
    listener = await engine.listen(path)
    try:
        yield engine
    finally:
        await listener.aclose()


@asynccontextmanager
async def two_seeds(
    one: Path, two: Path, *, patience_s: float = 5.0
) -> AsyncGenerator[ClientLog, None]:
    """A log over two unix sockets, which URLs do not name, of which the first is tried first."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(connecting, "PATIENCE_S_MIN", patience_s)
        ports: list[NetworkPort] = []

        def attach(events: Events) -> NetworkPort:
            ports.append(NetworkPort([f"unix:{one}", f"unix:{two}"], events))
            return ports[0]

        client = Client(attach, on_close=lambda: ports[0].aclose())
        await client.wait_up(5)
        async with ClientLog(client) as log:
            yield log


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("bokilog://127.0.0.1:7300", ["tcp:127.0.0.1:7300"]),
        ("bokilog://a:1,b, c:3/", ["tcp:a:1", "tcp:b:7300", "tcp:c:3"]),
        ("bokilog://[::1]", ["tcp:[::1]:7300"]),
        ("bokilog://[::1]:5", ["tcp:[::1]:5"]),
        ("bokilog+unix:///run/x.sock", ["unix:/run/x.sock"]),
    ],
)
def test_a_url_names_its_seeds(url: str, addresses: list[str]) -> None:
    assert addresses_of(url) == addresses


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://a",
        "bokilog:a",
        "bokilog://",
        "bokilog://a:x",
        "bokilog://a,,b",
        "bokilog+unix://x",
    ],
)
def test_anything_else_is_named(url: str) -> None:
    with pytest.raises(InvalidSettings, match="url"):
        addresses_of(url)


@pytest.mark.asyncio
async def test_a_log_over_a_socket_does_what_one_here_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"bokilog+unix://{tmp_path}/e.sock"
    async with served(tmp_path / "e.sock") as engine:
        async with connect(url) as log:
            book = log.book("orders")
            await book.append(b"first", ["a", "b"])
            large = bytes(range(256)) * 2_000
            seqnums = await asyncio.gather(*(book.append(b"x", "t") for _ in range(50)))
            big = await book.append(large)
            found = await book.read(big)
            assert found is not None and found.data == large
            assert [r.seqnum async for r in book.scan(tag="t")] == seqnums
        assert engine.hellos[0].role == "client" and engine.hellos[0].incarnation > 0
        monkeypatch.setenv("BOKILOG_URL", url)
        again = await connect()
        assert (await again.books())[0].book == "orders"
        await again.aclose()


@pytest.mark.asyncio
async def test_a_lost_engine_is_replaced_by_the_next_seed(tmp_path: Path) -> None:
    one, two = tmp_path / "1.sock", tmp_path / "2.sock"
    async with served(two) as second:
        first = Served()
        first.spaces = second.spaces
        listener = await first.listen(one)
        async with two_seeds(one, two) as log:
            book = log.book("orders")
            await book.append(b"1")
            first.answering = False
            unknown = asyncio.create_task(book.append(b"2"))
            keyed = asyncio.create_task(book.append(b"3", key="k"))
            await until(lambda: first.inbox)
            await listener.aclose()
            with pytest.raises(AppendUnknown):
                await unknown
            assert await keyed > 0
            assert [r.data async for r in book.scan()] == [b"1", b"3"]
            assert len(second.hellos) == 1


@pytest.mark.asyncio
async def test_p23_what_never_left_for_a_lost_engine_goes_to_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends in the very tick in which the frame was sent: nothing of it was written,
    so it certainly did not happen, and its caller only waits."""
    one, two = tmp_path / "1.sock", tmp_path / "2.sock"
    async with served(one) as first, served(two) as second:
        first.spaces = second.spaces
        async with two_seeds(one, two) as log:
            book = log.book("orders")
            await book.append(b"1")
            usual, cut = NetworkPort.send, asyncio.Event()

            def send(port: NetworkPort, message: Message) -> bool:
                taken = usual(port, message)
                if isinstance(message, AppendFrame) and not cut.is_set():
                    assert port._link is not None
                    port._link.abort()
                    cut.set()
                return taken

            monkeypatch.setattr(NetworkPort, "send", send)
            assert await book.append(b"2") > 0
            assert [bytes(b"".join(frame.payload)) for frame in second.frames()] == [b"2"]
            assert len(first.frames()) == 2  # the creation, and the first record


@pytest.mark.asyncio
async def test_a_silent_seed_is_left_for_the_next_one_soon(tmp_path: Path) -> None:
    """A machine that is gone does not even refuse; connecting must reach the others all the same,
    and follow a session to them."""
    one, two = tmp_path / "1.sock", tmp_path / "2.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(one))
        silent.listen()
        async with served(two) as second, two_seeds(one, two, patience_s=0.05) as log:
            await log.book("orders").append(b"x")
            assert len(second.hellos) == 1


@pytest.mark.asyncio
async def test_a_seed_that_does_not_greet_is_left_for_the_next_one_soon(tmp_path: Path) -> None:
    """An engine that lost the sequencer cannot greet; another one may have it still."""
    one, two = tmp_path / "1.sock", tmp_path / "2.sock"
    mute = await listen(f"unix:{one}", LinkCallbacks(on_messages=lambda link, messages: None))
    async with served(two), two_seeds(one, two, patience_s=0.05) as log:
        await log.book("orders").append(b"x")
        port = log.client.core.port
        assert isinstance(port, NetworkPort)
        assert "did not greet within 0.05 s" in port.last_error
    await mute.aclose()


def test_patience_with_a_seed_grows_by_rounds_unless_it_is_the_only_one() -> None:
    patience = [connecting._patience_s(rounds, seeds=3) for rounds in (0, 1, 2, 3, 4, 99)]
    assert patience == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert connecting._patience_s(0, seeds=1) == 5.0


@pytest.mark.asyncio
async def test_every_seed_that_failed_is_named(tmp_path: Path) -> None:
    one, two = tmp_path / "1.sock", tmp_path / "2.sock"
    client = Client(lambda events: NetworkPort([f"unix:{one}", f"unix:{two}"], events))
    port = client.core.port
    assert isinstance(port, NetworkPort)
    await until(lambda: port.last_error.count("No such file") == 2)
    assert str(one) in port.last_error and str(two) in port.last_error
    await client.aclose()
    await port.aclose()


@pytest.mark.asyncio
async def test_without_an_answer_connecting_fails_in_time_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(NodeUnreachable, match=r"No such file.*connect_timeout_s=0.25"):
        await connect(f"bokilog+unix://{tmp_path}/none.sock", connect_timeout_s=0.25)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.asyncio
async def test_an_engine_of_another_cluster_is_refused(tmp_path: Path) -> None:
    url = f"bokilog+unix://{tmp_path}/e.sock"
    async with served(tmp_path / "e.sock") as engine, connect(url) as log:
        await log.book("a").append(b"x")
        engine.cluster = "another"
        engine.links[-1].abort()
        await until(lambda: len(engine.hellos) == 2)
        with pytest.raises(NodeUnreachable, match="another"):
            await log.book("a").append(b"y", timeout_s=0.5)


@pytest.mark.asyncio
async def test_what_is_nothing_for_a_client_ends_the_connection(tmp_path: Path) -> None:
    url = f"bokilog+unix://{tmp_path}/e.sock"
    async with served(tmp_path / "e.sock") as engine, connect(url) as log:
        await log.book("a").append(b"x")
        engine.links[-1].send(*encode(StatusRequest(1)))
        await until(lambda: len(engine.hellos) == 2)
        assert await log.book("a").append(b"y") > 0
    with pytest.raises(RemoteProtocolError):
        log.client.core.on_messages([StatusRequest(1)], 0)


def test_a_log_that_is_not_open_says_how_to_open_it() -> None:
    opened = connect("memory:")
    with pytest.raises(AttributeError, match="not open has no 'book': `async with` or `await`"):
        _ = opened.book  # type: ignore[attr-defined]
    assert not hasattr(opened, "append")


@pytest.mark.asyncio
async def test_logs_of_this_process_are_opened_by_who_registered_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str | None, float]] = []

    async def opener(directory: str | None, timeout_s: float) -> ClientLog:
        asked.append((directory, timeout_s))
        return ClientLog(Client(FakeEngine().attach))

    monkeypatch.setattr(opening, "_OPENERS", {})
    register_opener("file", opener)
    register_opener("memory", opener)
    async with connect("file:data/x", timeout_s=3) as log:
        await log.book("a").append(b"x")
    await (await connect("memory:")).aclose()
    await (await connect("file:///abs")).aclose()
    assert asked == [("data/x", 3), (None, 30.0), ("/abs", 30.0)]
    for url in ("file:", "memory:x"):
        with pytest.raises(InvalidSettings):
            await connect(url)
