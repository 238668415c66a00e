"""Links, listeners and peers on real loopback sockets, on both kinds of event loop."""

import asyncio
import contextlib
import errno
import gc
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest
import uvloop

from bokilog.errors import (
    FormatTooNew,
    InvalidSettings,
    LocalProtocolError,
    NodeUnreachable,
    RemoteProtocolError,
)
from bokilog.framing import PREAMBLE, WireMessage, encode_message
from bokilog.io import addresses
from bokilog.io.addresses import TcpAddress, UnixAddress, parse_address
from bokilog.io.link import Ledger
from bokilog.io.transport import (
    Link,
    LinkCallbacks,
    LinkSettings,
    Loss,
    Peer,
    PeerCallbacks,
    _dial,
    dial,
    listen,
    redial_delay_s,
)

DEADLINE_S = 5.0
Story = Coroutine[object, object, None]
Run = Callable[[Story], None]
Plain = tuple[int, bytes, list[bytes]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs one story; then insists that no task is left and no callback raised."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    problems: list[dict[str, object]] = []

    async def whole(story: Story) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(context))
        async with asyncio.timeout(DEADLINE_S):
            await story
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert problems == []

    with asyncio.Runner(loop_factory=factory) as runner:
        yield lambda story: runner.run(whole(story))


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "tcp:127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/s"


class Changes:
    """What callbacks noted, and a way to wait for more of it."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    async def until(self, holds: Callable[[], object]) -> None:
        while not holds():
            self._changed.clear()
            await self._changed.wait()


class Side(Changes):
    """One end of connections: remembers every call about them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.links: list[Link] = []
        self.messages: list[Plain] = []
        self.errors: list[Exception | None] = []
        self.callbacks = LinkCallbacks(
            on_messages=self.on_messages,
            on_up=self.on_up,
            on_lost=self.on_lost,
            on_clogged=lambda _: self.call("clogged"),
            on_clear=lambda _: self.call("clear"),
        )

    def call(self, name: str) -> None:
        self.calls.append(name)
        self.changed()

    def on_up(self, link: Link) -> None:
        self.links.append(link)
        self.call("up")

    def on_lost(self, link: Link, error: Exception | None) -> None:
        self.errors.append(error)
        self.call("lost")

    def on_messages(self, link: Link, messages: list[WireMessage]) -> None:
        for kind, head, parts in messages:
            self.messages.append((kind, bytes(head), [bytes(part) for part in parts]))
        self.call("messages")


class Echo(Side):
    """Sends back what it gets."""

    def on_messages(self, link: Link, messages: list[WireMessage]) -> None:
        super().on_messages(link, messages)
        for message in messages:
            link.send(*message)


def raw_socket(address: str) -> socket.socket:
    parsed = parse_address(address)
    if isinstance(parsed, UnixAddress):
        client = socket.socket(socket.AF_UNIX)
        client.connect(parsed.path)
    else:
        client = socket.create_connection((parsed.host, parsed.port))
    client.setblocking(False)
    return client


def files(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


async def read_to_end(client: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    received = b""
    try:
        while more := await loop.sock_recv(client, 65_536):
            received += more
    except ConnectionResetError:
        pass
    return received


# --- links ----------------------------------------------------------------------------------------


def test_messages_come_back_as_they_were_sent(run: Run, address: str) -> None:
    async def story() -> None:
        server, client = Echo(), Side()
        listener = await listen(address, server.callbacks)
        link = await dial(listener.address, client.callbacks)
        sent: list[Plain] = [
            (1, b"head", []),
            (2, b"", [b"payload", b""]),
            (3, b"large", [os.urandom(3_000_000), b"x" * 20_000]),
            (255, b"last", [b"y"] * 300),
        ]
        for message in sent:
            assert link.send(*message)
        await client.until(lambda: len(client.messages) == len(sent))
        assert client.messages == server.messages == sent
        await link.aclose()
        await listener.aclose()
        assert client.calls[0] == server.calls[0] == "up"
        assert client.calls.count("lost") == server.calls.count("lost") == 1
        assert client.errors == server.errors == [None]

    run(story())


def test_one_turn_of_the_loop_makes_one_write(run: Run, address: str) -> None:
    async def story() -> None:
        server, client = Side(), Side()
        listener = await listen(address, server.callbacks)
        link = await dial(listener.address, client.callbacks)
        for n in range(100):
            link.send(1, bytes([n]), [b"payload"])
        assert link.stats().writes == 0
        assert link.stats().waiting_bytes == 100 * (8 + 4 + 1 + 7)
        await server.until(lambda: server.messages)
        assert len(server.messages) == 100
        assert server.calls == ["up", "messages"]
        stats, (accepted,) = link.stats(), server.links
        assert (stats.messages_out, stats.bytes_out, stats.writes) == (100, 2_000, 1)
        assert (accepted.stats().messages_in, accepted.stats().bytes_in) == (100, 2_000)
        await link.aclose()
        await listener.aclose()

    run(story())


def test_a_quiet_link_sends_no_message(run: Run, address: str) -> None:
    async def story() -> None:
        server, client = Side(), Side()
        listener = await listen(address, server.callbacks)
        link = await dial(listener.address, client.callbacks)
        await server.until(lambda: server.links)
        await link.aclose()
        await server.until(lambda: server.errors)
        for end in (link, *server.links):
            stats = end.stats()
            counts = (stats.messages_in, stats.bytes_in, stats.messages_out, stats.bytes_out)
            assert counts == (0, 0, 0, 0)
            assert stats.writes == 0
        await listener.aclose()

    run(story())


def test_flush_writes_at_once_and_the_turn_then_has_nothing_to_write(run: Run) -> None:
    async def story() -> None:
        server, client = Side(), Side()
        listener = await listen("tcp:127.0.0.1:0", server.callbacks)
        link = await dial(listener.address, client.callbacks)
        link.send(1, b"a")
        link.flush()
        assert link.stats().writes == 1
        await server.until(lambda: server.messages)
        assert link.stats().writes == 1
        await link.aclose()
        await listener.aclose()

    run(story())


def test_aclose_delivers_what_is_queued(run: Run, address: str) -> None:
    async def story() -> None:
        server, client = Side(), Side()
        listener = await listen(address, server.callbacks)
        link = await dial(listener.address, client.callbacks)
        link.send(1, b"h", [bytes(2_000_000)])
        await link.aclose()
        await server.until(lambda: server.errors)
        assert server.messages == [(1, b"h", [bytes(2_000_000)])]
        assert server.links[0].stats().loss is Loss.PEER_CLOSED
        assert link.stats().loss is Loss.CLOSED
        await listener.aclose()

    run(story())


def test_what_was_not_written_before_the_end_is_known_to_have_stayed_here(run: Run) -> None:
    """Whoever sent it may send it elsewhere; of what was written nobody knows."""

    async def story() -> None:
        client = Side()
        listener = await listen("tcp:127.0.0.1:0", Side().callbacks)
        link = await dial(listener.address, client.callbacks)
        link.send(1, b"written")
        assert (link.messages_out, link.messages_written) == (1, 0)
        link.flush()
        assert (link.messages_out, link.messages_written) == (1, 1)
        assert link._transport is not None
        link._transport.abort()  # as after a reset: the link hears of it in the next turn
        assert link.send(2, b"kept here")
        link.flush()
        await client.until(lambda: "lost" in client.calls)
        assert (link.messages_out, link.messages_written) == (2, 1)
        await listener.aclose()

    run(story())


def test_a_send_after_the_end_is_refused_and_counted(run: Run) -> None:
    async def story() -> None:
        server, client = Side(), Side()
        listener = await listen("tcp:127.0.0.1:0", server.callbacks)
        link = await dial(listener.address, client.callbacks)
        await listener.aclose()
        await client.until(lambda: client.errors)
        assert not link.send(1, b"a")
        stats = link.stats()
        assert (stats.refused, stats.messages_out, stats.loss) == (1, 0, Loss.PEER_CLOSED)
        await link.aclose()

    run(story())


def test_a_message_over_the_wire_limit_is_refused_and_the_link_goes_on(run: Run) -> None:
    async def story() -> None:
        server, client = Side(), Side()
        listener = await listen("tcp:127.0.0.1:0", server.callbacks)
        link = await dial(listener.address, client.callbacks)
        huge = memoryview(bytes(1 << 20))
        with pytest.raises(LocalProtocolError, match="the limit is"):
            link.send(1, b"h", [huge] * 100)
        link.send(1, b"small")
        await server.until(lambda: server.messages)
        assert server.messages == [(1, b"small", [])]
        await link.aclose()
        await listener.aclose()

    run(story())


def test_a_message_over_the_receivers_limit_ends_only_that_link(run: Run, address: str) -> None:
    async def story() -> None:
        server, client = Echo(), Side()
        settings = LinkSettings(message_bytes_max=1_000)
        listener = await listen(address, server.callbacks, settings=settings)
        good, bad = [await dial(listener.address, client.callbacks) for _ in range(2)]
        bad.send(1, bytes(2_000))
        await server.until(lambda: server.errors)
        assert "2008 bytes: the limit is 1000 bytes" in str(server.errors[0])
        good.send(1, b"still here")
        await client.until(lambda: client.messages)
        assert listener.stats().losses == {Loss.GARBAGE: 1}
        assert listener.stats().open_links == 1
        await bad.aclose()
        await good.aclose()
        await listener.aclose()

    run(story())


def test_a_side_that_does_not_read_clogs_the_other_and_reading_clears_it(
    run: Run, address: str
) -> None:
    async def story() -> None:
        server, client = Side(), Side()
        settings = LinkSettings(clogged_bytes=100_000)
        listener = await listen(address, server.callbacks)
        link = await dial(listener.address, client.callbacks, settings=settings)
        await server.until(lambda: server.links)
        server.links[0].pause_reading()
        sent = 0
        while "clogged" not in client.calls:
            sent += link.send(1, bytes(50_000))
            await asyncio.sleep(0)
        assert link.stats().waiting_bytes > 100_000
        assert link.send(1, b"queued all the same")
        server.links[0].resume_reading()
        await client.until(lambda: "clear" in client.calls)
        await server.until(lambda: len(server.messages) == sent + 1)
        assert client.calls[:3] == ["up", "clogged", "clear"]
        assert not link.clogged
        assert link.stats().clogged_count >= 1
        await link.aclose()
        await listener.aclose()

    run(story())


def test_a_side_that_never_reads_is_given_up_at_the_bound(run: Run, address: str) -> None:
    async def story() -> None:
        server, client = Side(), Side()
        settings = LinkSettings(queue_bytes_max=2_000_000, clogged_bytes=100_000)
        listener = await listen(address, server.callbacks, settings=settings)
        link = await dial(listener.address, client.callbacks)
        await server.until(lambda: server.links)
        link.pause_reading()
        (accepted,) = server.links
        most = 0
        while accepted.send(1, bytes(50_000)):
            most = max(most, accepted.stats().waiting_bytes)
            await asyncio.sleep(0)
        await server.until(lambda: server.errors)
        assert 1_900_000 < most <= 2_000_000
        assert "the limit is 2000000 bytes" in str(server.errors[0])
        assert listener.stats().losses == {Loss.QUEUE_FULL: 1}
        await link.aclose()
        await listener.aclose()

    run(story())


def test_one_turn_over_the_bound_is_given_up_before_it_is_written(run: Run) -> None:
    async def story() -> None:
        server, client = Side(), Side()
        listener = await listen("tcp:127.0.0.1:0", server.callbacks)
        settings = LinkSettings(queue_bytes_max=100_000, clogged_bytes=50_000)
        link = await dial(listener.address, client.callbacks, settings=settings)
        taken = [link.send(1, bytes(992)) for _ in range(102)]
        assert taken == [True] * 100 + [False] * 2
        await client.until(lambda: client.errors)
        assert (link.stats().loss, link.stats().writes) == (Loss.QUEUE_FULL, 0)
        await listener.aclose()
        assert server.messages == []

    run(story())


def test_an_on_messages_that_finds_garbage_ends_the_link(run: Run) -> None:
    async def story() -> None:
        server, client = Side(), Side()

        def refuse(link: Link, messages: list[WireMessage]) -> None:
            raise RemoteProtocolError("kind 77 is unknown")

        callbacks = LinkCallbacks(on_messages=refuse, on_lost=server.on_lost)
        listener = await listen("tcp:127.0.0.1:0", callbacks)
        link = await dial(listener.address, client.callbacks)
        link.send(77, b"?")
        await server.until(lambda: server.errors)
        assert "kind 77 is unknown" in str(server.errors[0])
        assert listener.stats().losses == {Loss.GARBAGE: 1}
        await link.aclose()
        await listener.aclose()

    run(story())


def test_tcp_links_do_not_delay_small_writes(run: Run) -> None:
    async def story() -> None:
        server, client = Side(), Side()
        listener = await listen("tcp:127.0.0.1:0", server.callbacks)
        link = await dial(listener.address, client.callbacks)
        await server.until(lambda: server.links)
        for end in (link, *server.links):
            assert end._transport is not None
            number = end._transport.get_extra_info("socket").fileno()
            with socket.socket(fileno=os.dup(number)) as same:
                assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        await link.aclose()
        await listener.aclose()

    run(story())


# --- strangers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "loss"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Loss.GARBAGE),
        (b"bokl\x02\x00\x00\x00", Loss.GARBAGE),
        (PREAMBLE + b"\xff" * 8, Loss.GARBAGE),
        (b"bok", Loss.HALF_MESSAGE),
        (PREAMBLE + b"".join(encode_message(1, b"cut"))[:-1], Loss.HALF_MESSAGE),
        (PREAMBLE + b"".join(encode_message(1, bytes(1 << 20)))[:-1], Loss.HALF_MESSAGE),
        (PREAMBLE, Loss.PEER_CLOSED),
        (b"", Loss.PEER_CLOSED),
    ],
)
def test_strange_bytes_end_only_their_connection_and_are_counted(
    run: Run, stream: bytes, loss: Loss
) -> None:
    async def story() -> None:
        server, client = Echo(), Side()
        listener = await listen("tcp:127.0.0.1:0", server.callbacks)
        link = await dial(listener.address, client.callbacks)
        with raw_socket(listener.address) as stranger:
            with contextlib.suppress(ConnectionError):
                await asyncio.get_running_loop().sock_sendall(stranger, stream)
                stranger.shutdown(socket.SHUT_WR)
            received = await read_to_end(stranger)
            assert received in (PREAMBLE, b"")  # a reset may overtake it
        assert listener.stats().losses == {loss: 1}
        link.send(1, b"still here")
        await client.until(lambda: client.messages)
        assert server.messages == [(1, b"still here", [])]
        await link.aclose()
        await listener.aclose()

    run(story())


def test_a_connection_that_never_introduces_itself_is_closed(run: Run) -> None:
    async def story() -> None:
        server = Side()
        settings = LinkSettings(greeting_timeout_s=0.02)
        listener = await listen("tcp:127.0.0.1:0", server.callbacks, settings=settings)
        with raw_socket(listener.address) as stranger:
            assert await read_to_end(stranger) in (PREAMBLE, b"")
        assert listener.stats().losses == {Loss.SILENT: 1}
        assert server.calls == []
        await listener.aclose()

    run(story())


async def stranger_at(path: str, answer: bytes) -> asyncio.Server:
    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PREAMBLE))  # closing with unread bytes would be a reset
        writer.write(answer)
        writer.close()

    return await asyncio.start_unix_server(on_connection, path)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"HTTP/1.1 400 Bad Request", RemoteProtocolError, "the stream starts with"),
        (b"bokl\x09\x00\x00\x00", FormatTooNew, "has format 9: this version reads up to 1"),
        (b"bok", RemoteProtocolError, "ended within a message"),
        (b"", NodeUnreachable, "closed the connection at once"),
    ],
)
def test_dialling_something_else_says_so(
    run: Run, tmp_path: Path, answer: bytes, error: type[Exception], text: str
) -> None:
    async def story() -> None:
        server = await stranger_at(f"{tmp_path}/s", answer)
        side = Side()
        with pytest.raises(error, match=text):
            await dial(f"unix:{tmp_path}/s", side.callbacks)
        assert side.calls == []
        server.close()
        await server.wait_closed()

    run(story())


def test_dialling_a_process_that_hangs_ends_at_the_deadline(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        hanging = addresses.listen_unix(f"{tmp_path}/s", backlog=0)
        crowd: list[socket.socket] = []
        for _ in ("its queue has room", "its queue is full"):
            with pytest.raises(NodeUnreachable, match=r"no answer within 0\.02 s"):
                await dial(f"unix:{tmp_path}/s", Side().callbacks, timeout_s=0.02)
            with contextlib.suppress(BlockingIOError):
                crowd += [addresses.connect_unix(f"{tmp_path}/s") for _ in range(4)]
        for each in (hanging, *crowd):
            each.close()

    run(story())


def test_a_cancelled_dial_leaves_no_connection(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        with addresses.listen_unix(f"{tmp_path}/s", backlog=8) as hanging:
            task = asyncio.create_task(dial(f"unix:{tmp_path}/s", Side().callbacks))
            loop = asyncio.get_running_loop()
            accepted, _ = await loop.sock_accept(hanging)
            with accepted:
                assert await loop.sock_recv(accepted, 100) == PREAMBLE
                task.cancel()
                assert await read_to_end(accepted) == b""
            with pytest.raises(asyncio.CancelledError):
                await task

    run(story())


@pytest.mark.parametrize("nowhere", ["tcp:127.0.0.1:1", "unix:/nonexistent/s"])
def test_dialling_nobody_is_unreachable_and_names_the_address(run: Run, nowhere: str) -> None:
    async def story() -> None:
        with pytest.raises(NodeUnreachable, match=f"cannot reach {nowhere}: "):
            await dial(nowhere, Side().callbacks)

    run(story())


# --- addresses ------------------------------------------------------------------------------------


def test_addresses_are_read_and_written() -> None:
    assert parse_address("tcp:example.org:7300") == TcpAddress("example.org", 7_300)
    assert parse_address("tcp:[::1]:0") == TcpAddress("::1", 0)
    assert parse_address("unix:/a/b:c") == UnixAddress("/a/b:c")
    for text in ("tcp:h:1", "tcp:[::1]:7300", "unix:relative/s"):
        assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "tcp", "tcp:", "tcp:host", "tcp::1", "tcp:h:x", "tcp:h:-1", "tcp:h:65536"),
        *("tcp:::1:80", "tcp:h:²", "unix:", "unix:a\0b", "http://h:1", "/a/b"),
    ],
)
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(InvalidSettings, match="is neither tcp:HOST:PORT nor unix:PATH"):
        parse_address(text)


def test_a_listener_tells_its_real_port_and_a_second_one_is_refused(run: Run) -> None:
    async def story() -> None:
        listener = await listen("tcp:127.0.0.1:0", Side().callbacks)
        port = parse_address(listener.address)
        assert isinstance(port, TcpAddress)
        assert port.port > 0
        with pytest.raises(OSError, match=f"{listener.address} is in use") as caught:
            await listen(listener.address, Side().callbacks)
        assert caught.value.errno == errno.EADDRINUSE
        await listener.aclose()
        again = await listen(listener.address, Side().callbacks)
        await again.aclose()

    run(story())


def test_a_live_unix_socket_is_refused_and_a_stale_one_replaced(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        address = f"unix:{tmp_path}/s"
        listener = await listen(address, Side().callbacks)
        with pytest.raises(OSError, match=f"{address} is in use"):
            await listen(address, Side().callbacks)
        link = await dial(address, Side().callbacks)  # the refused one did no harm
        await link.aclose()
        await listener.aclose()
        assert files(tmp_path) == []
        addresses.listen_unix(f"{tmp_path}/s", backlog=1).close()  # as a killed process leaves it
        assert files(tmp_path) == ["s"]
        listener = await listen(address, Side().callbacks)
        await (await dial(address, Side().callbacks)).aclose()
        await listener.aclose()
        assert files(tmp_path) == []

    run(story())


def test_a_file_that_is_no_socket_is_left_alone(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "s").write_text("precious")
        with pytest.raises(FileExistsError, match="no socket; it is left alone"):
            await listen(f"unix:{tmp_path}/s", Side().callbacks)
        assert files(tmp_path) == ["s"]

    run(story())
    assert (tmp_path / "s").read_text() == "precious"


def test_closing_leaves_the_socket_file_of_a_successor(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        old = await listen(f"unix:{tmp_path}/s", Side().callbacks)
        os.unlink(f"{tmp_path}/s")
        new = await listen(f"unix:{tmp_path}/s", Side().callbacks)
        await old.aclose()
        await (await dial(new.address, Side().callbacks)).aclose()
        await new.aclose()

    run(story())


def test_a_live_socket_taken_aside_by_mistake_is_put_back(tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    with addresses.listen_unix(path, backlog=1):
        addresses._remove_stale(path)
        addresses.connect_unix(path).close()
    addresses._remove_stale(path)
    assert files(tmp_path) == []


def test_without_hard_links_a_live_socket_is_still_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    path = f"{tmp_path}/s"
    with addresses.listen_unix(path, backlog=1):
        with pytest.raises(OSError, match="is in use"):
            addresses.listen_unix(path, backlog=1)
        addresses.connect_unix(path).close()
    addresses.listen_unix(path, backlog=1).close()
    assert files(tmp_path) == ["s"]


@pytest.mark.parametrize("open_files", ["/proc/self/fd", "/nonexistent"])
def test_unix_paths_longer_than_a_socket_address_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_files: str
) -> None:
    async def story() -> None:
        directory = tmp_path / ("d" * 100) / ("e" * 100)
        directory.mkdir(parents=True)
        address = f"unix:{directory}/engine.sock"
        server, client = Echo(), Side()
        listener = await listen(address, server.callbacks)
        assert listener.address == address
        link = await dial(address, client.callbacks)
        link.send(1, b"far away")
        await client.until(lambda: client.messages)
        with pytest.raises(OSError, match="is in use"):
            await listen(address, server.callbacks)
        await link.aclose()
        await listener.aclose()
        assert files(directory) == []

    monkeypatch.setattr(addresses, "_OPEN_FILES", open_files)
    run(story())


def test_a_file_name_too_long_for_any_socket_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long for a unix socket"):
        addresses.connect_unix(f"{tmp_path}/{'n' * 120}")


# --- peers ----------------------------------------------------------------------------------------


class PeerSide(Changes):
    """What is called about one peer."""

    def __init__(
        self,
        address: str,
        *,
        settings: LinkSettings | None = None,
        jitter: Callable[[], float] = lambda: 0.0,
    ) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.messages: list[bytes] = []
        callbacks = PeerCallbacks(
            on_messages=self.on_messages,
            on_up=lambda peer: self.call("up", peer),
            on_down=lambda peer: self.call("down", peer),
            on_clogged=lambda peer: self.call("clogged", peer),
            on_clear=lambda peer: self.call("clear", peer),
        )
        self.peer = Peer(address, callbacks, jitter=jitter, settings=settings or LinkSettings())

    def call(self, name: str, peer: Peer) -> None:
        assert peer is self.peer
        assert peer.up == (name != "down")
        self.calls.append(name)
        self.changed()

    def on_messages(self, peer: Peer, messages: list[WireMessage]) -> None:
        assert peer is self.peer
        self.messages += [bytes(head) for _, head, _ in messages]
        self.changed()


def test_a_peer_connects_once_somebody_listens_and_reconnects_after_a_loss(
    run: Run, tmp_path: Path
) -> None:
    async def story() -> None:
        address = f"unix:{tmp_path}/s"
        side = PeerSide(address)
        peer = side.peer
        assert not peer.send(1, b"nobody hears it")
        peer.start()
        for _ in range(2):
            server = Echo()
            listener = await listen(address, server.callbacks)
            await side.until(lambda: peer.up)
            assert peer.send(1, b"ping")
            await side.until(lambda: len(side.messages) == len(side.calls[::2]))
            await listener.aclose()
            await side.until(lambda: not peer.up)
            assert not peer.send(1, b"lost")
        assert side.calls == ["up", "down"] * 2
        stats = peer.stats()
        assert (stats.refused, stats.losses) == (3, {Loss.PEER_CLOSED: 2})
        assert stats.dials >= 2
        assert stats.link is None
        await peer.aclose()

    run(story())


def test_a_peer_closed_while_up_is_down_once_and_for_good(run: Run) -> None:
    async def story() -> None:
        server = Side()
        listener = await listen("tcp:127.0.0.1:0", server.callbacks)
        side = PeerSide(listener.address)
        side.peer.start()
        await side.until(lambda: side.peer.up)
        side.peer.send(1, b"last words")
        await side.peer.aclose()
        assert side.calls == ["up", "down"]
        await server.until(lambda: server.errors)
        assert server.messages == [(1, b"last words", [])]
        assert not side.peer.send(1, b"too late")
        assert side.peer.stats().dials == 1
        await side.peer.aclose()
        await listener.aclose()

    run(story())


@pytest.mark.parametrize("started", [True, False])
def test_a_peer_closed_before_it_was_up_was_never_down(run: Run, started: bool) -> None:
    async def story() -> None:
        side = PeerSide("tcp:127.0.0.1:1")
        if started:
            side.peer.start()
            await asyncio.sleep(0)
        await side.peer.aclose()
        assert side.calls == []

    run(story())


def test_a_peer_closed_in_the_middle_of_connecting_ends_all_the_same(
    run: Run, address: str
) -> None:
    """uvloop closes a connection whose making was cancelled, and does not tell its protocol."""

    async def story() -> None:
        listener = await listen(address, Side().callbacks)
        for turns in range(12):
            side = PeerSide(listener.address)
            side.peer.start()
            for _ in range(turns):
                await asyncio.sleep(0)
            await side.peer.aclose()
            assert side.calls in ([], ["up", "down"])
        await listener.aclose()

    run(story())


def test_a_peer_remembers_why_it_cannot_connect(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        strange = await stranger_at(f"{tmp_path}/s", b"HTTP/1.1 400 Bad Request")
        jitters: asyncio.Queue[float] = asyncio.Queue()  # one is asked for after each failed dial

        def jitter() -> float:
            jitters.put_nowait(0.0)
            return 0.0

        side = PeerSide(f"unix:{tmp_path}/s", jitter=jitter)
        side.peer.start()
        for _ in range(2):
            await jitters.get()
        stats = side.peer.stats()
        assert stats.last_error is not None
        assert "the stream starts with" in stats.last_error
        assert stats.losses[Loss.GARBAGE] >= 2
        assert side.calls == []
        await side.peer.aclose()
        strange.close()
        await strange.wait_closed()

    run(story())


def test_a_peer_that_is_aborted_dials_again(run: Run) -> None:
    async def story() -> None:
        listener = await listen("tcp:127.0.0.1:0", Side().callbacks)
        side = PeerSide(listener.address)
        side.peer.start()
        await side.until(lambda: side.peer.up)
        side.peer.abort(RemoteProtocolError("of another cluster"))
        await side.until(lambda: side.calls == ["up", "down", "up"])
        stats = side.peer.stats()
        assert stats.losses == {Loss.GARBAGE: 1}
        assert stats.last_error == "the other side broke the protocol: of another cluster"
        await side.peer.aclose()
        await listener.aclose()

    run(story())


def test_a_peer_tells_when_it_is_clogged_and_clear_again(run: Run) -> None:
    async def story() -> None:
        server = Side()
        listener = await listen("tcp:127.0.0.1:0", server.callbacks)
        side = PeerSide(listener.address, settings=LinkSettings(clogged_bytes=100_000))
        side.peer.start()
        await side.until(lambda: side.peer.up)
        await server.until(lambda: server.links)
        server.links[0].pause_reading()
        while not side.peer.clogged:
            side.peer.send(1, bytes(50_000))
            await asyncio.sleep(0)
        server.links[0].resume_reading()
        await side.until(lambda: not side.peer.clogged)
        assert side.calls == ["up", "clogged", "clear"]
        await side.peer.aclose()
        await listener.aclose()

    run(story())


def test_redials_back_off_to_a_bound() -> None:
    delays_s = [redial_delay_s(failures, 0.0) for failures in range(8)]
    assert delays_s == [0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0]
    assert redial_delay_s(10**9, 0.0) == 1.0
    assert redial_delay_s(10**9, 0.999) == pytest.approx(0.5, rel=0.01)


def test_a_queue_smaller_than_its_clogged_mark_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="queue_bytes_max=1000 is less than clogged_bytes"):
        LinkSettings(queue_bytes_max=1_000)


def test_a_connection_that_ends_while_it_is_made_closes_its_descriptor_once(
    run: Run, tmp_path: Path
) -> None:
    """uvloop closes it and does not tell the socket, which would close it again: by then the number
    is that of another connection or of a journal."""

    async def story() -> None:
        listener = await listen(f"unix:{tmp_path}/s", Side().callbacks)
        before = os.open(os.devnull, os.O_RDONLY)
        ledger = Ledger(closing=True)  # the link ends itself as soon as it is made
        with pytest.raises(NodeUnreachable):
            await _dial(
                listener.address,
                Side().callbacks,
                settings=LinkSettings(),
                timeout_s=1.0,
                ledger=ledger,
            )
        for _ in range(5):
            await asyncio.sleep(0)
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
        gc.collect()
        for file in (before, *files):
            os.close(file)  # raises if somebody has closed it
        await listener.aclose()

    run(story())


def test_an_address_of_another_machine_is_named(run: Run) -> None:
    async def story() -> None:
        with pytest.raises(OSError, match=r"tcp:192\.0\.2\.1:7300 cannot be listened on: "):
            await listen("tcp:192.0.2.1:7300", Side().callbacks)

    run(story())
