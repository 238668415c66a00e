from __future__ import annotations

from pathlib import Path

from bokilog.functions.runtime.membership import (
    SILENT_S,
    HostRecord,
    Hosts,
    decode_host,
    encode_host,
    reachable,
)

ONE = HostRecord("host-1", ["unix:/nowhere/host.sock", "tcp:10.0.0.1:7400"], ["f"], True)


def test_a_record_comes_back_and_garbage_is_none() -> None:
    assert decode_host(encode_host(ONE)) == ONE
    for garbage in (b"", b"\xc1", b"\x93\x01\x02\x03", encode_host(ONE)[:-1]):
        assert decode_host(garbage) is None


def test_the_last_record_of_a_host_counts() -> None:
    hosts = Hosts()
    hosts.apply(ONE, 1_000)
    hosts.apply(ONE._replace(addresses=["tcp:10.0.0.2:1"]), 2_000)
    assert hosts.present(3_000)["host-1"].addresses == ["tcp:10.0.0.2:1"]
    hosts.apply(ONE._replace(present=False), 3_000)
    assert hosts.present(3_000) == {}


def test_a_host_that_was_silent_for_long_is_gone() -> None:
    hosts = Hosts()
    hosts.apply(ONE, 0)
    assert "host-1" in hosts.present(round(SILENT_S * 1e3))
    assert hosts.present(round(SILENT_S * 1e3) + 1) == {}


def test_a_unix_socket_is_dialled_only_where_it_is(tmp_path: Path) -> None:
    assert reachable(ONE) == "tcp:10.0.0.1:7400"
    socket = tmp_path / "host.sock"
    socket.touch()
    here = ONE._replace(addresses=["tcp:10.0.0.1:7400", f"unix:{socket}"])
    assert reachable(here) == f"unix:{socket}"
    assert reachable(ONE._replace(addresses=[])) == ""
