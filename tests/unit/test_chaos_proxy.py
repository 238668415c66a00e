"""The proxy of chaos rounds cuts, delays and resets what it should; silences are measured right."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.proxy import Gate, Proxy
from tests.chaos.silence import _longest

TIMEOUT_S = 10.0
SHORT_S = 0.05
pytestmark = [pytest.mark.slow]


class Pair:
    """A client's socket and the one behind the proxy."""

    def __init__(self, proxy: Proxy, listening: socket.socket) -> None:
        host, port = proxy.addresses[0].removeprefix("tcp:").rsplit(":", 1)
        self.near = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
        self.far, _ = listening.accept()
        self.far.settimeout(TIMEOUT_S)

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def behind() -> Iterator[tuple[Proxy, Pair]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(TIMEOUT_S)
        target = f"tcp:127.0.0.1:{listening.getsockname()[1]}"
        gate = Gate(acceptor="b", listen="tcp:127.0.0.1:0", target=target, dialler="a")
        with Proxy([gate]) as proxy:
            pair = Pair(proxy, listening)
            yield proxy, pair
            pair.close()


def test_a_cut_holds_one_direction_back_and_loses_nothing(behind: tuple[Proxy, Pair]) -> None:
    proxy, pair = behind
    pair.near.sendall(b"one")
    assert pair.far.recv(10) == b"one"
    proxy.cut("a", "b")
    pair.near.sendall(b"two")
    pair.far.settimeout(SHORT_S)
    with pytest.raises(TimeoutError):
        pair.far.recv(10)
    pair.far.sendall(b"back")
    assert pair.near.recv(10) == b"back"
    proxy.mend("a", "b")
    pair.far.settimeout(TIMEOUT_S)
    assert pair.far.recv(10) == b"two"


def test_a_delay_is_one_and_a_reset_ends_the_connection(behind: tuple[Proxy, Pair]) -> None:
    proxy, pair = behind
    proxy.delay("a", "b", 0.2)
    started_s = time.monotonic()
    pair.near.sendall(b"late")
    assert pair.far.recv(10) == b"late"
    assert time.monotonic() - started_s >= 0.2  # no load makes it shorter
    proxy.heal()
    proxy.reset("b", "a")
    assert pair.far.recv(10) == b""


def test_a_gate_needs_nobody_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    gate = Gate(acceptor="b", listen=f"unix:{path}", target=f"unix:{tmp_path}/nobody")
    with Proxy([gate]), socket.socket(socket.AF_UNIX) as near:
        near.settimeout(TIMEOUT_S)
        near.connect(str(path))
        assert near.recv(10) == b""


@pytest.mark.parametrize(
    ("acks", "longest"),
    [
        ([0.9, 1.5, 1.6], 0.6),
        ([0.9, 1.1, 4.0], 2.9),
        ([0.9, 1.1, 1.2, 9.0], 7.8),
        ([1.1, 1.2, 2.1, 9.0], 6.9),
    ],
)
def test_a_silence_ends_with_the_first_ack_after_it(acks: list[float], longest: float) -> None:
    """From the ack before the kill at 1.0, up to 3.0 or the first one after that."""
    assert _longest(acks, 1.0, 3.0) == pytest.approx(longest, abs=1e-9)
